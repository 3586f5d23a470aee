"""One leader for each key of a cache object: of all callers in this process, the one that brings the value."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import NamedTuple

__all__ = ["Leader", "Leaders"]


class Leader(NamedTuple):
    """The caller that brings a value, for all others that ask for it until then: its waiters."""

    task: "asyncio.Task[object] | None"
    """The task that it runs in."""
    outcome: "Future[str | None]"
    """The value's text; None where the leader was cancelled. A Future of threads: waiters may be on other loops."""


class Leaders:
    """The leaders of one cache object, by key. Callers may be on several event loops."""

    def __init__(self) -> None:
        self._leaders: dict[str, Leader] = {}
        self._lock = threading.Lock()  # held for dictionary work only, never across an await

    def join(self, key: str) -> tuple[Leader, bool]:
        """Return the leader for a key, and whether it is the caller itself, who then has to :meth:`lead`."""
        with self._lock:
            if (leader := self._leaders.get(key)) is not None:
                return leader, False
            leader = self._leaders[key] = Leader(asyncio.current_task(), Future())
            leader.outcome.set_running_or_notify_cancel()  # from now on no waiter's cancellation cancels it
            return leader, True

    async def lead(self, key: str, leader: Leader, bring: Callable[[], Awaitable[str]]) -> str:
        """Return what ``bring()`` returns, to the waiters too: an error as well, but not a cancellation."""
        try:
            text = await bring()
        except BaseException as error:
            self.forget(key, leader)
            if isinstance(error, Exception):
                leader.outcome.set_exception(error)
            else:
                leader.outcome.set_result(None)
            raise
        self.forget(key, leader)
        leader.outcome.set_result(text)
        return text

    def forget(self, key: str, leader: Leader | None = None) -> None:
        """Let who asks for a key from now on start anew.

        :param leader: the one to forget; None for any.
        """
        with self._lock:
            if leader is None or self._leaders.get(key) is leader:
                self._leaders.pop(key, None)

    def forget_all(self) -> None:
        """Let who asks for any key from now on start anew."""
        with self._lock:
            self._leaders.clear()
