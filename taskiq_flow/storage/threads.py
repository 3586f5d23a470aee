"""Work that a caller who is cancelled must not tear to pieces: in a thread, or closing a connection."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

import anyio

__all__ = ["Threads", "cancelled_once"]

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
        running = asyncio.ensure_future(self._begun(work))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            running.add_done_callback(_forget_outcome)
            with anyio.CancelScope(shield=True):
                await asyncio.wait([running], timeout=_PATIENCE)
            await asyncio.wait([running])
            raise

    def end(self) -> None:
        """Let the threads end as soon as their work is done; does not wait for it. More work starts new ones."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)

    async def _begun(self, work: Callable[[], T]) -> T:
        with self._lock:
            if self._executor is None or self._process != os.getpid():  # of threads, a fork takes along none
                self._executor, self._process = ThreadPoolExecutor(self._at_most, "taskiq-flow"), os.getpid()
            running = self._executor.submit(copy_context().run, work)
        return await asyncio.wrap_future(running)


async def cancelled_once(work: Coroutine[Any, Any, T]) -> T:
    """Return what ``work`` returns; however often the caller is cancelled, ``work`` is only once.

    A time-out of anyio's cancels again and again until it is obeyed. SQLAlchemy closes the connection of a call that
    was cancelled; disturbed in that, it leaves a task behind that never ends (with aiosqlite).
    """
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        running.cancel()
        running.add_done_callback(_forget_outcome)
        await asyncio.wait([running])
        raise


def _forget_outcome(running: "asyncio.Future[T]") -> None:
    # Nobody is left to be told of its error: asked for here, so that asyncio does not complain that nobody did.
    if not running.cancelled():
        running.exception()
