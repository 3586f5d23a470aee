"""``Threads``: where an adapter does what would block an event loop."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TypeVar

import anyio

from taskiq_flow.storage.cancellation import forget_outcome

__all__ = ["Threads"]

T = TypeVar("T")

_PATIENCE = 0.25
"""Seconds that a time-out may be late, to see the end of what is nearly done."""


class Threads:
    """Threads of one owner, started when there is work for them; they stay from one event loop to the next.

    asyncio's own belong to a loop: starting them anew costs more than most statements, and a loop does not end before
    all of them are done, though one hangs.

    :param at_most: how many; further work waits for one.
    """

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._executor: ThreadPoolExecutor | None = None
        self._process = 0
        self._lock = threading.Lock()

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
                    await asyncio.wait([running], timeout=_PATIENCE)
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

    def _begin(self, work: Callable[[], T]) -> "Future[T]":
        with self._lock:
            if self._executor is None or self._process != os.getpid():  # of threads, a fork takes along none
                self._executor, self._process = ThreadPoolExecutor(self._at_most, "taskiq-flow"), os.getpid()
            return self._executor.submit(partial(copy_context().run, work))
