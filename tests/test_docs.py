"""The code that README and docs show runs: what defines tests as a test file of a user's, the rest as a script."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.inner import InnerRun

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE), 1)
]


def test_there_is_code_to_run() -> None:
    assert len(BLOCKS) > 5


@pytest.mark.parametrize("block", BLOCKS)
def test_code_block(block: str, inner: InnerRun, real_servers: list[str], tmp_path: Path) -> None:
    if "def test_" in block:
        result = inner(block, *real_servers)
        assert result.ret == 0
        assert result.parseoutcomes().keys() == {"passed"}
    else:
        command = [sys.executable, "-W", "error", "-c", block]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
