"""``Threads``: where an adapter does what would block an event loop."""

import asyncio
import os
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

import anyio

from taskiq_flow.storage.cancellation import forget_outcome
from taskiq_flow.storage.forks import leave_to_parent, reset_in_child
from taskiq_flow.storage.testing import is_recycling, when_recycling_ends

__all__ = ["Threads", "end_idle_threads"]

T = TypeVar("T")

_CANCEL_GRACE = 0.25
"""Seconds that a time-out may be late, so that what is nearly done can end."""

_idle: dict[tuple[int, int], list[ThreadPoolExecutor]] = defaultdict(list)
"""Idle threads for the next owner, by process (a fork takes none along) and by how many they may become."""


class Threads:
    """Threads of one owner, started when there is work for them; they stay from one event loop to the next.

    asyncio's own belong to a loop: starting them anew costs more than most statements, and a loop does not end before
    all of them are done, though one hangs.

    :param at_most: how many; further work waits for one.
    """

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._executor: ThreadPoolExecutor | None = None
        self._at_work: set[Future[Any]] = set()
        self._lock = threading.Lock()
        reset_in_child(self)

    def after_fork(self) -> None:
        """Forget the threads: a fork takes none along."""
        leave_to_parent(self._executor)
        self._executor, self._at_work, self._lock = None, set(), threading.Lock()

    async def run(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns in a thread.

        A thread cannot be stopped. So a caller that is cancelled waits until the work is done: it must not take effect
        after, and undo, what the caller does next. A second cancellation leaves it alone; so does a scope of anyio's,
        such as a time-out's, which cancels again and again, but it has to wait for a moment.
        """
        running = asyncio.wrap_future(self._begin(work))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            running.add_done_callback(forget_outcome)
            try:
                with anyio.CancelScope(shield=True):
                    await asyncio.wait([running], timeout=_CANCEL_GRACE)
                await asyncio.wait([running])
            finally:
                running.cancel()  # the loop may be closed by the time that the thread would tell it of an outcome
            raise

    def end(self) -> None:
        """Let the threads end as soon as their work is done; does not wait for it. More work starts new ones."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)

    def recycle(self) -> None:
        """Under :func:`~taskiq_flow.storage.testing.recycle`, leave idle threads to the next owner; else end them.

        Threads that have work to do end after it.
        """
        with self._lock:
            if is_recycling() and self._executor is not None and not self._at_work:
                _idle[os.getpid(), self._at_most].append(self._executor)
                self._executor = None
        self.end()

    def _begin(self, work: Callable[[], T]) -> "Future[T]":
        with self._lock:
            if self._executor is None:
                idle = _idle[os.getpid(), self._at_most]
                self._executor = idle.pop() if idle else ThreadPoolExecutor(self._at_most, "taskiq-flow")
            running = self._executor.submit(partial(copy_context().run, work))
            self._at_work.add(running)
        # The first of its callbacks: what waits for the outcome may recycle the threads.
        running.add_done_callback(self._at_work.discard)
        return running


@when_recycling_ends
def end_idle_threads() -> None:
    """End the threads of this process that were recycled and have no owner yet."""
    for (process, _), executors in _idle.items():
        while executors and process == os.getpid():
            executors.pop().shutdown(wait=False)
