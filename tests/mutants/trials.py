"""The pytest plugin that tries mutants: each in a fork of one pytest that has imported and collected everything.

mutmut's own runner starts a pytest for each mutant, which takes more than a second with these tests; a fork takes a
few hundredths. It runs the tests that call the mutated function, first those that killed others of the same function,
then the quickest, and stops at the first failure. The process that is forked runs no test itself: each mutant finds the
same state.
"""

import faulthandler
import gc
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import pytest
from _pytest import main as pytest_main

from tests.mutants.mutate import Mutant
from tests.mutants.switch import called, switch_on

__all__ = ["Tell", "Trials"]

Tell = Callable[[Mutant, str, str, float], None]
"""Called with a mutant, what came of it (``killed``, ``timed out``, ``survived`` or ``not called``), the test that
killed it, and the seconds that this took."""

_BUDGET = 25.0
"""Seconds of tests for each mutant: a function that everything calls is judged by the quickest of all those tests."""


@dataclass
class _Trial:
    """A process that runs tests, on one mutant or on none."""

    pid: int
    pipe: int
    folder: str
    limit: float
    began: float = field(default_factory=time.monotonic)
    said: bytes = b""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


class Trials:
    """Tries mutants, instead of running the tests.

    :param may_judge: whether a test, by its id, is one of those for a mutant.
    :param jobs: how many processes work at a time.
    """

    def __init__(self, mutants: list[Mutant], may_judge: Callable[[Mutant, str], bool], jobs: int, tell: Tell) -> None:
        self._mutants = mutants
        self._may_judge = may_judge
        self._jobs = jobs
        self._tell = tell
        self._seconds: dict[str, float] = {}
        self._calls: defaultdict[str, list[str]] = defaultdict(list)
        self._kills: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def pytest_configure(self) -> None:
        """Let Hypothesis try the same examples on each mutant, and not search for the smallest one that fails."""
        from hypothesis import Phase, settings

        settings.register_profile("mutants", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
        settings.load_profile("mutants")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out the tests that judge none of the mutants."""
        files = {mutant.path: mutant for mutant in self._mutants}.values()
        items[:] = [item for item in items if any(self._may_judge(mutant, item.nodeid) for mutant in files)]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Try all mutants."""
        if session.testsfailed or not session.items:
            raise session.Interrupted("the tests cannot be collected")
        gc.collect()
        gc.freeze()
        self._learn_what_tests_call(session)
        waiting = self._mutants[::-1]
        running: list[tuple[Mutant, _Trial]] = []
        try:
            while waiting or running:
                while waiting and len(running) < self._jobs:
                    mutant = waiting.pop()
                    if tests := self._tests_for(mutant):
                        limit = 30 + 5 * sum(self._seconds[test] for test in tests)
                        running.append((mutant, _fork(session, mutant.name, tests, limit)))
                    else:
                        self._tell(mutant, "not called", "", 0.0)
                over = _wait_for([trial for _, trial in running])
                for mutant, trial in running:
                    if trial in over:
                        self._note(mutant, trial)
                running = [(mutant, trial) for mutant, trial in running if trial not in over]
        finally:
            for _, trial in running:
                _end(trial)
        return True

    def _learn_what_tests_call(self, session: pytest.Session) -> None:
        """Run all tests without a mutant, and note which functions each calls, and how long it takes."""
        trial = _fork(session, "", [item.nodeid for item in session.items], limit=3600)
        try:
            while not _wait_for([trial]):
                pass
        finally:
            _end(trial)
        said = _words(trial)
        if said["failed"]:
            raise session.Interrupted(f"without any mutant, {said['failed']} fails:\n{said['why']}")
        for test, (seconds, functions) in said["noted"].items():
            self._seconds[test] = seconds
            for function in functions:
                self._calls[function].append(test)

    def _tests_for(self, mutant: Mutant) -> list[str]:
        kills = self._kills[mutant.switch]
        tests = [test for test in self._calls[mutant.switch] if self._may_judge(mutant, test)]
        # An adapter's own tests before the contract, which is long, and much the same on every storage.
        tests.sort(key=lambda test: (-kills[test], "/contract/" in test, self._seconds[test]))
        spent = accumulate(self._seconds[test] for test in tests)
        return [test for test, seconds in zip(tests, spent, strict=True) if seconds < _BUDGET] or tests[:1]

    def _note(self, mutant: Mutant, trial: _Trial) -> None:
        _end(trial)
        said = _words(trial)
        self._kills[mutant.switch][said["failed"]] += 1
        outcome = "survived" if not said["failed"] else "timed out" if "pytest-timeout" in said["why"] else "killed"
        self._tell(mutant, outcome, said["failed"], trial.seconds)


class _Witness:
    """A pytest plugin that says what came of the tests: in one line, at the end or at the first failure."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._noted: dict[str, tuple[float, list[str]]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Note which functions a test calls, and how long it takes."""
        called.clear()
        _forget_what_is_cached()
        began = time.monotonic()
        result = yield
        self._noted[item.nodeid] = (time.monotonic() - began, sorted(called))
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """End where a test failed: whoever started this process clears up."""
        if report.failed:
            self._say({"failed": report.nodeid, "why": report.longreprtext[-4000:]})

    def all_passed(self) -> None:
        """Say that no test failed, and what they called."""
        self._say({"failed": "", "why": "", "noted": self._noted})

    def _say(self, what: dict[str, Any]) -> None:
        with os.fdopen(self._pipe, "w") as pipe:
            json.dump(what, pipe)
        os._exit(0)


def _forget_what_is_cached() -> None:
    """Let each test call what it needs itself, and not find what another one's call has left."""
    for name, module in list(sys.modules.items()):
        if name.startswith("taskiq_flow.storage"):
            for value in vars(module).values():
                if callable(forget := getattr(value, "cache_clear", None)):
                    forget()


def _fork(session: pytest.Session, mutant: str, tests: list[str], limit: float) -> _Trial:
    """Run tests in a process and process group of their own, with a folder for temporary files of their own."""
    folder = tempfile.mkdtemp(prefix="tf_mutant_")
    reading, writing = os.pipe()
    if pid := os.fork():
        os.close(writing)
        return _Trial(pid, reading, folder, limit)
    try:
        os.close(reading)
        os.setpgid(0, 0)
        _run(session, mutant, tests, folder, _Witness(writing))
    finally:
        os._exit(1)


def _run(session: pytest.Session, mutant: str, tests: list[str], folder: str, witness: _Witness) -> None:
    session.config.get_terminal_writer()._file = open(os.devnull, "w")  # noqa: SIM115 - as long as this process
    faulthandler.disable()
    tempfile.tempdir = os.environ["TMPDIR"] = os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
    session.config.pluginmanager.register(witness)
    items = {item.nodeid: item for item in session.items}
    session.items[:] = [items[test] for test in tests]
    switch_on(mutant)
    pytest_main.pytest_runtestloop(session)
    witness.all_passed()


def _wait_for(trials: list[_Trial]) -> list[_Trial]:
    """Return those that have ended, or used up their time; wait a little if none has."""
    ready, _, _ = select.select([trial.pipe for trial in trials], [], [], 1.0)
    over = []
    for trial in trials:
        part = os.read(trial.pipe, 1 << 20) if trial.pipe in ready else b""
        trial.said += part
        if (trial.pipe in ready and not part) or trial.seconds > trial.limit:
            over.append(trial)
    return over


def _words(trial: _Trial) -> dict[str, Any]:
    """Return what a process said; one that said nothing was ended by its mutant, or ran out of time."""
    with suppress(json.JSONDecodeError):
        said: dict[str, Any] = json.loads(trial.said)
        return said
    why = "pytest-timeout, or longer" if trial.seconds > trial.limit else "it ended by itself"
    return {"failed": "the process", "why": why}


def _end(trial: _Trial) -> None:
    with suppress(ProcessLookupError):
        os.killpg(trial.pid, signal.SIGKILL)
    os.waitpid(trial.pid, 0)
    os.close(trial.pipe)
    shutil.rmtree(trial.folder, ignore_errors=True)
