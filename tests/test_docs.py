"""The code that README and docs show runs: what defines tests as a test file of a user's, the rest as a script."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.inner import InnerRun

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = {
    f"{page.stem.replace('-', '_')}_{number}": block
    for page in PAGES
    # What is below that heading runs in plugin/test_snapshots.py, beside the plugins that it needs.
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```$", page.read_text().partition("### Snapshots")[0], re.DOTALL | re.MULTILINE),
        1,
    )
}
TEST_FILES = {f"test_{name}": block for name, block in BLOCKS.items() if "def test_" in block}
SCRIPTS = [pytest.param(block, id=name) for name, block in BLOCKS.items() if "def test_" not in block]


def test_test_files_pass(pytester: pytest.Pytester, inner: InnerRun, real_servers: list[str]) -> None:
    assert len(TEST_FILES) > 5
    pytester.makepyfile(**TEST_FILES)
    result = inner("", "-v", *real_servers)
    assert result.ret == 0
    assert result.parseoutcomes().keys() == {"passed"}
    assert set(re.findall(r"^(\w+)\.py::.* PASSED", result.stdout.str(), re.MULTILINE)) == TEST_FILES.keys()


@pytest.mark.parametrize("block", SCRIPTS)
def test_script_runs(block: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", block]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if target.startswith(PROJECT):
            assert (ROOT / target.removeprefix(PROJECT).partition("/main/")[2]).exists(), target
        elif not target.startswith("http"):
            assert page.name != "README.md", f"{target}: a package index shows the page without the project's files"
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
