"""``Workers``: several receivers that take turns at a broker's messages, each with adapters of its own."""

from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from itertools import cycle
from typing import Any

from taskiq import AsyncBroker, BrokerMessage, TaskiqMiddleware

from taskiq_flow.cache import StorageCacheAdapter
from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.middlewares import CacheMiddleware, StorageMiddleware
from taskiq_flow.pytest_plugin.broker.handlers import SYNC_TASK_THREADS, MessageHandler
from taskiq_flow.result_backend import StorageResultBackend
from taskiq_flow.storage.base import BaseStorageAdapter

__all__ = ["Workers"]


class Workers:
    """Workers for the messages of a test's brokers; an asynchronous context manager, within which they work.

    :param count: how many workers.
    :param make_storage: makes an adapter on the test's storage, for each.
    :raises ConfigurationError: if ``count`` is not above 0.
    """

    def __init__(self, count: int, make_storage: Callable[[], BaseStorageAdapter]) -> None:
        if count < 1:
            raise ConfigurationError(f"workers({count!r}): there must be at least one")
        self._workers = [_Worker(make_storage()) for _ in range(count)]
        self._turns = cycle(self._workers)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> None:
        for worker in self._workers:
            self._stack.push_async_callback(worker.shutdown)

    async def __aexit__(self, *details: Any) -> None:
        await self._stack.__aexit__(*details)

    async def handle(self, broker: AsyncBroker, message: BrokerMessage) -> None:
        """Let the next worker handle a message that was sent to a broker.

        :raises Exception: what went wrong while its result was saved.
        """
        await next(self._turns).handle(broker, message)


class _Worker:
    """What a worker process has of its own: connections, threads, and middlewares that use a storage."""

    def __init__(self, storage: BaseStorageAdapter) -> None:
        self._storage = storage
        self._executor = ThreadPoolExecutor(SYNC_TASK_THREADS)
        self._handlers: dict[int, MessageHandler] = {}

    async def handle(self, broker: AsyncBroker, message: BrokerMessage) -> None:
        if (handler := self._handlers.get(id(broker))) is None:
            handler = self._handlers[id(broker)] = MessageHandler(_WorkerBroker(broker, self._storage))
        await handler.handle(message, self._executor)

    async def shutdown(self) -> None:
        await self._storage.aclose()
        self._executor.shutdown()


class _WorkerBroker(AsyncBroker):
    """A worker's broker: with what another has, and sending to its queue, but with connections of its own."""

    def __init__(self, broker: AsyncBroker, storage: BaseStorageAdapter) -> None:
        super().__init__()
        self.is_worker_process = True
        self._broker = broker
        self._storage = storage
        self.serializer, self.formatter, self.state = broker.serializer, broker.formatter, broker.state
        self.custom_dependency_context = dict(broker.custom_dependency_context)
        self.dependency_overrides = broker.dependency_overrides
        is_ours = type(broker.result_backend) is StorageResultBackend
        self.result_backend: Any = (
            StorageResultBackend(storage, check_on_startup=False) if is_ours else broker.result_backend
        )
        self.middlewares = [self._own(middleware) for middleware in broker.middlewares]

    def _own(self, middleware: TaskiqMiddleware) -> TaskiqMiddleware:
        """Return this worker's own where a middleware uses a storage; others, which do not, may serve all workers."""
        own: StorageMiddleware | CacheMiddleware
        if type(middleware) is StorageMiddleware:
            own = StorageMiddleware(self._storage, middleware.enabled, check_on_startup=False)
        elif type(middleware) is CacheMiddleware and isinstance(middleware.cache, StorageCacheAdapter):
            cache = StorageCacheAdapter(self._storage, middleware.cache.default_ttl, middleware.cache.lock_timeout)
            own = CacheMiddleware(cache, middleware.enabled, middleware.default_ttl)
        else:
            return middleware
        own.on_failure = middleware.on_failure
        own.set_broker(self)
        return own

    def find_task(self, task_name: str) -> Any:
        return self._broker.find_task(task_name)

    async def kick(self, message: BrokerMessage) -> None:
        await self._broker.kick(message)

    def listen(self) -> AsyncGenerator[bytes, None]:
        raise RuntimeError("this worker is handed its messages")
