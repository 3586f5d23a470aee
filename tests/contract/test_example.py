"""The example of an adapter of one's own passes the contract, and fails it when one line of it is broken."""

import functools
import shutil
from pathlib import Path

import pytest

from tests.inner import RunPytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_adapter"
ADAPTER = "directory_storage.py"

BROKEN_LINES = {
    "clock.now_ms() >= self.expires_at": ("clock.now_ms() > self.expires_at", "get_gives_none_from_expiry_on"),
    "return sorted(one.key for": ("return list(one.key for", "keys_are_a_sorted_list"),
    "key = rules.checked_key(key)": ("key = str(key)", "illegal_keys_are_refused_by_set"),
}


@pytest.fixture
def run_example(pytester: pytest.Pytester, run_pytest: RunPytest) -> RunPytest:
    pytester.makeini("[pytest]\nfilterwarnings = error")
    left_out = [f"-pno:{name}" for name in ("cacheprovider", "asyncio", "randomly")]
    return functools.partial(run_pytest, "-q", "-rfs", *left_out)


@pytest.fixture
def copied(pytester: pytest.Pytester) -> Path:
    shutil.copytree(EXAMPLE, pytester.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return pytester.path / ADAPTER


@pytest.mark.usefixtures("copied")
def test_it_passes(run_example: RunPytest) -> None:
    result = run_example()
    outcomes = result.parseoutcomes()
    assert result.ret == 0
    assert outcomes["passed"] > 100
    result.stdout.fnmatch_lines(["*lacks entries: a file keeps no creation time and no metadata"])


@pytest.mark.parametrize("line", BROKEN_LINES)
def test_it_fails_with_a_broken_line(run_example: RunPytest, copied: Path, line: str) -> None:
    broken, caught_by = BROKEN_LINES[line]
    code = copied.read_text()
    assert line in code
    copied.write_text(code.replace(line, broken))
    result = run_example("-k", caught_by)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["the storage contract is broken:", f"FAILED *test_{caught_by}*"])
