"""What has expired goes by itself in production: in memory as entries are written, on SQL in the background."""

import asyncio
import gc
import logging
import sqlite3
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from taskiq_flow import clock
from taskiq_flow.cache import InMemoryCacheAdapter
from taskiq_flow.clock import FrozenClock
from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.pytest_plugin import MakeStorageAdapter
from taskiq_flow.storage import (
    InMemoryStorageAdapter,
    InMemoryStore,
    SQLAlchemyStorageAdapter,
    StorageAdapterFactory,
    expiry,
)
from taskiq_flow.storage.cancellation import Caller, in_own_task
from taskiq_flow.storage.testing import keep_expired

SQL = pytest.mark.storage_backends("sqlite", "postgres", "mysql")


@pytest.fixture
def production() -> Iterator[None]:
    """Expired entries go by themselves, as without the kit."""
    with keep_expired(False):
        yield


@pytest.fixture
def at_once(production: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first cleaning begins at once."""
    monkeypatch.setattr(expiry, "_FIRST_AFTER", (0.0, 0.0))


class Time:
    """A clock that tests move, and that is not the frozen one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 1_700_000_000.0
        monkeypatch.setattr(clock, "now_ms", lambda: round(self.seconds * 1000))


@pytest.fixture
def moved_time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def held(storage: InMemoryStorageAdapter) -> int:
    return len(storage._records)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what happens in the background, for as long as a slow machine may take."""
    end = time.monotonic() + 20
    while not await condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


# --- in memory --------------------------------------------------------------------------------------------------------


async def test_memory_lets_expired_entries_go_as_others_are_written(production: None, moved_time: Time) -> None:
    storage = InMemoryStorageAdapter(ttl_seconds=60)
    for number in range(1000):
        await storage.set(f"old:{number}", number)
    await storage.set("for ever", 1, ttl_seconds=10**9)
    moved_time.seconds += 60
    for number in range(100):
        await storage.set(f"new:{number}", number)
    assert held(storage) == 101
    assert await storage.keys("for*") == ["for ever"]


async def test_memory_of_a_steady_load_stays_flat(production: None, moved_time: Time) -> None:
    storage = InMemoryStorageAdapter(ttl_seconds=60)
    for number in range(20_000):
        await storage.set(f"task:{number}", number)
        moved_time.seconds += 0.1
        assert held(storage) <= 601
    deadlines: Any = storage._store.deadlines
    assert all(len(each._heap) < 5000 for each in deadlines.values())


async def test_memory_of_one_key_that_is_replaced_stays_flat(production: None, moved_time: Time) -> None:
    storage = InMemoryStorageAdapter(ttl_seconds=1e6)
    for number in range(20_000):
        await storage.set("key", number)
    deadlines: Any = storage._store.deadlines
    assert all(len(each._heap) < 5000 for each in deadlines.values())
    assert await storage.get("key") == 19_999


async def test_replaced_entry_lives_by_its_new_deadline(production: None, moved_time: Time) -> None:
    storage = InMemoryStorageAdapter()
    await storage.set("key", 1, ttl_seconds=10)
    await storage.set("key", 2, ttl_seconds=100)
    moved_time.seconds += 50
    await storage.set("other", 1)
    assert await storage.get("key") == 2


async def test_memory_keeps_expired_entries_under_a_frozen_clock(production: None, frozen_clock: FrozenClock) -> None:
    storage = InMemoryStorageAdapter(ttl_seconds=1)
    await storage.set("old", 1)
    frozen_clock.tick(5)
    await storage.set("new", 1)
    assert await storage.cleanup() == 1


async def test_memory_keeps_expired_entries_in_the_kit(moved_time: Time) -> None:
    storage = InMemoryStorageAdapter(ttl_seconds=1)
    with keep_expired():
        await storage.set("old", 1)
        moved_time.seconds += 5
        await storage.set("new", 1)
    assert await storage.cleanup() == 1


async def test_cleanup_of_a_large_memory_lets_others_run(moved_time: Time) -> None:
    storage = InMemoryStorageAdapter(ttl_seconds=1)
    for number in range(12_000):
        await storage.set(f"key:{number}", number)
    moved_time.seconds += 5
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running = asyncio.ensure_future(other())
    assert await storage.cleanup() == 12_000
    running.cancel()
    assert turns > 1


# --- bounded ----------------------------------------------------------------------------------------------------------


async def test_max_entries_lets_the_entry_go_that_was_used_longest_ago() -> None:
    storage = InMemoryStorageAdapter(max_entries=3)
    for key in ("a", "b", "c"):
        await storage.set(key, key)
    assert await storage.get("a") == "a"
    await storage.set("d", "d")
    assert await storage.keys() == ["a", "c", "d"]
    await storage.set("c", "again")
    await storage.set("e", "e")
    assert await storage.keys() == ["c", "d", "e"]


async def test_max_entries_counts_each_namespace_by_itself() -> None:
    store = InMemoryStore()
    one, other = (InMemoryStorageAdapter(namespace=name, store=store, max_entries=1) for name in "ab")
    await one.set("x", 1)
    await other.set("y", 1)
    assert (await one.keys(), await other.keys()) == (["x"], ["y"])


async def test_cache_with_max_entries_is_bounded() -> None:
    cache = InMemoryCacheAdapter(max_entries=10)
    for number in range(50):
        await cache.set(f"key:{number}", number)
    assert len(await cache.storage.keys()) <= 10
    assert await cache.get("key:49") == 49


@pytest.mark.parametrize("number", [0, -1, 1.5, "10", True])
def test_unusable_max_entries_is_refused(number: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_entries must be a number above 0"):
        InMemoryStorageAdapter(max_entries=number)


def test_max_entries_of_a_cache_does_not_fit_a_storage_that_is_handed_in() -> None:
    with pytest.raises(ConfigurationError, match="give it to the storage"):
        InMemoryCacheAdapter(storage=InMemoryStorageAdapter(), max_entries=10)


# --- SQL --------------------------------------------------------------------------------------------------------------


async def rows(storage: Any) -> int:
    """Return how many rows the table of a test's store has, live or not."""
    table = storage._statements.table
    count = select(func.count()).select_from(table).where(table.c.namespace == storage.namespace)
    found: int = await storage._run(lambda connection: connection.execute(count).scalar_one())
    return found


@SQL
async def test_cleanup_goes_through_more_rows_than_a_piece_has(
    make_storage_adapter: MakeStorageAdapter, frozen_clock: FrozenClock
) -> None:
    storage, other = make_storage_adapter(), make_storage_adapter(namespace="other")
    for number in range(1200):
        await storage.set(
            f"{'old' if number % 2 else 'new'}:{number:04}", number, ttl_seconds=10 if number % 2 else 100
        )
    await other.set("old", 1, ttl_seconds=10)
    frozen_clock.tick(10)
    assert await storage.cleanup() == 600
    assert await storage.cleanup() == 0
    assert (await rows(storage), await rows(other)) == (600, 1)
    frozen_clock.tick(100)
    pieces = [piece async for piece in storage.cleanup_pieces()]  # type: ignore[attr-defined] # of this package
    assert (sum(piece.removed for piece in pieces), sum(piece.seen for piece in pieces)) == (600, 600)
    assert len(pieces) > 1


@SQL
async def test_expired_rows_go_in_the_background(make_storage_adapter: MakeStorageAdapter, at_once: None) -> None:
    storage, other = make_storage_adapter(), make_storage_adapter()
    with keep_expired():
        for number in range(20):
            await other.set(f"old:{number}", number, ttl_seconds=0.001)
        await other.set("new", 1)
    await asyncio.sleep(0.002)
    assert await storage.get("new") == 1

    async def only_one() -> bool:
        return await rows(storage) == 1

    await until(only_one)
    assert await storage.get("new") == 1


@SQL
async def test_expired_rows_go_when_the_storage_is_closed(
    production: None, make_storage_adapter: MakeStorageAdapter
) -> None:
    storage, other = make_storage_adapter(), make_storage_adapter()
    await storage.set("old", 1, ttl_seconds=0.001)
    await asyncio.sleep(0.002)
    await storage.aclose()
    assert await rows(other) == 0


async def test_rows_go_time_and_again(at_once: None, tmp_path: Path) -> None:
    async with SQLAlchemyStorageAdapter(f"sqlite:///{tmp_path}/a.db", cleanup_interval=0.01) as storage:
        for _ in range(3):
            await storage.set("old", 1, ttl_seconds=0.001)

            async def none() -> bool:
                return await rows(storage) == 0

            await until(none)


async def test_rows_stay_where_the_interval_is_none(at_once: None, tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    async with SQLAlchemyStorageAdapter(f"sqlite:///{file}", cleanup_interval=None) as storage:
        await storage.set("old", 1, ttl_seconds=0.001)
        await asyncio.sleep(0.05)
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT count(*) FROM taskiq_flow_storage").fetchone() == (1,)


@SQL
async def test_rows_stay_in_the_kit(make_storage_adapter: MakeStorageAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "_FIRST_AFTER", (0.0, 0.0))
    storage, other = make_storage_adapter(), make_storage_adapter()
    await storage.set("old", 1, ttl_seconds=0.001)
    await asyncio.sleep(0.05)
    await storage.aclose()
    assert await other.cleanup() == 1


@SQL
async def test_rows_stay_under_a_frozen_clock(
    at_once: None, make_storage_adapter: MakeStorageAdapter, frozen_clock: FrozenClock
) -> None:
    storage, other = make_storage_adapter(), make_storage_adapter()
    await storage.set("old", 1, ttl_seconds=1)
    frozen_clock.tick(5)
    await asyncio.sleep(0.05)
    await storage.aclose()
    assert await other.cleanup() == 1


def test_each_event_loop_goes_on_where_the_last_one_ended(at_once: None, tmp_path: Path) -> None:
    # Long beside the end of an event loop: a timer that comes due in it begins a task that never runs.
    storage = SQLAlchemyStorageAdapter(f"sqlite:///{tmp_path}/a.db", cleanup_interval=0.2)

    async def use() -> None:
        await storage.set("old", 1, ttl_seconds=0.001)

        async def none() -> bool:
            return await rows(storage) == 0

        await until(none)

    asyncio.run(use())
    asyncio.run(use())
    asyncio.run(storage.aclose())


async def test_closed_storage_is_not_opened_again_by_its_timer(at_once: None, tmp_path: Path) -> None:
    storage: Any = SQLAlchemyStorageAdapter(f"sqlite:///{tmp_path}/a.db", cleanup_interval=0.01)
    await storage.set("key", 1)
    await storage.aclose()
    await asyncio.sleep(0.05)
    assert not storage._runner._engine.is_open


async def test_cleaning_that_is_too_slow_for_a_shutdown_returns_its_connection(
    production: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "_AT_CLOSE", 0.2)
    events = []

    async def statement(caller: Caller) -> expiry.Piece:
        try:
            with caller.may_interrupt():
                await asyncio.sleep(3600)
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            events.append("returned")
        raise AssertionError

    class Slow:
        async def clean(self, after: str | None) -> expiry.Piece:
            return await in_own_task(statement, 10)

    slow = Slow()
    cleaning = expiry.PeriodicCleaning(weakref.WeakMethod(slow.clean), 60)
    cleaning.note_use()
    await cleaning.finish()
    assert events == ["returned"]


async def test_timer_does_not_keep_a_storage_alive(production: None, tmp_path: Path) -> None:
    storage = SQLAlchemyStorageAdapter(f"sqlite:///{tmp_path}/a.db")
    await storage.set("key", 1)
    reference = weakref.ref(storage)
    del storage
    gc.collect()
    assert reference() is None


async def test_storage_that_fails_is_left_until_the_next_cleaning(
    at_once: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "a.db"
    storage = SQLAlchemyStorageAdapter(f"sqlite:///{file}", operation_timeout=1, cleanup_interval=0.01)
    with caplog.at_level(logging.INFO, "taskiq_flow.storage.expiry"), sqlite3.connect(file) as writer:
        with keep_expired():
            await storage.set("old", 1, ttl_seconds=0.001)
            writer.execute("BEGIN IMMEDIATE")
        assert await storage.exists("old") is False  # the storage is used, and cleaned from now on

        async def told() -> bool:
            return "expired entries stay until the next cleaning: SQLite at " in caplog.text

        await until(told)
        writer.rollback()
    await storage.aclose()
    writer.close()


@pytest.mark.parametrize("interval", [0, -1, "10", float("inf")])
def test_unusable_interval_is_refused(interval: Any) -> None:
    with pytest.raises(ConfigurationError, match="cleanup_interval must be a number of seconds above 0"):
        SQLAlchemyStorageAdapter("sqlite:///a.db", cleanup_interval=interval)


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize(("text", "interval"), [("60", 60), ("none", None), ("never", None), ("", 600)])
def test_interval_comes_from_the_settings(text: str, interval: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_CLEANUP_INTERVAL", text)
    config = TaskiqFlowConfig(storage_url="sqlite:///a.db")
    assert config.storage_cleanup_interval == interval
    adapter: Any = StorageAdapterFactory.create_storage_adapter(config)
    assert adapter._cleaning._interval == interval
