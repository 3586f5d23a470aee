"""What a cache of one process counts and says."""

import asyncio
import hashlib
import logging
from typing import Any

import anyio
import pytest

from taskiq_flow import clock
from taskiq_flow.cache import CacheStats, InMemoryCacheAdapter, RedisCacheAdapter, StorageCacheAdapter
from taskiq_flow.exceptions import ConfigurationError, SerializationError, StorageConnectionError
from taskiq_flow.storage import InMemoryStorageAdapter, rules
from tests.adapters import SixMethods

MARK = "taskiq_flow:cache"


async def test_what_is_counted() -> None:
    cache = InMemoryCacheAdapter()
    assert cache.get_stats() == CacheStats(0, 0, 0, 0, 0)
    assert await cache.get("key", "nothing") == "nothing"
    assert cache.get_stats() == CacheStats(hits=0, misses=1, created=0, waited=0, failed=0)
    assert await cache.get_or_create("key", lambda: 1) == 1
    assert cache.get_stats() == CacheStats(hits=0, misses=2, created=1, waited=0, failed=0)
    assert await cache.get("key") == await cache.get_or_create("key", lambda: 2) == 1
    assert cache.get_stats() == CacheStats(hits=2, misses=2, created=1, waited=0, failed=0)
    with pytest.raises(ZeroDivisionError):
        await cache.get_or_create("another", lambda: 1 / 0)
    assert cache.get_stats() == CacheStats(hits=2, misses=3, created=1, waited=0, failed=1)


async def test_who_waits_gets_the_creators_error_and_creates_nothing() -> None:
    cache = InMemoryCacheAdapter()
    calls: list[int] = []

    async def fail() -> None:
        calls.append(1)
        await asyncio.sleep(0)
        raise LookupError("no such thing")

    outcomes = await asyncio.gather(*(cache.get_or_create("key", fail) for _ in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LookupError] * 5
    assert len(calls) == 1


async def test_who_waits_for_another_process_is_counted() -> None:
    storage = InMemoryStorageAdapter()
    one, another = (InMemoryCacheAdapter(storage=storage) for _ in range(2))
    may_end = asyncio.Event()

    async def create() -> int:
        await may_end.wait()
        return 1

    creating = asyncio.ensure_future(one.get_or_create("key", create))
    await asyncio.sleep(0)
    waiting = asyncio.ensure_future(another.get_or_create("key", create))
    await asyncio.sleep(0)
    may_end.set()
    assert [await creating, await waiting] == [1, 1]
    assert one.get_stats() == CacheStats(hits=0, misses=1, created=1, waited=0, failed=0)
    assert another.get_stats() == CacheStats(hits=0, misses=1, created=0, waited=1, failed=0)


async def test_only_values_are_invalidated() -> None:
    cache = InMemoryCacheAdapter()
    assert not await cache.invalidate("key")
    with pytest.raises(ZeroDivisionError):
        await cache.get_or_create("key", lambda: 1 / 0)
    assert await cache.storage.keys() == ["cache:key"], "the mark of the failure"
    assert not await cache.invalidate("key")
    assert await cache.storage.keys() == []
    await cache.set("key", None)
    assert await cache.invalidate("key")


def test_what_it_is_called() -> None:
    assert repr(RedisCacheAdapter()) == (
        "RedisCacheAdapter(RedisStorageAdapter(redis://localhost:6379, namespace='taskiq_flow'), prefix='cache')"
    )


def test_what_is_said_of_bad_settings() -> None:
    wrong: Any = "redis://h"
    with pytest.raises(ConfigurationError) as raised:
        StorageCacheAdapter(wrong)
    assert str(raised.value) == "storage must be a BaseStorageAdapter, not 'redis://h'"
    with pytest.raises(ConfigurationError, match=r"^lock_timeout must be a number of seconds above 0, not 0$"):
        InMemoryCacheAdapter(lock_timeout=0)


def test_the_longest_prefix() -> None:
    assert StorageCacheAdapter(InMemoryStorageAdapter(), prefix="p" * 952)
    with pytest.raises(ConfigurationError, match=r"^prefix cannot be used: with an id, the storage key 'ppp"):
        StorageCacheAdapter(InMemoryStorageAdapter(), prefix="p" * 953)


async def test_a_creator_that_asks_for_its_own_key() -> None:
    cache = InMemoryCacheAdapter()

    async def create() -> object:
        return await cache.get_or_create("key", create)

    with pytest.raises(RuntimeError) as raised:
        await cache.get_or_create("key", create)
    assert str(raised.value) == "the creator of cache key 'key' asks for that key itself"


async def test_what_cannot_be_stored_is_named() -> None:
    with pytest.raises(SerializationError, match=r"^what was created for cache key 'cache:key', at value\[0\]: "):
        await InMemoryCacheAdapter().get_or_create("key", lambda: [1j])


async def test_what_is_foreign_is_named() -> None:
    cache = InMemoryCacheAdapter()
    await cache.storage.set("cache:key", {MARK: "nonsense"})
    with pytest.raises(SerializationError) as raised:
        await cache.get("key")
    assert str(raised.value) == "the entry under key 'cache:key' is no cached value"


async def test_a_key_that_could_not_be_let_go_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = InMemoryCacheAdapter(lock_timeout=7.5)

    async def fail() -> None:
        async def refuse(*_: object) -> bool:
            raise StorageConnectionError("the server is gone")

        monkeypatch.setattr(cache.storage, "compare_and_set", refuse)
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        await cache.get_or_create("key", fail)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "cache key 'cache:key' stays locked for 7.5 s: the server is gone")
    ]


async def test_what_is_foreign_is_named_to_who_waits() -> None:
    cache = InMemoryCacheAdapter()
    await cache.storage.set("cache:key", {MARK: "creating", "by": "somebody else"})
    waiting = asyncio.ensure_future(cache.get_or_create("key", lambda: 1))
    await asyncio.sleep(0)
    await cache.storage.set("cache:key", {MARK: "nonsense"})
    with pytest.raises(SerializationError, match=r"^the entry under key .cache:key. is no cached value$"):
        await waiting


class Slow(InMemoryStorageAdapter):
    """A storage that takes its time for each exchange, as a server does."""

    async def compare_and_set(self, *arguments: Any) -> bool:
        await asyncio.sleep(0.02)
        return await super().compare_and_set(*arguments)


async def test_who_runs_out_of_time_lets_go_of_the_key_all_the_same() -> None:
    cache = StorageCacheAdapter(Slow())
    with anyio.move_on_after(0.05) as scope:
        await cache.get_or_create("key", lambda: asyncio.sleep(60))
    assert scope.cancelled_caught
    assert await cache.storage.keys() == []


# --- creators that die, or are slow -----------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"lock_timeout": 1e300}, {"lock_timeout": "x"}, {"lock_timeout": -1}])
async def test_a_mark_that_has_lost_its_expiry_is_not_waited_for_for_ever(more: dict[str, Any]) -> None:
    cache = InMemoryCacheAdapter(lock_timeout=30)
    with clock.freeze() as frozen:
        await cache.storage.set("cache:key", {MARK: "creating", "by": "somebody", **more}, rules.MAX_TTL_SECONDS)
        waiting = asyncio.ensure_future(cache.get_or_create("key", lambda: "created"))
        await settle()
        assert not waiting.done()
        frozen.tick(3600)
        assert await waiting == "created"
        assert await cache.get("key") == "created"


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def renewals_of(cache: StorageCacheAdapter) -> Any:
    mark = await cache.storage.get("cache:key")
    return mark and mark.get("renewed")


async def next_renewal(cache: StorageCacheAdapter) -> None:
    before = await renewals_of(cache)
    async with asyncio.timeout(60):
        while await renewals_of(cache) == before:  # noqa: ASYNC110 - it is not us who renews it
            await asyncio.sleep(0.005)  # renewals go by the event loop's time, which nobody can move


@pytest.mark.parametrize("six_methods", [False, True])
async def test_a_slow_creator_is_not_overtaken_while_it_renews_its_hold(six_methods: bool) -> None:
    storage: Any = InMemoryStorageAdapter()
    if six_methods:
        storage = SixMethods(storage)
    one, another = (StorageCacheAdapter(storage, lock_timeout=0.3) for _ in range(2))
    may_end = asyncio.Event()

    async def create() -> str:
        await may_end.wait()
        return "slow"

    with clock.freeze() as frozen:
        slow = asyncio.ensure_future(one.get_or_create("key", create))
        await settle()
        waiting = asyncio.ensure_future(another.get_or_create("key", lambda: "fast"))
        for _ in range(5):
            await next_renewal(one)
            frozen.tick(0.29)
            await settle()
        assert not waiting.done()
        may_end.set()
        assert [await slow, await waiting] == ["slow", "slow"]
        assert await one.get("key") == "slow"
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, "nothing is renewed any more"


@pytest.mark.parametrize("end", ["fails", "is cancelled", "is overtaken"])
async def test_a_creator_that_has_renewed_its_hold_lets_go_of_it(end: str) -> None:
    cache = InMemoryCacheAdapter(lock_timeout=0.3)
    may_end = asyncio.Event()

    async def create() -> str:
        await may_end.wait()
        if end == "fails":
            raise LookupError("no such thing")
        return "old"

    with clock.freeze():
        creating = asyncio.ensure_future(cache.get_or_create("key", create))
        await settle()
        await next_renewal(cache)
        if end == "is overtaken":
            await cache.set("key", "new")
        if end == "is cancelled":
            creating.cancel()
        may_end.set()
        await asyncio.wait([creating])
        assert creating.cancelled() or isinstance(creating.exception(), LookupError) or creating.result() == "old"
        assert await cache.get_or_create("key", lambda: "new") == "new"
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, "nothing is renewed any more"


@pytest.mark.parametrize("is_stored", [False, True])
async def test_a_renewal_that_fails_is_tried_again_and_the_value_is_stored(is_stored: bool) -> None:
    failures = 0

    class Failing(InMemoryStorageAdapter):
        async def compare_and_set(self, key: str, expected: Any, value: Any, ttl_seconds: float | None = None) -> bool:
            nonlocal failures
            is_renewal = type(value) is dict and value.get("renewed", 0) > 0
            if is_renewal and not failures:
                failures += 1
                if is_stored:  # and only the answer is lost
                    await super().compare_and_set(key, expected, value, ttl_seconds)
                raise StorageConnectionError("no answer")
            return await super().compare_and_set(key, expected, value, ttl_seconds)

    cache = StorageCacheAdapter(Failing(), lock_timeout=0.3)
    for wait_for_another in (True, False):
        failures, may_end = 0, asyncio.Event()

        async def create(may_end: asyncio.Event = may_end) -> str:
            await may_end.wait()
            return "value"

        with clock.freeze():
            creating = asyncio.ensure_future(cache.get_or_create("key", create))
            async with asyncio.timeout(60):
                while not failures:  # noqa: ASYNC110 - it is not us who fails
                    await asyncio.sleep(0.005)
            if wait_for_another:
                await next_renewal(cache)
            may_end.set()
            assert await creating == "value"
            assert await cache.get("key") == "value"
            await cache.clear()


class TestOverSixMethods:
    """Nothing is atomic over a read and a write there: what is done instead."""

    @pytest.fixture
    def cache(self) -> StorageCacheAdapter:
        return StorageCacheAdapter(SixMethods(InMemoryStorageAdapter()), default_ttl=60)

    async def test_values_expire(self, cache: StorageCacheAdapter) -> None:
        with clock.freeze() as frozen:
            assert await cache.get_or_create("key", lambda: 1) == 1
            frozen.tick(59.999)
            assert await cache.get("key") == 1
            frozen.tick(0.001)
            assert await cache.get("key") is None

    async def test_who_is_cancelled_lets_go_of_the_key(self, cache: StorageCacheAdapter) -> None:
        creating = asyncio.ensure_future(cache.get_or_create("key", lambda: asyncio.sleep(60)))
        while not await cache.storage.keys():  # noqa: ASYNC110 - it is not us who stores it
            await asyncio.sleep(0)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        assert await cache.storage.keys() == []

    async def test_who_comes_second_creates_nothing(
        self, cache: StorageCacheAdapter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, get = [None], cache.storage.get

        async def a_moment_before(key: str) -> object:
            return first.pop() if first else await get(key)

        await cache.set("key", "theirs")
        monkeypatch.setattr(cache.storage, "get", a_moment_before)
        assert await cache.get_or_create("key", lambda: "ours") == "theirs"


async def test_two_legal_keys_never_share_an_entry() -> None:
    """A key that is too long is kept under its hash, which may be another key's text."""
    long = "k" * 1024
    digest = f"sha256:{hashlib.sha256(long.encode()).hexdigest()}"
    async with InMemoryCacheAdapter() as cache:
        await cache.set(long, "long")
        await cache.set(digest, "its hash")
        assert await cache.get(long) == "long"
        assert await cache.get(digest) == "its hash"
        await cache.invalidate(digest)
        assert await cache.get(long) == "long"
