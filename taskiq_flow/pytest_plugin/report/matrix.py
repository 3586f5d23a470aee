"""``Matrix``: what each test did on each storage; it may be written as JSON, read again, and merged with others."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from taskiq_flow.pytest_plugin.stores import built_in

__all__ = ["Matrix", "Outcome", "UnreadableReport", "backend_in", "test_name"]

_FORMAT = 1
# From what says least to what says most: of two outcomes of one test on one storage, the latter is kept.
_WEIGHT = ("skipped", "passed", "xfailed", "xpassed", "failed", "error")
_FAILURES = ("failed", "error")
_SAYS_NOTHING = "skipped"


class UnreadableReport(ValueError):  # noqa: N818 - it is what it says
    """A file is no report of this plugin's."""


class Outcome(NamedTuple):
    """What one test did on one storage."""

    outcome: str
    """``passed``, ``failed``, ``error`` (in a fixture), ``skipped``, ``xfailed`` or ``xpassed``."""
    seconds: float = 0.0
    """What its fixtures and itself took."""
    reason: str = ""
    """Why it did not pass, in a line."""
    details: str = ""
    """The same, as pytest shows it."""

    def followed_by(self, phase: "Outcome") -> "Outcome":
        """Return the outcome of a test that went on with another phase: setup, call or teardown."""
        if self.outcome in _FAILURES:  # what comes after a failure may well come of it
            return self._replace(seconds=self.seconds + phase.seconds)
        says_more = _WEIGHT.index(phase.outcome) > _WEIGHT.index(self.outcome) or bool(phase.reason and not self.reason)
        telling = phase if says_more else self
        return Outcome(telling.outcome, self.seconds + phase.seconds, telling.reason, telling.details)


class Matrix:
    """Tests × storages.

    :param servers: what each storage was: program, version and origin.
    :param tests: each test's outcomes, by storage.
    """

    def __init__(
        self, servers: dict[str, str] | None = None, tests: dict[str, dict[str, Outcome]] | None = None
    ) -> None:
        self.servers = servers or {}
        self.tests = tests or {}

    @property
    def backends(self) -> list[str]:
        """The storages that tests ran on, in the plugin's order."""
        used = {name for outcomes in self.tests.values() for name in outcomes}
        known = [kind.name for kind in built_in()]
        return [name for name in known if name in used] + sorted(used.difference(known))

    def diverging(self) -> Iterator[str]:
        """Yield the tests that did not do the same on every storage; where one was skipped, it did nothing."""
        for test, outcomes in self.tests.items():
            if len({each.outcome for each in outcomes.values()} - {_SAYS_NOTHING}) > 1:
                yield test

    def merge(self, other: "Matrix") -> None:
        """Add what another run, or job of a CI, has seen; where both ran a test on a storage, the worse counts."""
        for backend, theirs in other.servers.items():
            ours = self.servers.get(backend, theirs)
            self.servers[backend] = "; ".join(dict.fromkeys([*ours.split("; "), *theirs.split("; ")]))
        for test, outcomes in other.tests.items():
            mine = self.tests.setdefault(test, {})
            for backend, outcome in outcomes.items():
                mine[backend] = max(outcome, mine.get(backend, outcome), key=lambda one: _WEIGHT.index(one.outcome))

    def sort(self, order: Iterable[str]) -> None:
        """Put the tests in that order; those that are not in it are the last."""
        self.tests = {test: self.tests[test] for test in (*dict.fromkeys(order), *self.tests)}

    def to_json(self) -> str:
        """Return the whole as JSON."""
        tests = {
            test: {name: outcome._asdict() for name, outcome in outcomes.items()}
            for test, outcomes in self.tests.items()
        }
        return json.dumps({"taskiq_flow_matrix": _FORMAT, "servers": self.servers, "tests": tests}, indent=1)

    @classmethod
    def read(cls, file: Path) -> "Matrix":
        """Return what `to_json` wrote.

        :raises OSError: if the file cannot be read.
        :raises UnreadableReport: it holds something else.
        """
        try:
            data: Any = json.loads(file.read_bytes())
            if data["taskiq_flow_matrix"] != _FORMAT:
                raise UnreadableReport(f"{file} is a report of another version of this plugin")
            tests = {
                str(test): {str(name): _outcome(told) for name, told in outcomes.items()}
                for test, outcomes in data["tests"].items()
            }
            return cls({str(name): str(server) for name, server in data["servers"].items()}, tests)
        except UnreadableReport:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise UnreadableReport(f"{file} is no report that --storage-report=….json wrote") from None


def _outcome(told: Any) -> Outcome:
    outcome = Outcome(str(told["outcome"]), float(told["seconds"]), str(told["reason"]), str(told["details"]))
    if outcome.outcome not in _WEIGHT:
        raise ValueError(outcome.outcome)
    return outcome


def test_name(nodeid: str, backend: str) -> str:
    """Return a test's id without its storage: ``test_it[memory-1]`` on ``memory`` is ``test_it[1]``."""
    name, bracket, parameters = nodeid.partition("[")
    parts = parameters.removesuffix("]").split("-")
    if not bracket or backend not in parts:
        return nodeid
    parts.remove(backend)
    return f"{name}[{'-'.join(parts)}]" if parts else name


def backend_in(nodeid: str) -> str:
    """Return the first parameter in a test's id, which names its storage if it has one."""
    return nodeid.partition("[")[2].removesuffix("]").partition("-")[0]


test_name.__test__ = False  # type: ignore[attr-defined]  # pytest is not to take it for a test where it is imported
