"""``Workers``: several receivers that take turns at a broker's messages, each with adapters of its own."""

from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from itertools import cycle
from typing import TYPE_CHECKING, Any

from taskiq import AsyncBroker, BrokerMessage, TaskiqMiddleware
from taskiq.receiver import Receiver

from taskiq_flow.cache import StorageCacheAdapter
from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.middlewares import CacheMiddleware, StorageMiddleware
from taskiq_flow.result_backend import StorageResultBackend
from taskiq_flow.storage.base import BaseStorageAdapter

if TYPE_CHECKING:
    from taskiq_flow.pytest_plugin.broker import FlowBroker

__all__ = ["Workers"]

_SYNC_TASK_THREADS = 4
_MAX_ASYNC_TASKS = 100  # as many as `taskiq worker` runs at once


class Workers:
    """Workers on the storage of a ``FlowBroker``; an asynchronous context manager, within which they work.

    :param flow: whose messages they handle.
    :param count: how many workers.
    :param make_storage: makes an adapter on the storage, for each.
    :raises ConfigurationError: ``count`` is not above 0.
    """

    def __init__(self, flow: "FlowBroker", count: int, make_storage: Callable[[], BaseStorageAdapter]) -> None:
        if count < 1:
            raise ConfigurationError(f"workers({count!r}): there must be at least one")
        self._workers = [_Worker(flow, make_storage()) for _ in range(count)]
        self._turns = cycle(self._workers)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> None:
        for worker in self._workers:
            self._stack.push_async_callback(worker.shutdown)
            await worker.startup()

    async def __aexit__(self, *details: Any) -> None:
        await self._stack.__aexit__(*details)

    async def handle(self, message: BrokerMessage) -> None:
        """Let the next worker handle a message.

        :raises Exception: what went wrong while its result was saved.
        """
        await next(self._turns).receiver.callback(message.message, raise_err=True)


class _Worker(AsyncBroker):
    """A worker's broker: it knows the same tasks and sends to the same queue, and shares no connection."""

    def __init__(self, flow: "FlowBroker", storage: BaseStorageAdapter) -> None:
        super().__init__()
        self.is_worker_process = True
        self._flow = flow
        self._storage = storage
        self.serializer, self.formatter = flow.serializer, flow.formatter
        self.event_handlers = flow.event_handlers
        self.custom_dependency_context = dict(flow.custom_dependency_context)
        self.dependency_overrides = flow.dependency_overrides
        own_results = isinstance(flow.result_backend, StorageResultBackend)
        self.result_backend: Any = StorageResultBackend(storage) if own_results else flow.result_backend
        self.middlewares = [self._own(middleware) for middleware in flow.middlewares]
        self._executor = ThreadPoolExecutor(_SYNC_TASK_THREADS)
        self.receiver = Receiver(self, self._executor, max_async_tasks=_MAX_ASYNC_TASKS)

    def _own(self, middleware: TaskiqMiddleware) -> TaskiqMiddleware:
        """Return this worker's own where a middleware uses a storage; others, which do not, may serve all workers."""
        own: StorageMiddleware | CacheMiddleware
        if type(middleware) is StorageMiddleware:
            own = StorageMiddleware(self._storage, middleware.enabled)
        elif type(middleware) is CacheMiddleware and isinstance(middleware.cache, StorageCacheAdapter):
            cache = StorageCacheAdapter(self._storage, middleware.cache.default_ttl, middleware.cache.lock_timeout)
            own = CacheMiddleware(cache, middleware.enabled, middleware.default_ttl)
        else:
            return middleware
        own.on_failure = middleware.on_failure
        own.set_broker(self)
        return own

    def find_task(self, task_name: str) -> Any:
        return self._flow.find_task(task_name)

    async def kick(self, message: BrokerMessage) -> None:
        await self._flow.kick(message)

    def listen(self) -> AsyncGenerator[bytes, None]:
        raise RuntimeError("this worker is handed its messages")

    async def shutdown(self) -> None:
        await super().shutdown()
        await self._storage.aclose()
        self._executor.shutdown()
