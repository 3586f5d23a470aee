"""``Losses``: what a middleware could not keep, counted, kept, reported, and logged once for as long as it goes on."""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from taskiq import TaskiqMessage

from taskiq_flow.records.results import PIPELINE_ID

__all__ = ["Losses", "LostResult"]

_MAX_LOST = 1000


@dataclass(frozen=True)
class LostResult:
    """A result that was not stored, or not with its return value, or not cached."""

    task_id: str
    task_name: str
    pipeline_id: str | None
    reason: str


class Losses:
    """The losses of one middleware.

    :param logger: the middleware's.
    :param store: what the results go to, as in "the storage works again".
    :param fate: what becomes of a result that does not get there, as in "is lost".
    """

    count: int
    """How many results were lost since the middleware was made."""
    lost: "deque[LostResult]"
    """The last 1,000 of them, and of others that were added."""
    on_failure: "list[Callable[[LostResult], None]]"
    """Called with each, as it is lost."""

    def __init__(self, logger: logging.Logger, store: str, fate: str) -> None:
        self.count = 0
        self.lost = deque(maxlen=_MAX_LOST)
        self.on_failure = []
        self._logger = logger
        self._store = store
        self._fate = fate
        self._in_a_row = 0

    def failed(self, message: TaskiqMessage, reason: str) -> None:
        """Count a result that was lost because the store failed; the first in a row is logged."""
        self.count += 1
        self._in_a_row += 1
        if self._in_a_row == 1:
            self._logger.error(
                "the result of task %s (%s) %s: %s; further ones are counted, and not logged until the %s works again",
                message.task_name,
                message.task_id,
                self._fate,
                reason,
                self._store,
            )
        self.add(message, reason)

    def worked(self) -> None:
        """Note that the store works, which is logged after a failure."""
        if self._in_a_row:
            self._logger.warning("the %s works again; results that it did not keep: %d", self._store, self._in_a_row)
            self._in_a_row = 0

    def close(self) -> None:
        """Log how many results were lost last, if the store still fails."""
        if self._in_a_row:
            self._logger.error(
                "the %s still fails at shutdown; results that it did not keep: %d", self._store, self._in_a_row
            )

    def add(self, message: TaskiqMessage, reason: str) -> None:
        """Keep and report a result that was lost, whole or in part, though the store works."""
        lost = LostResult(message.task_id, message.task_name, message.labels.get(PIPELINE_ID), reason)
        self.lost.append(lost)
        for callback in self.on_failure:
            try:
                callback(lost)
            except Exception:
                self._logger.exception("the callback %r for lost results failed", callback)
