"""The table of broken adapters × the contract tests that caught them: ``python -m tests.contract.table [--all]``."""

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


def run(every_rule: bool = False) -> Caught:
    """Run the suite on all broken adapters, in a pytest of its own, and return which tests failed on which.

    :param every_rule: whether to try all rules on each adapter, not only those that are there to catch it.
    """
    command = [sys.executable, "-m", __name__, "--json", *(["--all"] if every_rule else [])]
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

    def __init__(self) -> None:
        self.caught: Caught = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note one phase of one test."""
        _, adapter, test = report.nodeid.split("::", 2)
        tests = self.caught.setdefault(adapter.removeprefix("Test"), [])
        name = test.removeprefix("test_")
        if report.failed and name not in tests:
            tests.append(name)


def _run_here(every_rule: bool) -> Caught:
    recorder = _Recorder()
    if every_rule:
        os.environ["TASKIQ_FLOW_BROKEN"] = "all"
    # No settings of this project, and nothing of pytest's that costs time and is of no use here.
    quiet = ["-q", "--no-header", "--no-summary", "--tb=no", "-p", "no:terminalreporter", "-W", "ignore"]
    off = [f"-pno:{name}" for name in ("cacheprovider", "asyncio", "anyio", "timeout", "xdist", "unraisableexception")]
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
    result = _run_here("--all" in sys.argv)
    print(json.dumps(result) if "--json" in sys.argv else shown(result))
