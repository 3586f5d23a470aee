"""A call is cancelled, at each of the places where it waits: the adapter goes on as if nothing had been."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from queue import Queue
from typing import Any

import anyio
import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.pool import NullPool

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.storage.base import ABSENT, BaseStorageAdapter
from taskiq_flow.storage.entry import StorageEntry
from taskiq_flow.storage.factory import StorageAdapterFactory
from taskiq_flow.storage.sql import SQLAlchemyStorageAdapter
from tests.faults.conftest import Amount, Tell
from tests.faults.interrupt import Way, interrupted
from tests.faults.resources import nothing_is_left, open_files
from tests.faults.storages import IN_THREADS, SERVERS, on

Call = Callable[[BaseStorageAdapter], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "get": lambda adapter: adapter.get("key"),
    "set": lambda adapter: adapter.set("key", "new"),
    "compare_and_set": lambda adapter: adapter.compare_and_set("key", "next", "new"),
    "claim": lambda adapter: adapter.compare_and_set("key", ABSENT, "new"),
    "delete": lambda adapter: adapter.delete("key"),
    "exists": lambda adapter: adapter.exists("key"),
    "keys": lambda adapter: adapter.keys("k*"),
    "cleanup": lambda adapter: adapter.cleanup(),
    "get_entry": lambda adapter: adapter.get_entry("key"),
    "set_entry": lambda adapter: adapter.set_entry(StorageEntry("key", "new")),
}
STORAGES = on("memory", "sqlite+aiosqlite", "sqlite+pysqlite", *SERVERS, *IN_THREADS)


async def cancel_everywhere(adapter: BaseStorageAdapter, call: Call, way: Way, *, first_use: bool) -> int:
    """Cancel ``call`` at each of its waits; after each the next calls must work. Return how many waits there were."""
    wait = 0
    await adapter.aclose()  # starts a thread of the event loop's
    files = open_files()
    while True:
        if first_use:
            await adapter.aclose()
        else:
            await adapter.set("key", "old")
        reached = await interrupted(lambda: call(adapter), wait, way)
        assert await adapter.get("key") in {"old", "new", "next", None}
        await adapter.set("key", "next")
        assert await adapter.get("key") == "next"
        if not reached:
            await adapter.aclose()
            await nothing_is_left(files)
            return wait
        wait += 1


@pytest.fixture
def adapter(place: TaskiqFlowConfig) -> BaseStorageAdapter:
    """An adapter that gives up soon where it waits for what never comes."""
    return StorageAdapterFactory.create_storage_adapter(place.model_copy(update={"storage_operation_timeout": 5.0}))


@STORAGES
@pytest.mark.parametrize("way", Way)
async def test_next_call_works_after_a_cancelled_one(
    adapter: BaseStorageAdapter, way: Way, amount: Amount, tell: Tell
) -> None:
    cancelled = 0
    for name in list(CALLS)[: amount(3, len(CALLS))]:
        for _ in range(amount(1, 10)):
            cancelled += await cancel_everywhere(adapter, CALLS[name], way, first_use=False)
    tell(cancelled=cancelled)


@STORAGES
@pytest.mark.parametrize("way", Way)
async def test_next_call_works_where_the_first_was_cancelled(
    adapter: BaseStorageAdapter, way: Way, amount: Amount, tell: Tell
) -> None:
    cancelled = 0
    for _ in range(amount(1, 10)):
        cancelled += await cancel_everywhere(adapter, CALLS["set"], way, first_use=True)
    tell(cancelled=cancelled)


async def test_call_cancelled_while_connecting_writes_nothing(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'storage.db'}", poolclass=NullPool)
    connects, closed, may_connect = count(1), Queue[object](), threading.Event()

    @event.listens_for(engine, "do_connect")
    def hang_at_first(*_: object) -> None:
        if next(connects) == 1:
            may_connect.wait(60)

    event.listen(engine, "close", lambda connection, _: closed.put(connection))
    adapter = SQLAlchemyStorageAdapter(engine=engine)
    with anyio.move_on_after(0.01):
        await adapter.set("key", "older")
    await adapter.set("key", "newer")
    may_connect.set()
    for _ in range(2):
        await asyncio.to_thread(closed.get, timeout=60)
    assert await adapter.get("key") == "newer"
