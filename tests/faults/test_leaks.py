"""An adapter that is used for long, from one event loop after the other, holds no more at the end than at the start."""

import asyncio
import random
import threading
import time
import weakref

import pytest
from sqlalchemy import Connection, inspect

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.storage.base import BaseStorageAdapter
from taskiq_flow.storage.factory import StorageAdapterFactory
from taskiq_flow.storage.sql import SQLAlchemyStorageAdapter
from taskiq_flow.storage.sql.runners import ThreadRunner
from taskiq_flow.storage.sql.urls import is_in_memory
from tests.faults.conftest import Amount, Tell
from tests.faults.resources import held, nothing_is_left, open_files, others_have_ended, settled
from tests.faults.storages import IN_THREADS, SERVERS, on

AT_ONCE = 20
CALLS_EACH = 5
KEPT = 5  # connections, of SQLAlchemy's pools


async def one_worker(adapter: BaseStorageAdapter, key: str) -> None:
    """Make CALLS_EACH calls."""
    await adapter.set(key, {"phase": "running"})
    await adapter.get(key)
    await adapter.exists(key)
    await adapter.keys(f"{key}*")
    await adapter.delete(key)


async def one_loop(adapter: BaseStorageAdapter, calls: int) -> "weakref.ref[asyncio.AbstractEventLoop]":
    """Make that many calls on this loop, many of them at once; nothing may be left running."""
    for _ in range(calls // (AT_ONCE * CALLS_EACH)):
        await asyncio.gather(*(one_worker(adapter, f"worker {number}") for number in range(AT_ONCE)))
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return weakref.ref(asyncio.get_running_loop())


async def all_connections(adapter: BaseStorageAdapter) -> None:
    """Open all connections that the pool of an adapter with threads keeps, and all files of each: how many calls are
    really at once is a matter of luck, and a connection to an SQLite file opens its log when it reads for the first
    time.
    """
    if not isinstance(adapter, SQLAlchemyStorageAdapter) or is_in_memory(adapter._url):
        return
    if isinstance(adapter._runner, ThreadRunner):
        together = threading.Barrier(KEPT)

        def read(connection: Connection) -> None:
            inspect(connection).get_table_names()
            together.wait(10)

        await asyncio.gather(*(adapter._run(read) for _ in range(KEPT)))


def use_for_long(adapter: BaseStorageAdapter, loops: int, calls: int, tell: Tell) -> None:
    """Make ``calls`` calls on each of that many loops; nothing may be left of them."""
    others_have_ended()
    asyncio.run(one_loop(adapter, AT_ONCE * CALLS_EACH))  # imports and the like happen once
    asyncio.run(all_connections(adapter))
    before = settled(held())
    start = time.monotonic()
    ended = [asyncio.run(one_loop(adapter, calls)) for _ in range(loops)]
    seconds = time.monotonic() - start
    after = settled(before)
    alive = sum(loop() is not None for loop in ended)
    tell(calls=loops * calls, loops=loops, loops_alive=alive, before=before, after=after, seconds=round(seconds))
    assert after == before
    assert not alive


@on("memory", "sqlite+aiosqlite", *SERVERS)
def test_adapter_leaves_nothing_open(place: TaskiqFlowConfig, amount: Amount, tell: Tell) -> None:
    adapter = StorageAdapterFactory.create_storage_adapter(place)
    use_for_long(adapter, loops=amount(3, 50), calls=amount(100, 2000), tell=tell)


@on("sqlite+pysqlite", *IN_THREADS)
def test_adapter_in_threads_leaves_nothing_open(place: TaskiqFlowConfig, amount: Amount, tell: Tell) -> None:
    adapter = StorageAdapterFactory.create_storage_adapter(place)
    use_for_long(adapter, loops=amount(3, 50), calls=amount(100, 400), tell=tell)


@pytest.mark.parametrize("driver", ["aiosqlite", "pysqlite"])
def test_database_in_memory_leaves_nothing_open(driver: str, amount: Amount, tell: Tell) -> None:
    adapter = SQLAlchemyStorageAdapter(f"sqlite+{driver}://", async_mode=driver == "aiosqlite")
    use_for_long(adapter, loops=amount(3, 50), calls=amount(100, 400), tell=tell)
    adapter.close_from_outside()


@on("memory", "sqlite+aiosqlite", "sqlite+pysqlite", *SERVERS, *IN_THREADS)
async def test_aclose_while_calls_are_under_way_disturbs_none(place: TaskiqFlowConfig, amount: Amount) -> None:
    adapter = StorageAdapterFactory.create_storage_adapter(place)
    await adapter.set("key", "value")
    await adapter.aclose()
    files = open_files()
    for _ in range(amount(5, 200)):
        calls = [asyncio.ensure_future(one_worker(adapter, f"worker {number}")) for number in range(10)]
        await asyncio.sleep(random.uniform(0, 0.02))  # a random moment
        await adapter.aclose()
        await asyncio.gather(*calls)  # they are not disturbed: use after closing opens anew
    assert await adapter.get("key") == "value"
    await adapter.aclose()
    await nothing_is_left(files)
