"""Brokers of an application, whose messages are handled in the test."""

import copy
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from taskiq import AsyncBroker, BrokerMessage, TaskiqEvents, TaskiqMiddleware
from taskiq.utils import maybe_awaitable
from taskiq_pipelines import PipelineMiddleware as PipelineEngine

from taskiq_flow.middlewares import CacheMiddleware, StorageMiddleware
from taskiq_flow.pytest_plugin.broker.adoption.redirect import Redirection, delegate_of
from taskiq_flow.pytest_plugin.broker.handlers import MessageHandler

if TYPE_CHECKING:
    from taskiq import AsyncTaskiqDecoratedTask

__all__ = ["AdoptedBroker", "Host"]

# What an application's middleware does in production, the test's of the same kind does here.
_ROLES: tuple[type[TaskiqMiddleware], ...] = (StorageMiddleware, CacheMiddleware, PipelineEngine)
_CONTAINERS = ("middlewares", "event_handlers", "custom_dependency_context", "dependency_overrides", "state")


class Host(Protocol):
    """What an adopted broker needs of the test's: that one starts it, and handles what is sent to it."""

    result_backend: Any

    async def startup(self) -> None:
        """Start all brokers, once."""

    async def send(self, handler: MessageHandler, message: BrokerMessage) -> None:
        """Handle a message with a handler of the broker that it was sent to."""

    async def wait_all(self) -> None:
        """Wait until no task runs any more."""

    def find_task(self, task_name: str) -> "AsyncTaskiqDecoratedTask[Any, Any] | None":
        """Return a task of any broker."""


class AdoptedBroker:
    """A broker that sends to the test, and is a worker there, until it is released.

    The object stays, with its tasks, middlewares, handlers, serializer and state, and gets back all that it had.
    Tasks that are declared or imported meanwhile are its own.
    """

    def __init__(self, broker: AsyncBroker, host: Host) -> None:
        self.broker = broker
        self.handler = MessageHandler(broker)
        self._host = host
        self._class = type(broker)
        self._attributes = dict(vars(broker))
        self._contents = {name: copy.copy(_plain(getattr(broker, name))) for name in _CONTAINERS}
        self._handlers = {event: list(handlers) for event, handlers in broker.event_handlers.items()}
        self._is_changing = False
        """Whether the test is starting it or shutting it down just now."""
        self._is_started = False
        self._changed: set[str] = set()
        """The attributes that the broker had otherwise when it was released, or did not have before."""
        self._redirection = Redirection(broker, AsyncBroker, _STAND_IN, self)
        broker.is_worker_process = True

    @property
    def middlewares(self) -> list[TaskiqMiddleware]:
        """The middlewares that the broker had."""
        had: list[TaskiqMiddleware] = self._contents["middlewares"]
        return had

    def set_middlewares(
        self, ours: Sequence[TaskiqMiddleware], is_left_out: Callable[[TaskiqMiddleware], bool]
    ) -> None:
        """Put the test's middlewares in the places of those for which they stand in, and leave some out."""
        merged = _with_those_of_the_test(self.broker, self.middlewares, ours)
        self.broker.middlewares[:] = [each for each in merged if not is_left_out(each)]

    def own_task(self, task_name: str) -> "AsyncTaskiqDecoratedTask[Any, Any] | None":
        """Return one of the broker's own tasks, or one that is shared by all."""
        return self._class.find_task(self.broker, task_name)

    def release(self) -> None:
        """Give the broker back all that it had; attributes that were added stay until :meth:`reset_attributes`.

        The fixture ``monkeypatch`` undoes its changes later than this, and fails where there is nothing to undo.
        """
        self._redirection.undo()
        had, has = self._attributes, vars(self.broker)
        self._changed = {name for name, value in has.items() if name not in had or had[name] is not value}
        has.update(had)
        for name, content in self._contents.items():
            container = _plain(getattr(self.broker, name))
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(content)
        for event, handlers in self._handlers.items():
            self.broker.event_handlers[event][:] = handlers

    def reset_attributes(self) -> None:
        """Set the attributes that were changed before the release to what they were, and delete those added."""
        for name in self._changed:
            if name in self._attributes:
                vars(self.broker)[name] = self._attributes[name]
            else:
                vars(self.broker).pop(name, None)

    # --- what its stand-in asks for -----------------------------------------------------------------------------------

    async def start(self, started: set[int]) -> None:
        """Let the broker start, as a worker and as a client would; ``started`` are middlewares that have been."""
        if not self._is_started:
            self._is_changing, self._started = True, started
            try:
                await self.broker.startup()
            finally:
                self._is_changing = False
            self._is_started = True

    async def stop(self, stopped: set[int]) -> None:
        """Let the broker shut down."""
        if self._is_started:
            self._is_started, self._is_changing, self._started = False, True, stopped
            try:
                await self.broker.shutdown()
            finally:
                self._is_changing = False

    async def startup(self) -> None:
        """Run what the broker's startup runs, when it is the test that starts it; else let the test start all."""
        if not self._is_changing:
            await self._host.startup()
            return
        self._is_changing = False  # what a handler does, may start the broker again
        await self._run_handlers(TaskiqEvents.CLIENT_STARTUP, TaskiqEvents.WORKER_STARTUP)
        for middleware in self._others("startup"):
            await maybe_awaitable(middleware.startup())
        await self.broker.result_backend.startup()

    async def shutdown(self) -> None:
        """Run what the broker's shutdown runs, when it is the test that shuts it down: when it is over."""
        if self._is_changing:
            self._is_changing = False
            await self._run_handlers(TaskiqEvents.CLIENT_SHUTDOWN, TaskiqEvents.WORKER_SHUTDOWN)
            for middleware in self._others("shutdown"):
                await maybe_awaitable(middleware.shutdown())
            await self.broker.result_backend.shutdown()

    async def kick(self, message: BrokerMessage) -> None:
        """Send a message to the test."""
        await self._host.send(self.handler, message)

    async def wait_all(self) -> None:
        """Wait until no task runs any more."""
        await self._host.wait_all()

    def find_task(self, task_name: str) -> "AsyncTaskiqDecoratedTask[Any, Any] | None":
        """Return a task: one of the broker's own before those of others, which are known here as well."""
        return self.own_task(task_name) or self._host.find_task(task_name)

    async def _run_handlers(self, *events: TaskiqEvents) -> None:
        for event in events:
            for handler in list(self.broker.event_handlers.get(event, ())):
                await maybe_awaitable(handler(self.broker.state))

    def _others(self, method: str) -> list[TaskiqMiddleware]:
        """Return the middlewares that have this method, but for those of the test, and those of a broker before."""
        found = [
            each
            for each in self.broker.middlewares
            if not isinstance(each, _ROLES)
            and id(each) not in self._started
            and getattr(type(each), method) is not getattr(TaskiqMiddleware, method)
        ]
        self._started.update(map(id, found))
        return found


def _with_those_of_the_test(
    broker: AsyncBroker, theirs: Sequence[TaskiqMiddleware], ours: Sequence[TaskiqMiddleware]
) -> list[TaskiqMiddleware]:
    merged: list[TaskiqMiddleware] = []
    left = [_of_broker(middleware, broker) for middleware in ours if isinstance(middleware, _ROLES)]
    for middleware in theirs:
        role = next((role for role in _ROLES if isinstance(middleware, role)), None)
        if role is None:
            merged.append(middleware)
            continue
        substitutes = [mine for mine in left if isinstance(mine, role)]
        merged += substitutes
        left = [mine for mine in left if mine not in substitutes]
    return merged + left


def _of_broker(middleware: TaskiqMiddleware, broker: AsyncBroker) -> TaskiqMiddleware:
    """Return a middleware of the test for an adopted broker: another object where it has to know its broker."""
    if isinstance(middleware, StorageMiddleware):
        return middleware
    middleware = copy.copy(middleware)
    middleware.set_broker(broker)
    return middleware


def _plain(container: Any) -> Any:
    """Return what holds a container's content: of a ``TaskiqState``, its data."""
    return vars(container)["data"] if "data" in getattr(container, "__dict__", {}) else container


# --- in the place of the library's methods ----------------------------------------------------------------------------


async def _startup(self: Any) -> None:
    await delegate_of(self).startup()


async def _shutdown(self: Any) -> None:
    await delegate_of(self).shutdown()


async def _kick(self: Any, message: BrokerMessage) -> None:
    await delegate_of(self).kick(message)


def _listen(self: Any) -> AsyncGenerator[bytes, None]:
    raise RuntimeError(f"{self!r} is adopted by a test, which runs its tasks by itself: it cannot be listened to")


async def _wait_all(self: Any) -> None:
    await delegate_of(self).wait_all()


def _find_task(self: Any, task_name: str) -> Any:
    return delegate_of(self).find_task(task_name)


_STAND_IN: dict[str, Callable[..., Any]] = {
    "startup": _startup,
    "shutdown": _shutdown,
    "kick": _kick,
    "listen": _listen,
    "find_task": _find_task,
    "wait_all": _wait_all,  # of an InMemoryBroker
}
