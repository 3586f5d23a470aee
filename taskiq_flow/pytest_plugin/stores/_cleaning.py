"""When what tests left is removed: now and then while the run lasts, at its end, or by the next run."""

from collections.abc import Callable
from contextlib import suppress

from taskiq_flow.pytest_plugin.stores.base import Cleaner, Process

__all__ = ["PeriodicCleaning"]

_TESTS = 50
"""After how many tests what they left is removed at once: no other test sees it, and waiting costs each the same."""


class PeriodicCleaning:
    """Cleans one server or file for one process of a run.

    :param process: whose tests' entries are removed.
    :param make_cleaner: makes the cleaner, on first use.
    """

    def __init__(self, process: Process, make_cleaner: Callable[[], Cleaner]) -> None:
        self._process = process
        self._make_cleaner = make_cleaner
        self._cleaner: Cleaner | None = None
        self._tests = 0

    @property
    def cleaner(self) -> Cleaner:
        """The cleaner, whose connections stay open from test to test."""
        if self._cleaner is None:
            self._cleaner = self._make_cleaner()
        return self._cleaner

    def test_is_over(self) -> None:
        """Count a test, and remove what this and those before it left, once for many."""
        self._tests += 1
        if self._tests == _TESTS:
            self._tests = 0
            self._process.background.run(self.cleaner.clean(self._process.prefix))

    def clean_stale(self) -> None:
        """Remove what killed runs of this machine left."""
        self._process.background.run(self.cleaner.clean_stale())

    def finish(self) -> None:
        """Remove all that the run left."""
        self._process.background.run(self.cleaner.finish(self._process.run.id))

    def close(self) -> None:
        """Close the connections."""
        if self._cleaner is not None:
            with suppress(Exception):  # of a server that died or hangs, nothing is left to close
                self._process.background.run(self._cleaner.close())
            self._cleaner = None
