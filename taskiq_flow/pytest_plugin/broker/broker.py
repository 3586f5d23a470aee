"""``FlowBroker``: taskiq's in-memory broker, for the fixture ``flow_broker``.

It starts by itself when the first task is sent, on whichever event loop that is, and shuts down when the test is over:
so the fixture needs no async plugin. An asynchronous test's tasks run on the test's own event loop. Where that is not
the sender's, or there is none, a worker's thread runs them: the sender's loop may be gone before they end.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from taskiq import (
    AsyncBroker,
    AsyncResultBackend,
    AsyncTaskiqDecoratedTask,
    BrokerMessage,
    InMemoryBroker,
    ScheduleSource,
    TaskiqMiddleware,
    TaskiqScheduler,
)
from taskiq.exceptions import UnknownTaskError
from taskiq.receiver import Receiver

from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.middlewares import CacheMiddleware, LostResult, StorageMiddleware
from taskiq_flow.pytest_plugin.broker.adoption import Adoption, DrivenSource
from taskiq_flow.pytest_plugin.broker.adoption.sources import is_of_labels
from taskiq_flow.pytest_plugin.broker.deliveries import Loss, StuckTasksError, delay_of, was_cancelled
from taskiq_flow.pytest_plugin.broker.handlers import SYNC_TASK_THREADS, MessageHandler
from taskiq_flow.pytest_plugin.broker.life import Life
from taskiq_flow.pytest_plugin.broker.workers import Workers
from taskiq_flow.storage.base import BaseStorageAdapter

__all__ = ["FlowBroker"]

M = TypeVar("M", bound=TaskiqMiddleware)

_LOGGER = logging.getLogger(Receiver.__module__)
_TO_WAIT = "what still runs is waited for by `await flow_broker.drain()`, or `flow_broker.drain_sync()`, in the test"
_TO_LOSE = 'a loss that is meant is declared by @pytest.mark.flow_broker(loses="…"), a regular expression that finds it'


class FlowBroker(InMemoryBroker):
    """An in-memory broker that starts itself, and on which nothing is lost in silence.

    What a task returns goes through the storage, as in production: results, caches, pipelines and schedules. Messages
    with the label ``delay`` (of taskiq's retries, for example) wait that many seconds: on the frozen clock, where there
    is one.

    :param make_storage: makes another adapter on the test's storage, for each of :meth:`workers`, and one for what is
        adopted.
    :param result_backend: keeps the results.
    :param middlewares: run around the tasks.
    :param schedule_sources: whose schedules ``await frozen_clock.advance(…)`` fires.
    :param runs_on_test_loop: whether tasks run on the event loops of the thread that makes this: those of an
        asynchronous test and its fixtures.
    """

    losses: list[Loss]
    """The results that did not get to where they belong, so far: each fails the test when it is over."""
    schedule_sources: list[ScheduleSource]
    """Whose schedules ``await frozen_clock.advance(…)`` fires."""

    def __init__(
        self,
        make_storage: Callable[[], BaseStorageAdapter],
        *,
        result_backend: AsyncResultBackend[Any],
        middlewares: Sequence[TaskiqMiddleware],
        schedule_sources: Sequence[ScheduleSource] = (),
        runs_on_test_loop: bool = True,
    ) -> None:
        super().__init__(sync_tasks_pool_size=SYNC_TASK_THREADS)
        self.losses = []
        self.schedule_sources = list(schedule_sources)
        self.result_backend: Any = result_backend
        self._make_storage = make_storage
        self._handler = MessageHandler(self)
        self._adoption = Adoption(self, make_storage, self.middlewares, self.schedule_sources)
        self._workers: Workers | None = None
        self._life = Life(self._start, self._stop, self.losses.append, runs_on_test_loop=runs_on_test_loop)
        self._deliveries = self._life.deliveries
        self._started_sources: list[ScheduleSource] = []
        self.add_middlewares(*middlewares)
        _LOGGER.addFilter(_says_something)

    def get_all_tasks(self) -> dict[str, AsyncTaskiqDecoratedTask[Any, Any]]:
        """Return all tasks that are known here; none while this is made: what is not run need not be looked at."""
        return super().get_all_tasks() if hasattr(self, "_handler") else {}

    def add_middlewares(self, *middlewares: TaskiqMiddleware) -> None:
        """Add middlewares, and listen to what those of this package lose."""
        super().add_middlewares(*middlewares)
        for middleware in middlewares:
            if isinstance(middleware, StorageMiddleware):
                middleware.on_failure.append(self._not_stored)
            elif isinstance(middleware, CacheMiddleware):
                middleware.on_failure.append(self._not_cached)

    @property
    def shutdown_timeout(self) -> float:
        """Seconds that running tasks are waited for when the test is over: what they store belongs to it."""
        return self._life.shutdown_timeout

    @shutdown_timeout.setter
    def shutdown_timeout(self, seconds: float) -> None:
        self._life.shutdown_timeout = seconds

    patience = shutdown_timeout
    """What ``shutdown_timeout`` was called up to version 1.2."""

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

    # --- an application -----------------------------------------------------------------------------------------------

    def adopt(
        self,
        *parts: AsyncBroker | TaskiqScheduler | ScheduleSource | AsyncResultBackend[Any],
        without: Sequence[type[TaskiqMiddleware]] = (),
        keeping: Sequence[type[TaskiqMiddleware]] = (),
    ) -> None:
        """Run an application here, until the test is over: its brokers, schedulers, sources and result backends.

        Each part stays the object that it is, and is as it was in the end. In between, these are redirected:

        - A **broker** sends to this one, and is a worker here: its middlewares, serializer, formatter, event handlers,
          state, dependencies and id generator are its own. Only its ``StorageMiddleware``, ``CacheMiddleware`` and
          ``PipelineMiddleware`` are those of the test. Its startup and shutdown reach no server. What it holds is
          adopted with it: its result backend, and sources and result backends in attributes of its middlewares.
        - A **scheduler**'s broker and sources are adopted, and ``await frozen_clock.advance(…)`` fires through it.
          Labels ``schedule=[…]`` of a broker fire also where no scheduler of it is adopted.
        - A **source** keeps its schedules in the test's storage, apart from those of others; but for
          ``LabelScheduleSource``, which is used as it is. Sources of a library on which tasks of an adopted broker are
          scheduled are adopted as well.
        - A **result backend** answers from the test's storage, by its own ``keep_results`` and time to live.

        Methods that the application's own classes override still run; those of libraries that reach a server do not.
        Nothing else is redirected: a middleware that calls a dashboard still calls it, unless it is left out. Only
        taskiq's ``TaskiqAdminMiddleware`` and ``PrometheusMiddleware`` are left out by themselves.

        :param parts: in any order, in one call or several.
        :param without: classes of middlewares that the brokers of this call do without, subclasses included.
        :param keeping: classes of those that are left out by themselves and should not be.
        :raises TypeError: if a part is something else, the name of a broker, for example.
        :raises ConfigurationError: if tasks were sent already, a broker is this one or was adopted by itself before, or
            a class in ``without`` or ``keeping`` matches no middleware.
        """
        if self._life.has_begun:
            raise ConfigurationError("adopt() comes before the first task is sent: event handlers would be late")
        self._adoption.add(parts, without, keeping)

    def find_task(self, task_name: str) -> Any:
        """Return a task by its name: one of this broker's, or of an adopted one's; None where there is none."""
        return super().find_task(task_name) or self._adoption.find_task(task_name)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def startup(self) -> None:
        """Start, with all that is adopted, once; sending a task does so too.

        :raises Exception: if an event handler does.
        """
        _, place = await self._life.places()
        await self._life.start(place)

    async def shutdown(self) -> None:
        """Wait for the tasks that run, and for what they send, and shut down."""
        await self._life.aclose()

    def close_from_outside(self) -> None:
        """Shut down and release what was adopted, from a thread that runs no event loop: for the fixture's teardown."""
        with ExitStack() as stack:
            stack.callback(self._adoption.release)
            stack.callback(_LOGGER.removeFilter, _says_something)
            self._life.close_from_outside()

    def reset_adopted_attributes(self) -> None:
        """Reset the attributes of what was adopted: after all fixtures, when ``monkeypatch`` has undone its changes."""
        self._adoption.reset_attributes()

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

    async def _start(self) -> None:
        await super().startup()
        started = {id(middleware) for middleware in self.middlewares}
        for adopted in self._adoption.brokers.values():
            await adopted.start(started)

    async def _stop(self) -> None:
        stopped = {id(middleware) for middleware in self.middlewares}
        errors: list[Exception] = []
        calls: list[Callable[[], Awaitable[None]]] = [source.shutdown for source in self._started_sources]
        calls += [partial(adopted.stop, stopped) for adopted in reversed(self._adoption.brokers.values())]
        for call in [*calls, super().shutdown]:
            try:
                await call()
            except Exception as error:  # noqa: BLE001 - the others are to be shut down yet
                errors.append(error)
        self._started_sources = []
        self.executor = ThreadPoolExecutor(SYNC_TASK_THREADS)  # for a second start
        if errors:
            raise errors[0]

    # --- tasks --------------------------------------------------------------------------------------------------------

    async def kick(self, message: BrokerMessage) -> None:
        """Run a task, having started first.

        :raises UnknownTaskError: if no such task is known here.
        """
        await self.send(self._handler, message)

    async def send(self, handler: MessageHandler, message: BrokerMessage) -> None:
        """Run a task as a worker of the handler's broker would, having started first.

        :raises UnknownTaskError: if no such task is known to any broker.
        """
        sender, place = await self._life.places()
        await self._life.start(place)
        if handler.broker.find_task(message.task_name) is None:
            raise UnknownTaskError(task_name=message.task_name)

        in_place = (self.await_inplace or handler.awaits_in_place) and not delay_of(message)

        async def handle() -> None:
            await self._handle(handler, message, in_place=in_place)

        if in_place:
            await handle()
        else:
            self._deliveries.start(message, handle, place, sender)

    async def wait_all(self) -> None:
        """Wait until no task runs any more, those that running tasks send included: all is stored then.

        What waits for the frozen clock is not waited for; ``drain`` says what that is.
        """
        await self._deliveries.settle()

    async def drain(self, timeout: float = 10.0) -> None:
        """Wait until nothing runs, and nothing that a task sent is left to run: steps of pipelines, delayed retries.

        It does not matter on which event loop, and in which thread, that was sent.

        :param timeout: seconds of real time.
        :raises StuckTasksError: if that does not come to an end; the message names the tasks, and what they wait for.
        """
        await self.settle(timeout)
        self._nothing_is_left()

    def drain_sync(self, timeout: float = 10.0) -> None:
        """Wait as :meth:`drain` does, in a thread that runs no event loop: in a synchronous test.

        :param timeout: seconds of real time.
        :raises StuckTasksError: if that does not come to an end; the message names the tasks, and what they wait for.
        :raises ConfigurationError: if an event loop runs in this thread, which would stand still.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._deliveries.settle_sync(timeout)
            self._nothing_is_left()
        else:
            raise ConfigurationError(
                "drain_sync() was called where an event loop runs, which would stand still: `await flow_broker.drain()`"
            )

    async def settle(self, timeout: float) -> None:
        """Wait as :meth:`drain` does, but leave what waits for the frozen clock; see there."""
        await self._deliveries.settle(timeout)

    def next_due(self) -> int | None:
        """Return when the first message that waits for the frozen clock is due, in milliseconds; None without any."""
        return self._deliveries.next_due()

    def clock_moved(self, _now: object = None) -> None:
        """Let go what was waiting for the time that it is now."""
        self._deliveries.clock_moved()

    @property
    def released(self) -> int:
        """How many messages the frozen clock has let go so far."""
        return self._deliveries.released

    async def driven_sources(self) -> list[DrivenSource]:
        """Return the sources whose schedules the clock fires, started, and what sends these."""
        driven = self._adoption.driven_sources()
        for source, _ in driven:
            is_ours = any(source is own for own in self.schedule_sources) and not is_of_labels(source)
            if not is_ours and not any(source is each for each in self._started_sources):
                self._started_sources.append(source)
                await self._life.run(source.startup())
        return driven

    @asynccontextmanager
    async def workers(self, count: int) -> AsyncIterator[None]:
        """Let ``count`` workers take turns at the messages sent within the block, to show what races there are.

        Each is a receiver with a broker, storage adapter, result backend and middlewares of its own, on the same
        storage, as worker processes have. The block ends when all that was sent within it is done.

        :raises ConfigurationError: if ``count`` is not above 0, or there are workers already.
        """
        if self._workers is not None:
            raise ConfigurationError("there are workers already: the blocks cannot be nested")
        await self.startup()
        self._workers = Workers(count, self._make_storage)
        try:
            async with self._workers:
                yield
                await self.wait_all()
        finally:
            self._workers = None

    async def _handle(self, handler: MessageHandler, message: BrokerMessage, *, in_place: bool) -> None:
        try:
            await self._life.wait_for_start()
            if not in_place:  # there, the context is the sender's, which is left as it is
                self._life.enter_startup_context()
            if self._workers is None:
                await handler.handle(message, self.executor)
            else:
                await self._workers.handle(handler.broker, message)
        except Exception as error:  # noqa: BLE001 - taskiq logs what goes wrong around a task, and forgets it
            reason = f"ended without its result being saved: {type(error).__name__}: {error}"
            self.losses.append(Loss(message.task_name, message.task_id, reason))

    def _nothing_is_left(self) -> None:
        if left := self._deliveries.told():
            raise StuckTasksError("nothing runs any more, and this is left to run:\n" + "\n".join(left))

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
