"""What a run says about storages: which will run, how it went on each, and where they differ."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from taskiq_flow.pytest_plugin.options import Settings
from taskiq_flow.pytest_plugin.report.matrix import Matrix, Outcome, backend_in, test_name

__all__ = ["StorageReport", "header", "note", "note_fallback", "note_unavailable", "plan", "write"]

_BACKEND = "storage_backend"
_SERVER = "storage_server"
_UNAVAILABLE = "storage_unavailable"
_FALLBACK = "storage_fallback"
_NOTES = {_BACKEND, _SERVER, _UNAVAILABLE}
_NO_TOTALS = -2  # the verbosity, -qq, at which pytest keeps its own to itself
_OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
_CRASHED = "???"  # what pytest-xdist calls the phase in which a test crashed its worker
_STRANGE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]"
)  # colours of terminals, and control characters


def header(backends: tuple[str, ...], origin: str) -> str:
    """Return the report header's line: each backend, and where that was said."""
    return f"storage backends: {', '.join(backends)}{f' [{origin}]' if origin else ''}"


def plan(servers: dict[str, str]) -> list[str]:
    """Return the lines that say where each server is going to come from."""
    shown = ", ".join(f"{name} ({origin})" for name, origin in servers.items())
    return [f"storage servers: {shown}"]


def note(item: pytest.Item, name: str, *server: str) -> None:
    """Note what a test runs on: its report carries it to the process that prints the totals, and to junitxml."""
    # A plugin that runs a test again keeps what the first attempt noted.
    others = [each for each in item.user_properties if each[0] not in _NOTES]
    told = ", ".join(filter(None, server))
    item.user_properties[:] = [*others, (_BACKEND, name), *([(_SERVER, told)] if told else [])]


def note_unavailable(item: pytest.Item, reason: str) -> None:
    """Note that the storage that a test was to run on cannot run."""
    item.user_properties.append((_UNAVAILABLE, reason))


def note_fallback(item: pytest.Item, name: str) -> None:
    """Note that a test cannot be run once for each storage, and runs on this one only."""
    if (_FALLBACK, name) not in item.user_properties:
        item.user_properties.append((_FALLBACK, name))


def write(matrix: Matrix, file: Path) -> None:
    """Write the matrix to a file in the form of ``REPORT_FORMS`` that its name ends in.

    :raises OSError: that is not possible.
    """
    from taskiq_flow.pytest_plugin.report import html, text

    forms = {".json": Matrix.to_json, ".md": text.markdown, ".html": html.page}
    file.parent.mkdir(parents=True, exist_ok=True)
    # A test's words may be no text that can be encoded.
    file.write_text(forms[file.suffix](matrix), encoding="utf-8", errors="backslashreplace")


class StorageReport:
    """A plugin that notes what each test did on each storage, prints it, and writes the reports that were asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._matrix = Matrix()
        self._backends: dict[str, str] = {}
        self._collected: Sequence[str] = ()
        self._unavailable: dict[str, str] = {}
        self._on_one_only: dict[str, str] = {}
        self._unwritten: dict[Path, OSError] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Note the order of the tests, in which those that run in parallel do not come to their ends."""
        self._collected = ids

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note one phase of one test."""
        properties: dict[str, Any] = dict(report.user_properties)
        backend: Any = properties.get(_BACKEND)
        if report.when == _CRASHED:
            backend = self._backends.get(report.nodeid) or backend_in(report.nodeid)
        if backend not in self._settings.storages.kinds:  # a property of the user's own may have the same name
            return
        self._backends[report.nodeid] = backend
        if name := properties.get(_FALLBACK):
            self._on_one_only[report.nodeid] = str(name)
        if reason := properties.get(_UNAVAILABLE):
            self._unavailable[backend] = str(reason)
        if server := str(properties.get(_SERVER, "")):
            self._matrix.servers[backend] = server
        outcomes = self._matrix.tests.setdefault(test_name(report.nodeid, backend), {})
        before = outcomes.get(backend)
        if before is None or report.when == "setup":  # a plugin that runs a test again begins anew
            before = Outcome("skipped")
        outcomes[backend] = before.followed_by(_outcome(report))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports, whether or not there is a terminal to print a summary to."""
        if hasattr(session.config, "workerinput"):
            return  # the controller has them from all workers
        self._matrix.sort(test_name(test, self._backends[test]) for test in self._collected if test in self._backends)
        for file in self._settings.reports:
            try:
                write(self._matrix, file)
            except OSError as error:
                self._unwritten[file] = error
        if self._unwritten and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        """Print the totals and what differs, where a test used a storage."""
        if self._matrix.tests and terminalreporter.verbosity > _NO_TOTALS:
            from taskiq_flow.pytest_plugin.report import text

            terminalreporter.write_sep("=", "storage backends")
            for line in [*self.lines(), *text.divergences(self._matrix)]:
                terminalreporter.write_line(line)
        if self._settings.matrix:
            from taskiq_flow.pytest_plugin.report import text

            terminalreporter.write_sep("=", "storage matrix")
            for line in text.table(self._matrix):
                terminalreporter.write_line(line)
        for file in self._settings.reports:
            problem = self._unwritten.get(file)
            told = f" COULD NOT BE WRITTEN: {problem.strerror or problem}" if problem else ""
            terminalreporter.write_line(f"storage report: {file}{told}")

    def lines(self) -> list[str]:
        """Return a line a backend: how many passed, failed and so on, seconds, which server; or why it did not run."""
        lines = []
        seen = {name for outcomes in self._matrix.tests.values() for name in outcomes}
        for name in self._settings.storages.names:
            outcomes = [outcomes[name] for outcomes in self._matrix.tests.values() if name in outcomes]
            if not outcomes:
                continue
            numbers = {each: [outcome.outcome for outcome in outcomes].count(each) for each in _OUTCOMES}
            counts = ", ".join(f"{number} {outcome}" for outcome, number in numbers.items() if number)
            seconds = sum(outcome.seconds for outcome in outcomes)
            server = self._matrix.servers.get(name, "")
            lines.append(f"{name:<10} {counts} in {seconds:.2f}s  {server}".rstrip())
            if name in self._unavailable:
                lines.append(f"{'':<10} DID NOT RUN: {self._unavailable[name]}")
        for name in sorted({*self._on_one_only.values()}):
            count = [*self._on_one_only.values()].count(name)
            lines.append(
                f"{count} {'test' if count == 1 else 'tests'} ran on {name} only: pytest cannot run a TestCase, a "
                "doctest, or what calls request.getfixturevalue(), once for each storage (--storage-fallback)"
            )
        if missing := [name for name in self._settings.backends if name in self._settings.required - seen]:
            lines.append(f"required, but no test ran on: {', '.join(missing)}")
        return lines


def _outcome(report: pytest.TestReport) -> Outcome:
    """Return what one phase of a test says."""
    if report.outcome == "failed":
        in_fixture = report.when in {"setup", "teardown"}
        return Outcome(
            "error" if in_fixture else "failed", report.duration, _first_line(_crash(report)), _details(report)
        )
    if hasattr(report, "wasxfail"):
        told = "xpassed" if report.passed else "xfailed"
        reason = str(report.wasxfail).removeprefix("reason: ")
        return Outcome(told, report.duration, _first_line(reason), _details(report))
    if report.outcome == "skipped":
        told_by: Any = report.longrepr
        reason = str(told_by[2] if isinstance(told_by, tuple) else told_by).removeprefix("Skipped: ")
        return Outcome("skipped", report.duration, _first_line(reason))
    # A passed setup or teardown says nothing yet; nor does a failure that another plugin makes the test repeat.
    return Outcome("passed" if report.when == "call" and report.passed else "skipped", report.duration)


def _crash(report: pytest.TestReport) -> str:
    """Return what went wrong."""
    crash = getattr(report.longrepr, "reprcrash", None)
    # Not `longreprtext`, which begins with the name of xdist's worker.
    return str(crash.message if crash else report.longrepr or "")


def _details(report: pytest.TestReport) -> str:
    """Return what went wrong as pytest shows it, which costs too much to be asked of each test that passes."""
    return _STRANGE.sub("", report.longreprtext)


def _first_line(text: str) -> str:
    return next(iter(_STRANGE.sub("", text).strip().splitlines()), "")
