"""``Life``: on which event loops a test's tasks run, and what has to be started before and shut down after them."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from contextvars import Context, ContextVar, copy_context
from typing import Any

from taskiq_flow.pytest_plugin.broker.deliveries import Deliveries, Loss
from taskiq_flow.pytest_plugin.broker.task_loops import TaskLoop, WorkerThread, on_loop
from taskiq_flow.pytest_plugin.everything import unfrozen
from taskiq_flow.storage.loops import PerLoop

__all__ = ["SHUTDOWN_TIMEOUT", "Life"]

SHUTDOWN_TIMEOUT = 10.0
"""Seconds that running tasks are waited for when a test is over."""
_STARTING: "ContextVar[object]" = ContextVar("taskiq_flow_starting", default=None)
"""The ``Life`` whose startup runs in this context: what that sends does not wait for the end of it."""


class Life:
    """Starts once, on the event loop where the first task runs, and shuts down there before that loop ends.

    :param start: starts what tasks need.
    :param stop: shuts it down.
    :param lose: is told of each message that does not come to its end.
    :param runs_on_test_loop: whether tasks run on the event loops of the thread that makes this: those of an
        asynchronous test and its fixtures. What is sent from others runs in a worker's thread.
    """

    shutdown_timeout = SHUTDOWN_TIMEOUT

    def __init__(
        self,
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
        lose: Callable[[Loss], None],
        *,
        runs_on_test_loop: bool,
    ) -> None:
        self.deliveries = Deliveries(lose, self._place_in_thread)
        self._start, self._stop = start, stop
        self._test_thread = threading.get_ident() if runs_on_test_loop else None
        self._thread = WorkerThread()
        self._in_thread: TaskLoop | None = None
        # A loop's entry stays while it ends: what the tasks send that it waits for is its own, and waited for as well.
        self._loops = PerLoop(self._loop_here, self._end, stays=True)
        self._lock = threading.Lock()
        self._started_on: TaskLoop | None = None
        self._starting: concurrent.futures.Future[None] | None = None
        self._tasks: set[asyncio.Future[None]] = set()
        self._test_context = copy_context()
        """What startups run in copies of: they know nothing of the context variables of whoever sends first."""
        self._startup_context: Context | None = None
        """What the last startup has set: tasks see it, as they do those of taskiq's ``Receiver.listen``."""

    @property
    def has_begun(self) -> bool:
        """Whether a startup has begun."""
        return self._starting is not None

    # --- where tasks run ----------------------------------------------------------------------------------------------

    async def places(self) -> tuple[TaskLoop, TaskLoop]:
        """Return the running event loop, which sends, and the one on which what it sends is handled."""
        sender = await self._loops.get()
        is_started_in_thread = self._started_on is not None and self._started_on is self._in_thread
        return sender, sender if sender.runs_tasks and not is_started_in_thread else self._place_in_thread()

    async def run(self, call: Coroutine[Any, Any, None]) -> None:
        """Await a coroutine where tasks run."""
        await on_loop((await self.places())[1].loop, call)

    def _loop_here(self) -> TaskLoop:
        """Return an entry for the running event loop: tasks run on the test's, and might outlive others."""
        return TaskLoop(asyncio.get_running_loop(), runs_tasks=threading.get_ident() == self._test_thread)

    def _place_in_thread(self) -> TaskLoop:
        """Return the event loop of the worker's thread, begun if need be."""
        loop = self._thread.loop()
        with self._lock:
            if self._in_thread is None:
                self._in_thread = TaskLoop(loop, runs_tasks=True)
            return self._in_thread

    # --- beginning ----------------------------------------------------------------------------------------------------

    async def start(self, place: TaskLoop) -> None:
        """Start on an event loop, unless this has been done, and wait for it: but not where the startup itself asks.

        :raises Exception: what the startup raises; the next one who asks tries again.
        """
        if self._started_on is not None or _STARTING.get() is self:
            return
        with self._lock:
            starting = self._starting
            if is_first := starting is None or starting.done():
                starting = self._starting = concurrent.futures.Future()
                starting.set_running_or_notify_cancel()  # nobody who waits for it may cancel it
        if is_first:
            place.loop.call_soon_threadsafe(self._begin, place, starting, context=self._test_context.copy())
        await asyncio.wrap_future(starting)

    async def wait_for_start(self) -> None:
        """Wait until a startup that is going on is over; what it sends is not handled before."""
        if self._starting is not None and not self._starting.done():
            await asyncio.wrap_future(self._starting)

    def enter_startup_context(self) -> None:
        """Set the context variables that the startup has set, in the context of the running task."""
        if self._startup_context is not None:
            for variable, value in self._startup_context.items():
                if variable not in self._test_context or self._test_context[variable] is not value:
                    variable.set(value)

    def _begin(self, place: TaskLoop, starting: "concurrent.futures.Future[None]") -> None:
        task = asyncio.ensure_future(self._run_startup(place, starting))
        self._tasks.add(task)  # an event loop does not keep its tasks
        task.add_done_callback(self._tasks.discard)

    async def _run_startup(self, place: TaskLoop, starting: "concurrent.futures.Future[None]") -> None:
        token = _STARTING.set(self)
        try:
            with unfrozen():
                await self._start()
            _STARTING.reset(token)
            self._startup_context = copy_context()
            self._started_on = place
            starting.set_result(None)
        except BaseException as error:
            starting.set_exception(error)
            if not isinstance(error, Exception):
                raise

    # --- ending -------------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Wait for the tasks that run, and for what they send, and shut down."""
        await self._loops.aclose()
        if (place := self._in_thread) is not None:
            await on_loop(place.loop, self._end(place))

    def close_from_outside(self) -> None:
        """Do so from a thread that runs no event loop, and end the worker's thread."""
        with ExitStack() as stack:
            stack.callback(self._thread.stop)
            stack.callback(self._end_in_thread)
            self._loops.close_from_outside(self.shutdown_timeout + 5)

    async def _end(self, place: TaskLoop) -> None:
        """Come to the end of an event loop, on that loop."""
        if not place.runs_tasks:
            await self.deliveries.wait_for_those_of(place, self.shutdown_timeout)
            return
        await self.deliveries.end(place, self.shutdown_timeout)
        if place is self._in_thread:
            self._in_thread = None
        if self._started_on is place:
            try:
                await self._stop()
            finally:
                self._started_on = None

    def _end_in_thread(self) -> None:
        if (place := self._in_thread) is not None:
            asyncio.run_coroutine_threadsafe(self._end(place), place.loop).result(self.shutdown_timeout + 15)
