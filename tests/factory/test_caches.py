"""Caches and middlewares on the storage that the factory chooses."""

from typing import Any

import pytest
import taskiq_redis

from taskiq_flow import clock
from taskiq_flow.cache import InMemoryCacheAdapter, RedisCacheAdapter, StorageCacheAdapter
from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.storage import (
    StorageAdapterFactory,
)
from tests.contract.test_clocks import SixMethods

create = StorageAdapterFactory.create_storage_adapter


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://shared", InMemoryCacheAdapter),
        ("redis://h", RedisCacheAdapter),
        ("sqlite:///x", StorageCacheAdapter),
    ],
)
async def test_cache_owns_the_storage_that_the_settings_name(
    url: str, kind: type[StorageCacheAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TaskiqFlowConfig(storage_url=url, storage_namespace="shop")
    cache: Any = StorageAdapterFactory.create_cache_adapter(config, default_ttl=7, lock_timeout=3)
    assert type(cache) is kind
    assert (cache.default_ttl, cache.lock_timeout) == (7, 3)
    assert repr(cache.storage) == repr(create(config))

    closed = []

    async def note() -> None:
        closed.append(cache.storage)

    monkeypatch.setattr(cache.storage, "aclose", note)
    await cache.aclose()
    assert closed == [cache.storage], "it is the cache's own"


def test_cache_defaults() -> None:
    in_memory: Any = StorageAdapterFactory.create_cache_adapter(TaskiqFlowConfig())
    on_redis: Any = StorageAdapterFactory.create_cache_adapter(TaskiqFlowConfig(), redis_url="redis://h")
    for cache in (in_memory, on_redis):
        assert (cache.default_ttl, cache.lock_timeout) == (3600, 10)
    assert repr(on_redis.storage) == "RedisStorageAdapter(redis://h, namespace='taskiq_flow')"


def test_cache_is_on_the_brokers_server() -> None:
    cache = StorageAdapterFactory.create_cache_adapter(broker=taskiq_redis.ListQueueBroker("redis://h:1/2"))
    assert isinstance(cache, RedisCacheAdapter)
    assert "(redis://h:1/2 (the broker's), " in repr(cache.storage)


def test_cache_works_on_a_registered_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StorageAdapterFactory, "_builders", dict(StorageAdapterFactory._builders))
    StorageAdapterFactory.register_scheme("dict", lambda _url, _config: SixMethods(clock.now_ms, {}))
    cache = StorageAdapterFactory.create_cache_adapter(TaskiqFlowConfig(storage_url="dict://"))
    assert type(cache) is StorageCacheAdapter
    assert isinstance(cache.storage, SixMethods)


async def test_default_middlewares_share_one_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = StorageAdapterFactory.create_default_middlewares(
        TaskiqFlowConfig(storage_namespace="shop"), taskiq_redis.ListQueueBroker("redis://h:1/2")
    )
    assert {name: type(middleware).__name__ for name, middleware in made.items()} == {
        "storage": "StorageMiddleware",
        "cache": "CacheMiddleware",
    }
    storage, cache = made["storage"].storage, made["cache"].cache
    assert repr(storage) == "RedisStorageAdapter(redis://h:1/2 (the broker's), namespace='shop')"
    assert cache.storage is storage
    assert cache.lock_timeout == 300

    closed = []

    async def note() -> None:
        closed.append(storage)

    monkeypatch.setattr(storage, "aclose", note)
    for middleware in made.values():
        await middleware.shutdown()
    assert closed == [storage], "once, by the one that owns it"
