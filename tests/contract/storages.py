"""The table of storages × contract tests: ``python -m tests.contract.storages [arguments for pytest]``.

It runs the contract suite on every storage there is, in both modes of the SQL adapter, and on a Redis Cluster. What
each single test did on each backend of the plugin, the plugin tells: ``--storage-report=contract.html``.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

__all__ = ["Row", "Storages"]

FILES = ("test_backends.py", "test_sync_drivers.py", "test_cluster.py")
ROWS = {
    "TestEveryStorage": "{}",
    "TestDatabaseInThreads": "{}, async_mode=False",
    "TestSQLiteInThreads": "sqlite, async_mode=False",
    "TestSQLiteInMemory": "sqlite in memory",
    "TestSQLiteInMemoryInThreads": "sqlite in memory, async_mode=False",
    "TestRedisCluster": "redis cluster",
}
"""What the table calls the storage of a class of tests; other classes are parts of the suite."""


@dataclass
class Row:
    """What the suite did on one storage."""

    server: str = ""
    outcomes: dict[str, str] = field(default_factory=dict)
    """Each test's: passed, failed or skipped."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why tests were skipped, and how many."""

    def __str__(self) -> str:
        numbers = Counter(self.outcomes.values())
        told = ", ".join(f"{numbers[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))
        reasons = "".join(f"; {number} because: {reason}" for reason, number in self.reasons.items())
        return f"{told}{reasons}  {self.server}".rstrip()


class Storages:
    """A pytest plugin that notes what each contract test did on each storage, and shows the table in the end."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note one phase of one test."""
        _, kind, *_, test = report.nodeid.split("::")
        if kind not in ROWS or (report.passed and report.when != "call"):
            return
        properties = dict(report.user_properties)
        row = self.rows.setdefault(ROWS[kind].format(properties.get("storage_backend")), Row())
        row.server = str(properties.get("storage_server", ""))
        row.outcomes[test] = report.outcome
        if isinstance(report.longrepr, tuple):
            row.reasons[report.longrepr[2].removeprefix("Skipped: ")] += 1

    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        """Show the table."""
        terminalreporter.section("storages and the contract")
        for line in self.lines():
            terminalreporter.write_line(line)

    def lines(self) -> Iterator[str]:
        """Yield a line for each storage, and one for each test that failed on it."""
        width = max(map(len, self.rows), default=0)
        for storage, row in self.rows.items():
            yield f"{storage:<{width}}  {row}"
            for test, outcome in row.outcomes.items():
                if outcome == "failed":
                    yield f"{'':<{width}}  failed: {test}"


if __name__ == "__main__":
    files = [str(Path(__file__).with_name(name)) for name in FILES]
    on_all = ["--storage-backends=all", "--storage-require=all", "-m", "long or not long"]
    sys.exit(pytest.main([*files, *on_all, *sys.argv[1:]], [Storages()]))
