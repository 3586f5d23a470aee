"""``FlowBroker``: taskiq's in-memory broker, for the fixture ``flow_broker``.

It starts by itself, on whichever event loop first sends a task, and shuts down before that loop ends: so the fixture
needs no async plugin, and a test may call ``asyncio.run`` more than once.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from taskiq import AsyncBroker, AsyncResultBackend, BrokerMessage, InMemoryBroker, ScheduleSource, TaskiqMiddleware
from taskiq.exceptions import UnknownTaskError
from taskiq.receiver import Receiver

from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.middlewares import CacheMiddleware, LostResult, StorageMiddleware
from taskiq_flow.pytest_plugin.broker.adoption import Adoption
from taskiq_flow.pytest_plugin.broker.deliveries import Deliveries, Loss, StuckTasksError, was_cancelled
from taskiq_flow.pytest_plugin.broker.workers import Workers
from taskiq_flow.storage.base import BaseStorageAdapter
from taskiq_flow.storage.loops import PerLoop

__all__ = ["FlowBroker"]

M = TypeVar("M", bound=TaskiqMiddleware)

_SYNC_TASK_THREADS = 4
_LOGGER = logging.getLogger(Receiver.__module__)
_TO_WAIT = "what still runs is waited for by `await flow_broker.drain()` at the end of the test, on the same event loop"
_TO_LOSE = 'a loss that is meant is declared by @pytest.mark.flow_broker(loses="…"), a regular expression that finds it'


class FlowBroker(InMemoryBroker):
    """An in-memory broker that starts itself, and on which nothing is lost in silence.

    What a task returns goes through the storage, as in production: results, caches, pipelines and schedules. Messages
    with the label ``delay`` (of taskiq's retries, for example) wait that many seconds: on the frozen clock, where there
    is one.

    :param make_storage: makes another adapter on the test's storage, for each of :meth:`workers`.
    :param result_backend: keeps the results.
    :param middlewares: run around the tasks.
    :param schedule_sources: whose schedules ``await frozen_clock.advance(…)`` fires.
    """

    losses: list[Loss]
    """The results that did not get to where they belong, so far: each fails the test when it is over."""
    shutdown_timeout: float = 10.0
    """Seconds that running tasks are waited for when the test is over: what they store belongs to it."""
    schedule_sources: list[ScheduleSource]
    """Whose schedules ``await frozen_clock.advance(…)`` fires."""

    def __init__(
        self,
        make_storage: Callable[[], BaseStorageAdapter],
        *,
        result_backend: AsyncResultBackend[Any],
        middlewares: Sequence[TaskiqMiddleware],
        schedule_sources: Sequence[ScheduleSource] = (),
    ) -> None:
        super().__init__(sync_tasks_pool_size=_SYNC_TASK_THREADS)
        self.losses = []
        self.schedule_sources = list(schedule_sources)
        self.result_backend: Any = result_backend
        self._make_storage = make_storage
        self._adopted: list[Adoption] = []
        self._workers: Workers | None = None
        # A session stays while it ends: what the tasks send that it waits for is its own, and waited for as well.
        self._sessions = PerLoop(lambda: _Session(self.losses.append), self._end, stays=True)
        self.add_middlewares(*middlewares)
        _LOGGER.addFilter(_says_something)

    def add_middlewares(self, *middlewares: TaskiqMiddleware) -> None:
        """Add middlewares, and listen to what those of this package lose."""
        super().add_middlewares(*middlewares)
        for middleware in middlewares:
            if isinstance(middleware, StorageMiddleware):
                middleware.on_failure.append(self._not_stored)
            elif isinstance(middleware, CacheMiddleware):
                middleware.on_failure.append(self._not_cached)

    @property
    def storage_middleware(self) -> StorageMiddleware:
        """Keeps the results: ``await flow_broker.storage_middleware.load(task_id, pipeline_id)`` gives one back."""
        return self._the(StorageMiddleware)

    @property
    def cache_middleware(self) -> CacheMiddleware:
        """What keeps the tasks from running again that carry a cache label."""
        return self._the(CacheMiddleware)

    @property
    def schedule_source(self) -> ScheduleSource:
        """The first of the schedule sources, to add schedules to."""
        if not self.schedule_sources:
            raise ConfigurationError("this flow_broker has no schedule source")
        return self.schedule_sources[0]

    # --- an application's own broker ----------------------------------------------------------------------------------

    def adopt(self, broker: AsyncBroker) -> None:
        """Run the tasks of an application's own broker here, until the test is over.

        Whoever sends to that broker, by its tasks, a pipeline, a scheduler or ``kick``, sends to this one, and waits
        for results that are in the test's storage. Its event handlers, dependencies, serializer and middlewares are
        used here; but for its ``StorageMiddleware``, ``CacheMiddleware`` and ``PipelineMiddleware``, for which those of
        the test stand in. Nothing that it was connected to is touched. In the end it is as it was.

        :raises TypeError: ``broker`` is no broker, but its name, for example.
        :raises ConfigurationError: tasks were sent already, ``broker`` is this one or adopted, or it serializes
            otherwise than one that was adopted before.
        """
        if not isinstance(broker, AsyncBroker):
            raise TypeError(f"adopt() was given {broker!r}, a {type(broker).__name__}: it wants a taskiq AsyncBroker")
        if broker is self or any(adoption.broker is broker for adoption in self._adopted):
            raise ConfigurationError(f"{broker!r} is adopted already")
        if self._sessions.resources():
            raise ConfigurationError("adopt() comes before the first task is sent: event handlers would be late")
        self._adopted.append(Adoption(broker, self))

    def find_task(self, task_name: str) -> Any:
        """Return a task by its name: one of this broker's, or of an adopted one's."""
        brokers = (adoption.broker for adoption in self._adopted)
        found = super().find_task(task_name)
        return found or next(filter(None, (broker.find_task(task_name) for broker in brokers)), None)

    def speak_like(self, broker: AsyncBroker) -> None:
        """Read and write messages as another broker does.

        :raises ConfigurationError: one that was adopted before does so otherwise.
        """
        names = ("serializer", "formatter")
        if self._adopted and any(type(getattr(self, name)) is not type(getattr(broker, name)) for name in names):
            raise ConfigurationError(
                f"{broker!r} writes messages with {type(broker.serializer).__name__} and "
                f"{type(broker.formatter).__name__}, the broker that was adopted before it with "
                f"{type(self.serializer).__name__} and {type(self.formatter).__name__}: adopt them in different tests"
            )
        self.serializer, self.formatter = broker.serializer, broker.formatter

    # --- life ---------------------------------------------------------------------------------------------------------

    async def startup(self) -> None:
        """Start on the running loop, once; sending a task does so too."""
        session = await self._sessions.get()
        async with session.starting:
            if not session.is_started:
                # Shutting down has ended the threads for synchronous tasks: a second loop needs new ones.
                if self.receiver.executor is None:
                    self.executor = self.receiver.executor = ThreadPoolExecutor(_SYNC_TASK_THREADS)
                await super().startup()
                session.is_started = True

    async def shutdown(self) -> None:
        """Wait for the tasks that run, and for what they send, and shut down, on the running loop."""
        await self._sessions.aclose()

    def close_from_outside(self) -> None:
        """Shut down and release what was adopted, from a thread that runs no event loop: for the fixture's teardown."""
        try:
            self._sessions.close_from_outside(self.shutdown_timeout + 5)
        finally:
            _LOGGER.removeFilter(_says_something)
            while self._adopted:
                self._adopted.pop().release()

    def unexpected(self, expected: str | None) -> str:
        """Return what the test should fail with when it is over; an empty string for nothing.

        :param expected: a regular expression that finds the losses which are expected; None for none.
        """
        surprises = [loss for loss in self.losses if expected is None or not re.search(expected, str(loss))]
        if surprises:
            to_do = [_TO_WAIT, _TO_LOSE] if any(loss.is_unfinished for loss in surprises) else [_TO_LOSE]
            return "\n".join(["flow_broker has lost results:", *(f"  {loss}" for loss in surprises), *to_do])
        if expected is not None and not self.losses:
            return f"flow_broker was expected to lose results (loses={expected!r}), and has lost none"
        return ""

    async def _end(self, session: "_Session") -> None:
        await session.deliveries.end(self.shutdown_timeout)
        if session.is_started:
            await super().shutdown()
            self.receiver.executor = None

    # --- tasks --------------------------------------------------------------------------------------------------------

    async def kick(self, message: BrokerMessage) -> None:
        """Run a task, having started first.

        :raises UnknownTaskError: no such task is known here.
        """
        await self.startup()
        if self.find_task(message.task_name) is None:
            raise UnknownTaskError(task_name=message.task_name)
        session = await self._sessions.get()
        session.deliveries.start(message, self._handle(message))

    async def wait_all(self) -> None:
        """Wait until no task runs any more, those that running tasks send included: all is stored then.

        What waits for the frozen clock is not waited for; ``drain`` says what that is.
        """
        await (await self._sessions.get()).deliveries.settle()

    async def drain(self, timeout: float = 10.0) -> None:
        """Wait until nothing runs, and nothing that a task sent is left to run: steps of pipelines, delayed retries.

        :param timeout: seconds of real time.
        :raises StuckTasksError: that does not come to an end; the message names the tasks, and what they wait for.
        """
        deliveries = (await self._sessions.get()).deliveries
        await deliveries.settle(timeout)
        if left := deliveries.told():
            raise StuckTasksError("nothing runs any more, and this is left to run:\n" + "\n".join(left))

    async def settle(self, timeout: float) -> None:
        """Wait as :meth:`drain` does, but leave what waits for the frozen clock; see there."""
        await (await self._sessions.get()).deliveries.settle(timeout)

    async def next_due(self) -> int | None:
        """Return when the first message that waits for the frozen clock is due, in milliseconds; None without any."""
        return (await self._sessions.get()).deliveries.next_due()

    def clock_moved(self, _now: object = None) -> None:
        """Let go what was waiting for the time that it is now."""
        for session in self._sessions.resources():
            session.deliveries.clock_moved()

    @asynccontextmanager
    async def workers(self, count: int) -> AsyncIterator[None]:
        """Let ``count`` workers take turns at the messages sent within the block, to show what races there are.

        Each is a receiver with a broker, storage adapter, result backend and middlewares of its own, on the same
        storage, as worker processes have. The block ends when all that was sent within it is done.

        :raises ConfigurationError: ``count`` is not above 0, or there are workers already.
        """
        if self._workers is not None:
            raise ConfigurationError("there are workers already: the blocks cannot be nested")
        await self.startup()
        self._workers = Workers(self, count, self._make_storage)
        try:
            async with self._workers:
                yield
                await self.wait_all()
        finally:
            self._workers = None

    async def _handle(self, message: BrokerMessage) -> None:
        try:
            if self._workers is None:
                await self.receiver.callback(message.message, raise_err=True)
            else:
                await self._workers.handle(message)
        except Exception as error:  # noqa: BLE001 - taskiq logs what goes wrong around a task, and forgets it
            reason = f"ended without its result being saved: {type(error).__name__}: {error}"
            self.losses.append(Loss(message.task_name, message.task_id, reason))

    def _not_stored(self, lost: LostResult) -> None:
        self.losses.append(Loss(lost.task_name, lost.task_id, f"its result was not stored: {lost.reason}"))

    def _not_cached(self, lost: LostResult) -> None:
        self.losses.append(Loss(lost.task_name, lost.task_id, f"its result was not cached: {lost.reason}"))

    def _the(self, kind: type[M]) -> M:
        for middleware in self.middlewares:
            if isinstance(middleware, kind):
                return middleware
        raise ConfigurationError(f"this flow_broker has no {kind.__name__}")


def _says_something(record: logging.LogRecord) -> bool:
    """Return whether taskiq's log has more to say of a task than where it was when it was broken off.

    That is told as a loss. The traceback would be of a driver's innermost parts, as a rule.
    """
    error = record.exc_info[1] if record.exc_info else None
    task = asyncio.current_task() if isinstance(error, asyncio.CancelledError) else None
    return task is None or not was_cancelled(task)


class _Session:
    """The broker's life on one event loop."""

    def __init__(self, lose: Callable[[Loss], None]) -> None:
        self.starting = asyncio.Lock()
        self.deliveries = Deliveries(lose)
        self.is_started = False
