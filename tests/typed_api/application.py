"""An application: settings, storage, middlewares, results, schedules, caches."""

from typing import Any, assert_type

from taskiq import AsyncBroker, InMemoryBroker

import taskiq_flow
from taskiq_flow import (
    BaseCacheAdapter,
    BaseStorageAdapter,
    CacheMiddleware,
    Findings,
    History,
    InMemoryCacheAdapter,
    InMemoryStorageAdapter,
    Pipeline,
    PipelineMiddleware,
    RedisCacheAdapter,
    RedisStorageAdapter,
    SQLAlchemyStorageAdapter,
    SQLiteStorageAdapter,
    StorageAdapterFactory,
    StorageCacheAdapter,
    StorageEntry,
    StorageError,
    StorageMiddleware,
    StorageResultBackend,
    StorageScheduleSource,
    TaskiqFlowConfig,
    TaskiqFlowError,
)
from taskiq_flow.storage import BaseCacheAdapter as CacheOfTheStoragePackage

assert_type(taskiq_flow.__version__, str)
taskiq_flow.StoreageEntry  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] # noqa: B018 - the mistake is the point

config = TaskiqFlowConfig(storage_type="redis", storage_redis_url="redis://localhost", storage_ttl_seconds=3600)
TaskiqFlowConfig(storage_type="mongo")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
TaskiqFlowConfig(storage_urll="memory://")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

storage = StorageAdapterFactory.create_storage_adapter(config)
assert_type(storage, BaseStorageAdapter)
StorageAdapterFactory.create_storage_adapter(type="sqlite", ttl_seconds=1.5)
StorageAdapterFactory.create_storage_adapter(type="mongo")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

adapters: list[BaseStorageAdapter] = [
    InMemoryStorageAdapter(60),
    RedisStorageAdapter("redis://localhost", ttl_seconds=60),
    SQLAlchemyStorageAdapter("postgresql://localhost/db"),
    SQLiteStorageAdapter(db_url="sqlite:///results.db", async_mode=True),
]
caches: list[BaseCacheAdapter] = [
    InMemoryCacheAdapter(default_ttl=60),
    RedisCacheAdapter("redis://localhost"),
    StorageCacheAdapter(storage),
    StorageAdapterFactory.create_cache_adapter(config),
]
same: list[CacheOfTheStoragePackage] = caches

broker: AsyncBroker = InMemoryBroker().with_result_backend(StorageResultBackend[Any](storage))
middlewares = StorageAdapterFactory.create_default_middlewares(config, broker)
assert_type(middlewares["storage"], StorageMiddleware)
assert_type(middlewares["cache"], CacheMiddleware)
middlewares["pipeline"]  # type: ignore[typeddict-item]  # pyright: ignore[reportGeneralTypeIssues]
broker.add_middlewares(middlewares["storage"], middlewares["cache"], PipelineMiddleware())
source = StorageScheduleSource(storage)


@broker.task
async def double(number: int) -> int:
    return 2 * number


async def use() -> None:
    await storage.set("key", {"a": 1}, ttl_seconds=60)
    assert_type(await storage.exists("key"), bool)
    assert_type(await storage.keys("k*"), list[str])
    assert_type(await storage.get_entry("key"), StorageEntry | None)
    async with storage as opened:
        assert_type(opened, BaseStorageAdapter)
    pipeline = Pipeline(broker, double).call_next(double)
    await pipeline.kiq(10)
    assert_type(await History(storage).last(10), Findings)
    try:
        await storage.get("key")
    except StorageError as error:
        assert_type(error.message, str)
        known: TaskiqFlowError = error
        raise known from None
