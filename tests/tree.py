"""The tree in CONTRIBUTING.md, a line for each file: ``make tree`` writes it anew.

A module's line is the first sentence of its docstring; that of any other file or folder is the one that stands there.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

__all__ = ["named"]

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
_TREE = re.compile(r"(?<=^## The tree\n\n```text\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
_COLUMN = 38


def named() -> dict[str, str]:
    """Return the files and folders that CONTRIBUTING.md names, and what it says of each."""
    found, parents = {}, list[str]()
    for line in _text().splitlines():
        name, _, told = line.strip().partition("  ")
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name]
        found["".join(parents)] = told.strip()
    return found


def _text() -> str:
    tree = _TREE.search(PAGE.read_text())
    assert tree, "CONTRIBUTING.md has a section 'The tree', which is a block of text"
    return tree[0]


def _lines(files: list[str]) -> Iterator[str]:
    told, seen = named(), set[str]()
    for file in files:
        for path in accumulate(re.findall(r"[^/]+/?", file)):
            if path not in seen:
                seen.add(path)
                name = "  " * path.rstrip("/").count("/") + re.findall(r"[^/]+/?", path)[-1]
                said = _first_sentence(ROOT / path) if path.endswith(".py") else told.get(path, "")
                yield f"{name:<{_COLUMN}}  {said}".rstrip()


def _first_sentence(module: Path) -> str:
    docstring = (ast.get_docstring(ast.parse(module.read_text())) or "").replace("\n", " ")
    sentence = re.split(r"\.(?:\s|$)", docstring, maxsplit=1)[0]
    return re.sub(r":\w+:`~?([^`]+)`", r"\1", sentence).replace("``", "")


if __name__ == "__main__":
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    # An empty module says nothing.
    files = [file for file in listed.splitlines() if not file.endswith("__init__.py") or (ROOT / file).stat().st_size]
    tree = "".join(f"{line}\n" for line in _lines(files))
    PAGE.write_text(_TREE.sub(lambda _: tree, PAGE.read_text()))
