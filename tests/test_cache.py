"""Caches over storages: what is special to them, beyond the contract: processes, connections, and what lies there."""

import asyncio
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from taskiq_flow.cache import (
    BaseCacheAdapter,
    InMemoryCacheAdapter,
    RedisCacheAdapter,
    StorageCacheAdapter,
)
from taskiq_flow.clock import FrozenClock
from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import (
    ConfigurationError,
    InvalidTTLError,
    SerializationError,
    StorageConnectionError,
)
from taskiq_flow.pytest_plugin import StorageBackend
from taskiq_flow.records.errors import StandInError
from taskiq_flow.storage import BaseStorageAdapter, InMemoryStorageAdapter, RedisStorageAdapter
from taskiq_flow.storage.factory import StorageAdapterFactory

BETWEEN_PROCESSES = pytest.mark.storage_backends(exclude=("memory", "fakeredis"))
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["taskiq_flow.storage.sql", "taskiq_flow.storage.redis", "aiosqlite", __name__])


# --- processes --------------------------------------------------------------------------------------------------------


def stampede(config: TaskiqFlowConfig, callers: int, start: Barrier, log: Path, answers: Connection) -> None:
    async def create() -> dict[str, int]:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        await asyncio.sleep(0.05)  # long enough for the other processes, whose clock is the real one, to find it begun
        return {"made by": os.getpid()}

    async def ask() -> list[Any]:
        async with StorageCacheAdapter(StorageAdapterFactory.create_storage_adapter(config)) as cache:
            await cache.get("warm")
            start.wait(60)
            values = await asyncio.gather(*(cache.get_or_create("key", create) for _ in range(callers)))
            await cache.storage.aclose()
            return values

    answers.send(asyncio.run(ask()))


@BETWEEN_PROCESSES
def test_of_200_callers_in_4_processes_one_creates(storage_config: TaskiqFlowConfig, tmp_path: Path) -> None:
    start, log, processes, ends = PROCESSES.Barrier(4), tmp_path / "created", [], []
    for _ in range(4):
        ours, theirs = PROCESSES.Pipe()
        processes.append(PROCESSES.Process(target=stampede, args=(storage_config, 50, start, log, theirs)))
        ends.append((ours, theirs))
        processes[-1].start()
    values: list[Any] = []
    for process, (ours, theirs) in zip(processes, ends, strict=True):
        values += ours.recv() if ours.poll(60) else ["no answer"]
        process.join()
        process.close()
        ours.close()
        theirs.close()
    (creator,) = log.read_text().split()
    assert values == [{"made by": int(creator)}] * 200


def hold(config: TaskiqFlowConfig, key: str, begun: Connection) -> None:
    async def never() -> None:
        begun.send("begun")
        await asyncio.Event().wait()

    async def ask() -> None:
        cache = StorageCacheAdapter(StorageAdapterFactory.create_storage_adapter(config), lock_timeout=1)
        await cache.get_or_create(key, never)

    asyncio.run(ask())


@BETWEEN_PROCESSES
async def test_a_holder_that_is_killed_frees_its_key(
    storage_config: TaskiqFlowConfig, make_cache_adapter: Callable[..., StorageCacheAdapter]
) -> None:
    ours, theirs = PROCESSES.Pipe()
    with ours, theirs:
        holder = PROCESSES.Process(target=hold, args=(storage_config, "key", theirs))
        holder.start()
        assert ours.recv() == "begun"
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
        holder.close()
    # No frozen clock: the other process has only the real one.
    cache = make_cache_adapter(lock_timeout=1)
    assert await cache.get("key", "nothing") == "nothing"
    assert await cache.get_or_create("key", lambda: "value") == "value"
    assert cache.get_stats().created == 1


class TheirError(Exception):
    """An error whose class another process does not know."""

    __module__ = "a.module.of.theirs"


async def test_an_error_of_an_unknown_class_comes_as_a_stand_in(
    make_cache_adapter: Callable[..., StorageCacheAdapter],
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def fail() -> None:
        begun.set()
        await go_on.wait()
        raise TheirError("sold out")

    failing = asyncio.ensure_future(make_cache_adapter().get_or_create("key", fail))
    await begun.wait()
    waiting = asyncio.ensure_future(make_cache_adapter().get_or_create("key", fail))
    await asyncio.sleep(0.05)  # it looks at the storage, which may be a real server
    go_on.set()
    with pytest.raises(TheirError):
        await failing
    with pytest.raises(StandInError, match=r"a\.module\.of\.theirs\.TheirError: sold out"):
        await waiting


# --- connections ------------------------------------------------------------------------------------------------------


@pytest.mark.storage_backends("redis")
async def test_who_waits_holds_no_connection(
    storage_backend: StorageBackend, storage_config: TaskiqFlowConfig, tmp_path: Path
) -> None:
    def one_connection() -> RedisStorageAdapter:
        return RedisStorageAdapter(
            storage_backend.url, namespace=storage_config.storage_namespace, max_connections=1, operation_timeout=5
        )

    async with one_connection() as storage, one_connection() as elsewhere:
        cache, other = StorageCacheAdapter(storage), StorageCacheAdapter(elsewhere)
        begun = asyncio.Event()

        async def create() -> str:
            begun.set()
            for _ in range(20):
                await asyncio.gather(storage.set("used by the creator", 1), elsewhere.get("used by others"))
            return "value"

        calls = [asyncio.ensure_future(cache.get_or_create("key", create)) for _ in range(20)]
        await begun.wait()
        calls += [asyncio.ensure_future(other.get_or_create("key", create)) for _ in range(20)]
        assert await asyncio.gather(*calls) == ["value"] * 40


async def test_a_server_that_is_gone_is_an_error() -> None:
    async with RedisCacheAdapter("redis://:hush@127.0.0.1:1") as cache:
        for call in (cache.get("key"), cache.set("key", 1), cache.get_or_create("key", lambda: 1), cache.clear()):
            with pytest.raises(StorageConnectionError) as caught:
                await call
            assert "hush" not in str(caught.value)
        assert "hush" not in repr(cache)


# --- what lies in the storage -----------------------------------------------------------------------------------------


async def test_values_lie_in_the_storage_as_they_are(
    cache_adapter: StorageCacheAdapter, storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock
) -> None:
    storage = cache_adapter.storage
    await cache_adapter.set("set", {"a": [1]}, ttl_seconds=5)
    await cache_adapter.get_or_create("created", lambda: (1, 2))
    assert await storage.keys("*") == ["cache:created", "cache:set"]
    assert await storage.get("cache:set") == {"a": [1]}
    assert await storage.get("cache:created") == (1, 2)
    frozen_clock.tick(5)
    assert await storage.cleanup() == 1


async def test_what_is_stored_may_look_like_a_mark(cache_adapter: StorageCacheAdapter) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def create() -> str:
        begun.set()
        await go_on.wait()
        return "created"

    creating = asyncio.ensure_future(cache_adapter.get_or_create("key", create))
    await begun.wait()
    mark = await cache_adapter.storage.get("cache:key")
    go_on.set()
    await creating
    assert isinstance(mark, dict)
    for value in (mark, {**mark, "by": 1}, dict.fromkeys(mark, "value")):
        await cache_adapter.set("lookalike", value)
        assert await cache_adapter.get("lookalike") == value
        assert await cache_adapter.get_or_create("lookalike", lambda: "another") == value


async def test_other_entries_of_the_storage_stay(cache_adapter: StorageCacheAdapter) -> None:
    storage = cache_adapter.storage
    for key in ("task:1", "cache", "Cache:key", "cache_key", "xcache:key"):
        await storage.set(key, "theirs")
    await cache_adapter.set("key", 1)
    assert await cache_adapter.clear() == 1
    assert len(await storage.keys()) == 5


async def test_what_is_foreign_is_an_error_until_it_is_forgotten(cache_adapter: StorageCacheAdapter) -> None:
    mark = "taskiq_flow:cache"
    for foreign in ({mark: "creating"}, {mark: "failed", "error": {}}, {mark: "failed", "error": 1}, {mark: 1}):
        await cache_adapter.storage.set("cache:key", foreign)
        with pytest.raises(SerializationError, match="'cache:key'"):
            await cache_adapter.get("key")
        with pytest.raises(SerializationError, match="'cache:key'"):
            await cache_adapter.get_or_create("key", lambda: 1)
        assert await cache_adapter.invalidate("key")
        assert await cache_adapter.get_or_create("key", lambda: 1) == 1


async def test_the_longest_keys_are_hashed(cache_adapter: StorageCacheAdapter) -> None:
    longest = ["k" * 1023 + end for end in "ab"] + ["ä" * 512]
    for key in longest:
        await cache_adapter.set(key, key)
    assert [await cache_adapter.get(key) for key in longest] == longest
    assert all(name.startswith("cache:sha256:") for name in await cache_adapter.storage.keys())
    just_short_enough = "k" * (1024 - len("cache:"))
    await cache_adapter.set(just_short_enough, 1)
    assert f"cache:{just_short_enough}" in await cache_adapter.storage.keys()


async def test_nothing_of_a_failure_outlives_the_lock(
    cache_adapter: StorageCacheAdapter, frozen_clock: FrozenClock
) -> None:
    def fail() -> None:
        raise LookupError("no such thing")

    with pytest.raises(LookupError):
        await cache_adapter.get_or_create("key", fail)
    frozen_clock.tick(10)
    assert await cache_adapter.storage.keys() == []


# --- adapters of one's own --------------------------------------------------------------------------------------------


class SixMethods(BaseStorageAdapter):
    """An adapter with the six abstract methods, and nothing that is atomic."""

    def __init__(self) -> None:
        self._inner = InMemoryStorageAdapter()

    async def get(self, key: str) -> Any:
        return await self._inner.get(key)

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await self._inner.set(key, value, ttl_seconds)

    async def delete(self, key: str) -> bool:
        return await self._inner.delete(key)

    async def exists(self, key: str) -> bool:
        return await self._inner.exists(key)

    async def keys(self, pattern: str = "*") -> list[str]:
        return await self._inner.keys(pattern)

    async def cleanup(self, ttl_seconds: int = 3600) -> int:
        return await self._inner.cleanup(ttl_seconds)


async def test_over_six_methods_one_creates_in_each_process() -> None:
    calls = []

    async def create() -> str:
        calls.append(1)
        await asyncio.sleep(0)
        return "value"

    async with StorageCacheAdapter(SixMethods()) as cache:
        assert await asyncio.gather(*(cache.get_or_create("key", create) for _ in range(20))) == ["value"] * 20
        assert len(calls) == 1
        assert await cache.get("key") == "value"
        assert await cache.invalidate("key")
        with pytest.raises(ZeroDivisionError):
            await cache.get_or_create("key", lambda: 1 / 0)
        assert await cache.get("key", "nothing") == "nothing"
        assert await cache.clear() == 1, "the note of the failure"


class WatchedStorage(InMemoryStorageAdapter):
    """Counts how often it was closed."""

    closed = 0

    async def aclose(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("kind", [StorageCacheAdapter, InMemoryCacheAdapter, RedisCacheAdapter])
async def test_a_storage_that_was_handed_in_stays_open_unless_it_is_handed_over(kind: Any) -> None:
    for owns_storage in (None, False, True):
        storage = WatchedStorage()
        async with kind(storage=storage, owns_storage=owns_storage):
            pass
        assert storage.closed == bool(owns_storage)


async def test_a_storage_that_was_made_here_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Any] = []

    async def aclose(storage: Any) -> None:
        closed.append(storage)

    for kind, storage in ((InMemoryCacheAdapter, InMemoryStorageAdapter), (RedisCacheAdapter, RedisStorageAdapter)):
        monkeypatch.setattr(storage, "aclose", aclose)
        async with kind() as cache:
            pass
        assert closed.pop() is cache.storage


async def test_a_prefix_means_the_same_with_a_colon_and_without() -> None:
    storage = InMemoryStorageAdapter()
    with_colon, without = (StorageCacheAdapter(storage, prefix=prefix) for prefix in ("prices:", "prices"))
    await with_colon.set("key", 1)
    assert await without.get("key") == 1
    assert await storage.keys() == ["prices:key"]
    assert await without.clear() == 1


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"storage": "redis://"}, ConfigurationError),
        ({"default_ttl": 0}, InvalidTTLError),
        ({"default_ttl": True}, InvalidTTLError),
        ({"lock_timeout": 0}, ConfigurationError),
        ({"lock_timeout": float("inf")}, ConfigurationError),
        ({"lock_timeout": 1e12}, InvalidTTLError),
        ({"prefix": ""}, ConfigurationError),
        ({"prefix": ":"}, ConfigurationError),
        ({"prefix": "p" * 1000}, ConfigurationError),
        ({"prefix": None}, ConfigurationError),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        StorageCacheAdapter(**{"storage": InMemoryStorageAdapter(), **settings})


# --- the factory ------------------------------------------------------------------------------------------------------


async def test_the_factory_makes_a_cache_on_the_storage_of_the_settings(storage_config: TaskiqFlowConfig) -> None:
    async with StorageAdapterFactory.create_cache_adapter(storage_config, default_ttl=60, lock_timeout=5) as cache:
        assert isinstance(cache, StorageCacheAdapter)
        assert (cache.default_ttl, cache.lock_timeout) == (60, 5)
        await cache.set("key", 1)
        async with StorageAdapterFactory.create_storage_adapter(storage_config) as storage:
            entry = await storage.get_entry("cache:key")
            assert entry is not None
            assert entry.expires_at is not None
            assert (entry.expires_at - entry.created_at).total_seconds() == 60


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({}, InMemoryCacheAdapter),
        ({"redis_url": "redis://h"}, RedisCacheAdapter),
        ({"config": TaskiqFlowConfig(storage_url="sqlite+aiosqlite://")}, StorageCacheAdapter),
    ],
)
def test_the_factorys_choice(arguments: dict[str, Any], kind: type[BaseCacheAdapter]) -> None:
    cache = StorageAdapterFactory.create_cache_adapter(**arguments)
    assert type(cache) is kind
    assert isinstance(cache, StorageCacheAdapter)
    assert (cache.default_ttl, cache.lock_timeout) == (3600, 10)


def test_stored_errors_are_readable(tmp_path: Path) -> None:
    async def fail_once() -> Any:
        async with StorageCacheAdapter(
            StorageAdapterFactory.create_storage_adapter(
                TaskiqFlowConfig(storage_url=f"sqlite+aiosqlite:///{tmp_path}/cache.db")
            ),
            owns_storage=True,
        ) as cache:
            with pytest.raises(ZeroDivisionError):
                await cache.get_or_create("key", lambda: 1 / 0)
            return await cache.storage.get("cache:key")

    told = asyncio.run(fail_once())
    assert json.loads(json.dumps(told))["error"]["name"] == "ZeroDivisionError"
