"""What the terminal says about storages: which will run, and at the end, how it went on each."""

from dataclasses import dataclass, field

import pytest

from taskiq_flow.pytest_plugin.options import BACKENDS

__all__ = ["BackendTotals", "header", "server_properties"]

_BACKEND = "storage_backend"
_SERVER = "storage_server"


def header(backends: tuple[str, ...], plans: dict[str, str], origin: str) -> str:
    """Return the report header's line: each backend, and where a real one comes from."""
    shown = ", ".join(f"{name} ({plans[name]})" if name in plans else name for name in backends)
    return f"storage backends: {shown}{f' [{origin}]' if origin else ''}"


def server_properties(name: str, *server: str) -> list[tuple[str, object]]:
    """Return what a test's report carries to the process that prints the totals, and to junitxml."""
    return [(_BACKEND, name), (_SERVER, ", ".join(filter(None, server)))]


@dataclass
class _Total:
    counts: dict[str, int] = field(default_factory=lambda: {"passed": 0, "failed": 0, "skipped": 0})
    seconds: float = 0.0
    server: str = ""


class BackendTotals:
    """A plugin that adds up the outcomes of storage tests, and prints a line a backend."""

    def __init__(self) -> None:
        self._totals: dict[str, _Total] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one report of one phase of a test."""
        properties = dict(report.user_properties)
        name = properties.get(_BACKEND)
        if not isinstance(name, str):
            return
        total = self._totals.setdefault(name, _Total())
        total.seconds += report.duration
        total.server = str(properties.get(_SERVER, "")) or total.server
        # A test counts once: by its call, or by a setup or teardown that did not pass.
        if report.when == "call" or not report.passed:
            total.counts[report.outcome] += 1

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the totals, where a test used a storage."""
        if lines := self.lines():
            terminalreporter.section("storage backends")
            for line in lines:
                terminalreporter.write_line(line)

    def lines(self) -> list[str]:
        """Return a line a backend: what passed, failed and was skipped, seconds, which server."""
        lines = []
        for name in BACKENDS:
            if (total := self._totals.get(name)) is not None:
                counts = ", ".join(f"{count} {outcome}" for outcome, count in total.counts.items() if count)
                lines.append(f"{name:<10} {counts} in {total.seconds:.2f}s  {total.server}".rstrip())
        return lines
