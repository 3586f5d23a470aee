"""The table of broken adapters × the contract tests that caught them: ``python -m tests.contract.table``.

``--all`` tries all rules on each adapter, not only those that are there to catch it; ``--first`` is content with one
catch an adapter.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["CONTROLS", "Caught", "run", "shown"]

Caught = dict[str, list[str]]
"""The tests that failed, by adapter; an adapter on which all passed has none."""

_SUITE = Path(__file__).with_name("broken_suite.py")
CONTROLS = ("NothingBroken", "CacheNothingBroken")
"""What is not broken, and must not be caught."""


def run() -> Caught:
    """Run the suite on all broken adapters, in a pytest of its own, until each is caught; return which test caught it.

    A control is not to be caught: all tests run on it.
    """
    command = [sys.executable, "-m", __name__, "--first", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    if done.returncode:
        raise RuntimeError(f"the suite did not run:\n{done.stdout}\n{done.stderr}")
    caught: Caught = json.loads(done.stdout.splitlines()[-1])
    return caught


def shown(caught: Caught) -> str:
    """Return the table as text."""
    lines = []
    for adapter, tests in caught.items():
        lines.append(
            f"{adapter:<32} {tests[0] if tests else 'NOT CAUGHT' if adapter not in CONTROLS else '(all passed)'}"
        )
        lines += [f"{'':<32} {test}" for test in tests[1:]]
    broken = caught.keys() - {*CONTROLS}
    lines.append(f"{len(broken)} broken adapters, {sum(map(bool, map(caught.get, broken)))} of them caught")
    return "\n".join(lines)


class _Recorder:
    """A pytest plugin that notes which tests failed."""

    def __init__(self, first_only: bool) -> None:
        self.caught: Caught = {}
        self._first_only = first_only

    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Leave out what is left to try on an adapter that is caught already, where one catch is enough."""
        return (self._first_only and bool(self.caught.get(_split(item.nodeid)[0]))) or None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note one phase of one test."""
        adapter, test = _split(report.nodeid)
        tests = self.caught.setdefault(adapter, [])
        if report.failed and test not in tests:
            tests.append(test)


def _split(nodeid: str) -> tuple[str, str]:
    _, adapter, test = nodeid.split("::", 2)
    return adapter.removeprefix("Test"), test.removeprefix("test_")


def _run_here() -> Caught:
    recorder = _Recorder(first_only="--first" in sys.argv)
    if "--all" in sys.argv:
        os.environ["FLOW_BROKEN"] = "all"
    # No settings of this project, and nothing of pytest's that costs time and is of no use here.
    quiet = ["-q", "--no-header", "--no-summary", "--tb=no", "-p", "no:terminalreporter", "-W", "ignore"]
    unneeded = (
        "cacheprovider",
        "asyncio",
        "anyio",
        "timeout",
        "xdist",
        "unraisableexception",
        "randomly",
        "rerunfailures",
    )
    off = [f"-pno:{name}" for name in unneeded]
    with _stdout_on_stderr():
        outcome = pytest.main(
            ["-c", os.devnull, "--rootdir", str(_SUITE.parent), *quiet, *off, str(_SUITE)], [recorder]
        )
    if outcome not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        raise SystemExit(f"pytest ended with {outcome!r}")
    return recorder.caught


@contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    before, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout = before


if __name__ == "__main__":
    result = _run_here()
    print(json.dumps(result) if "--json" in sys.argv else shown(result))
