"""``TaskLoop``: an event loop on which tasks run: the test's own, or that of a worker's thread."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["TaskLoop", "WorkerThread", "on_loop"]

T = TypeVar("T")

_JOIN_TIMEOUT = 10.0
"""Seconds for which a thread is waited for whose tasks do not let themselves be cancelled."""


class TaskLoop:
    """An event loop that has sent messages, and what is known of it.

    :param runs_tasks: whether tasks run on it; else it belongs to somebody who only sends, from a thread or for the
        length of a call, and a worker's thread runs them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, runs_tasks: bool) -> None:
        self.loop = loop
        self.runs_tasks = runs_tasks
        self.is_over = False
        """Whether nothing is begun on it any more."""


class WorkerThread:
    """A thread with an event loop, on which tasks run whose senders' loops may be gone; it is started on first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_told_to_end: asyncio.Event
        self._loop: Future[asyncio.AbstractEventLoop]

    @property
    def has_begun(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the thread's event loop, started now if need be."""
        with self._lock:
            if self._thread is None:
                self._loop = Future()
                self._thread = threading.Thread(target=self._run, name="flow_broker worker", daemon=True)
                self._thread.start()
        return self._loop.result()

    def stop(self) -> None:
        """End the event loop and the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._loop.result().call_soon_threadsafe(self._is_told_to_end.set)
            thread.join(_JOIN_TIMEOUT)

    def _run(self) -> None:
        asyncio.run(self._until_told())

    async def _until_told(self) -> None:
        self._is_told_to_end = asyncio.Event()
        self._loop.set_result(asyncio.get_running_loop())
        await self._is_told_to_end.wait()


async def on_loop(loop: asyncio.AbstractEventLoop, call: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine on an event loop: the running one, or one that runs in another thread."""
    if loop is asyncio.get_running_loop():
        return await call
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, loop))
