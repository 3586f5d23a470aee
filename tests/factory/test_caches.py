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
    assert cache.lock_timeout == 10

    closed = []

    async def note() -> None:
        closed.append(storage)

    monkeypatch.setattr(storage, "aclose", note)
    for middleware in made.values():
        await middleware.shutdown()
    assert closed == [storage], "once, by the one that owns it"


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({"cache_type": "memory", "storage_url": "redis://h"}, "memory://"),
        ({"cache_type": "redis", "storage_url": "redis://h"}, "redis://h"),
        ({"cache_type": "redis", "storage_url": "sqlite:///x"}, "redis://localhost:6379"),
        ({"cache_type": "redis", "storage_redis_url": "redis://h", "storage_type": "memory"}, "redis://h"),
        ({"cache_url": "redis://c", "storage_url": "sqlite:///x"}, "redis://c"),
        ({"cache_redis_url": "redis://c", "storage_url": "sqlite:///x", "storage_type": "sqlite"}, "redis://c"),
        ({"cache_enabled": False, "storage_url": "redis://h"}, "redis://h"),
    ],
)
def test_cache_settings_take_precedence_over_those_of_the_storage(settings: dict[str, Any], address: str) -> None:
    config = TaskiqFlowConfig(storage_namespace="shop", **settings)
    cache: Any = StorageAdapterFactory.create_cache_adapter(config)
    assert f"({address}, namespace='shop')" in repr(cache.storage)


def test_cache_settings_take_the_place_of_default_arguments() -> None:
    config = TaskiqFlowConfig(cache_default_ttl=7, cache_lock_timeout=3)
    cache: Any = StorageAdapterFactory.create_cache_adapter(config)
    assert (cache.default_ttl, cache.lock_timeout) == (7, 3)
    cache = StorageAdapterFactory.create_cache_adapter(config, default_ttl=8, lock_timeout=4)
    assert (cache.default_ttl, cache.lock_timeout) == (8, 4)


async def test_default_middlewares_close_a_cache_on_another_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TaskiqFlowConfig(storage_url="memory://results", cache_url="memory://cache", cache_lock_timeout=3)
    made = StorageAdapterFactory.create_default_middlewares(config)
    cache: Any = made["cache"].cache
    assert repr(made["storage"].storage) == "InMemoryStorageAdapter(memory://results, namespace='taskiq_flow')"
    assert repr(cache.storage) == "InMemoryStorageAdapter(memory://cache, namespace='taskiq_flow')"
    assert cache.lock_timeout == 3
    closed = []

    async def note() -> None:
        closed.append("cache")

    monkeypatch.setattr(cache.storage, "aclose", note)
    await made["cache"].shutdown()
    assert closed == ["cache"]


def test_default_middlewares_can_be_switched_off() -> None:
    made = StorageAdapterFactory.create_default_middlewares(TaskiqFlowConfig(storage_enabled=False))
    assert (made["storage"].enabled, made["cache"].enabled) == (False, True)
    made = StorageAdapterFactory.create_default_middlewares(TaskiqFlowConfig(cache_enabled=False))
    assert (made["storage"].enabled, made["cache"].enabled) == (True, False)
