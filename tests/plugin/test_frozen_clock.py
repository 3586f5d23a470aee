"""The frozen clock, on every storage: exact to the millisecond, however long the test really takes."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from taskiq_flow.clock import FrozenClock
from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.pytest_plugin import StorageBackend
from taskiq_flow.storage import BaseStorageAdapter, StorageAdapterFactory
from tests.inner import InnerRun, on


async def test_ttl_is_exact_to_the_millisecond(storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock) -> None:
    await storage_adapter.set("key", "value", ttl_seconds=60)
    frozen_clock.tick(59.999)
    assert await storage_adapter.get("key") == "value"
    frozen_clock.tick(0.001)
    assert await storage_adapter.get("key") is None


async def test_real_time_does_not_end_a_life(
    storage_adapter: BaseStorageAdapter, storage_config: TaskiqFlowConfig, frozen_clock: FrozenClock
) -> None:
    async with StorageAdapterFactory.create_storage_adapter(storage_config) as built_by_the_users_code:
        await storage_adapter.set("mine", 1, ttl_seconds=0.05)
        await built_by_the_users_code.set("theirs", 2, ttl_seconds=0.05)
        await asyncio.sleep(0.2)  # real time has to pass: that it does not count is what is tested
        frozen_clock.tick(0.049)
        assert await built_by_the_users_code.get("mine") == 1
        assert await storage_adapter.get("theirs") == 2
        frozen_clock.tick(0.001)
        assert await built_by_the_users_code.get("mine") is None
        assert await storage_adapter.get("theirs") is None
        assert await storage_adapter.cleanup() == 2


@pytest.mark.frozen_clock("2030-01-01T00:00:00Z")
def test_arguments_of_the_marker_may_do_without_names(frozen_clock: FrozenClock) -> None:
    assert frozen_clock.now() == datetime(2030, 1, 1, tzinfo=timezone.utc)


def test_a_marker_with_too_many_arguments_is_refused(inner: InnerRun) -> None:
    code = """
        import pytest

        @pytest.mark.frozen_clock("2030-01-01T00:00:00Z", False, True)
        def test_it(frozen_clock): ...
    """
    result = inner(code)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*marker frozen_clock takes at, everything, not ('2030-01-01T00:00:00Z', False, True)"]
    )


@pytest.fixture
async def stored_by_a_fixture(storage_adapter: BaseStorageAdapter) -> None:
    await storage_adapter.set("early", 1, ttl_seconds=0.2)


# The clock is asked for last, and is yet frozen before anything is stored.
async def test_clock_is_frozen_before_fixtures_store(
    stored_by_a_fixture: None, storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock
) -> None:
    await asyncio.sleep(0.3)  # real time has to pass
    assert await storage_adapter.get("early") == 1


@pytest.mark.storage_backends("fakeredis", "redis")
async def test_without_the_clock_the_server_has_the_native_ttl(
    storage_adapter: BaseStorageAdapter, storage_backend: StorageBackend
) -> None:
    from redis.asyncio import Redis

    await storage_adapter.set("key", "value", ttl_seconds=100)
    await storage_adapter.set("for ever", "value")
    if storage_backend.name == "redis":
        client = Redis.from_url(storage_backend.url)
    else:
        from fakeredis import FakeAsyncRedis

        from taskiq_flow.pytest_plugin.stores import fakeredis as fake

        client = FakeAsyncRedis(server=fake.server(storage_backend.url))
    async with client:
        namespace = getattr(storage_adapter, "namespace")  # noqa: B009 - the base class promises none
        assert 99_000 < await client.pttl(f"{namespace}:key") <= 100_000
        assert await client.pttl(f"{namespace}:for ever") == -1


async def test_real_time_ends_lives_without_the_clock(storage_adapter: BaseStorageAdapter) -> None:
    await storage_adapter.set("key", "value", ttl_seconds=0.05)
    await asyncio.sleep(0.1)  # no frozen clock here: this is what production does
    assert await storage_adapter.get("key") is None


@pytest.mark.storage_backends("memory")
def test_only_the_storage_clock_stops(storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock) -> None:
    frozen_clock.tick(timedelta(days=1000))
    assert frozen_clock.now() - datetime.now(timezone.utc) > timedelta(days=999)


@pytest.mark.frozen_clock(at="2030-01-01T00:00:00Z", everything=True)
async def test_everything_can_stop(storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock) -> None:
    assert datetime.now(timezone.utc) == frozen_clock.now() == datetime(2030, 1, 1, tzinfo=timezone.utc)
    await storage_adapter.set("key", "value", ttl_seconds=10)
    frozen_clock.tick(9.999)
    assert time.time() == frozen_clock.now().timestamp()
    assert await storage_adapter.exists("key")
    frozen_clock.move_to("2030-01-01T00:00:10+00:00")
    assert datetime.now(timezone.utc) == frozen_clock.now()
    assert not await storage_adapter.exists("key")


def test_freezegun_by_itself_is_obeyed(
    make_storage_adapter: Callable[..., BaseStorageAdapter],
) -> None:
    import freezegun

    async def scenario() -> None:
        adapter = make_storage_adapter()
        with freezegun.freeze_time("2031-05-05", real_asyncio=True) as frozen:
            await adapter.set("key", "value", ttl_seconds=60)
            frozen.tick(59.999)
            assert await adapter.get("key") == "value"
            frozen.tick(0.001)
            assert await adapter.get("key") is None

    asyncio.run(scenario())


def test_ini_can_stop_everything(inner: InnerRun) -> None:
    code = """
        import time

        def test_time(frozen_clock):
            assert time.time() == frozen_clock.now().timestamp()
    """
    inner(code, ini="frozen_clock = everything").assert_outcomes(passed=1)


def test_bad_marker_argument_is_told(inner: InnerRun) -> None:
    code = """
        import pytest

        @pytest.mark.frozen_clock(start="2030-01-01")
        def test_time(frozen_clock): pass
    """
    result = inner(code)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*marker frozen_clock has no argument 'start'; known: at, everything*"])


@pytest.mark.storage_backends("redis")
def test_killed_test_leaves_nothing_for_ever(inner: InnerRun, storage_backend: StorageBackend) -> None:
    """An entry that was stored under the frozen clock outlives its deadline by a day at most."""
    code = """
        import redis

        async def test_grace(storage_adapter, storage_backend, frozen_clock):
            await storage_adapter.set("key", 1, ttl_seconds=60)
            client = redis.Redis.from_url(storage_backend.url)
            assert 60_000 < client.pttl(f"{storage_adapter.namespace}:key") <= 24 * 60 * 60 * 1000 + 60_000
            client.close()
    """
    inner(code, *on("redis", storage_backend.url)).assert_outcomes(passed=1)
