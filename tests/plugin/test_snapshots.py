"""One snapshot serves all storages, with each of the libraries for that; docs/testing.md has the same recipes."""

import re
from pathlib import Path

import pytest

from tests.inner import InnerRun

DOCS = Path(__file__).parents[2] / "docs" / "testing.md"
SYRUPY, REGRESSIONS, INLINE = re.findall(
    r"^```python\n(.*?)^```$", DOCS.read_text().partition("### Snapshots")[2], re.DOTALL | re.MULTILINE
)[:3]


@pytest.fixture
def run(pytester: pytest.Pytester, inner: InnerRun) -> InnerRun:
    """Run a test file on two storages, beside the plugins that other runs leave out."""

    def run_on_two(code: str, *arguments: str) -> pytest.RunResult:
        return inner(code, "--storage-backends=memory,sqlite", *arguments, companions=True)

    return run_on_two


def test_syrupy_keeps_one_snapshot_for_all_storages(run: InnerRun, pytester: pytest.Pytester) -> None:
    assert run(SYRUPY, "--snapshot-update").ret == 0
    [file] = pytester.path.glob("__snapshots__/*.ambr")
    assert file.read_text().count("# name: ") == 1
    run(SYRUPY).assert_outcomes(passed=2)


def test_pytest_regressions_keeps_one_file_for_all_storages(run: InnerRun, pytester: pytest.Pytester) -> None:
    run(REGRESSIONS, "--force-regen")
    [file] = pytester.path.glob("test_inner/*.yml")
    assert file.name == "test_orders.yml"
    run(REGRESSIONS).assert_outcomes(passed=2)


def test_inline_snapshot_needs_nothing(run: InnerRun) -> None:
    pytest.importorskip("inline_snapshot", reason="inline-snapshot, which leaves folders behind, is not always there")
    run(INLINE).assert_outcomes(passed=2)
