"""Connections of the SQL adapter: drivers, waiting for SQLite's lock, callers that give up, what is shared."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Dialect, create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import StorageConnectionError
from taskiq_flow.storage import SQLAlchemyStorageAdapter
from taskiq_flow.storage.testing import recycle


@pytest.mark.storage_backends("postgres")
async def test_application_name_of_the_url_reaches_postgresql(storage_config: TaskiqFlowConfig) -> None:
    url = make_url(storage_config.storage_url or "").update_query_dict({"application_name": "Orders"})
    async with SQLAlchemyStorageAdapter(url, table=storage_config.storage_table) as adapter:
        await adapter.keys("x")
        statement = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'Orders'")
        assert await adapter._run(lambda connection: connection.execute(statement).scalar()) == 1


@pytest.mark.storage_backends("postgres")
def test_closing_from_outside_does_not_wait_for_postgresql(
    storage_config: TaskiqFlowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[object] = []
    terminate = asyncpg.Connection.terminate

    def note(connection: "asyncpg.Connection[Any]") -> None:
        ended.append(connection)
        terminate(connection)

    monkeypatch.setattr(asyncpg.Connection, "terminate", note)
    adapter = SQLAlchemyStorageAdapter(storage_config.storage_url or "", table=storage_config.storage_table)
    with closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(adapter.keys("x"))
        adapter.close_from_outside()
        assert len(ended) == 1


@pytest.mark.parametrize("driver", ["sqlite+pysqlite", "sqlite+aiosqlite"])
async def test_lock_that_another_holds_is_waited_for(driver: str, tmp_path: Path) -> None:
    file = tmp_path / "storage.db"
    make: Callable[..., Any] = create_async_engine if driver == "sqlite+aiosqlite" else create_engine
    engine = make(f"{driver}:///{file}", connect_args={"timeout": 0})
    adapter = SQLAlchemyStorageAdapter(engine=engine)
    await adapter.set("key", 1)
    with closing(sqlite3.connect(file, isolation_level=None)) as another:
        another.execute("BEGIN IMMEDIATE")
        asyncio.get_running_loop().call_later(0.1, another.execute, "COMMIT")
        await adapter.set("key", 2)
    assert await adapter.get("key") == 2
    await engine.dispose() if driver == "sqlite+aiosqlite" else engine.dispose()


async def test_lock_that_is_not_released_times_out(tmp_path: Path) -> None:
    file = tmp_path / "storage.db"
    hasty = SQLAlchemyStorageAdapter(f"sqlite:///{file}", operation_timeout=0.3)
    async with SQLAlchemyStorageAdapter(f"sqlite:///{file}") as adapter, hasty:
        await adapter.set("key", 1)
        with closing(sqlite3.connect(file, isolation_level=None)) as another:
            another.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageConnectionError, match=r"set\('key'\) failed: no answer within 0\.3 s"):
                await hasty.set("key", 3)
            another.execute("COMMIT")
        assert await adapter.get("key") == 1


def test_thread_that_could_not_connect_does_not_outlive_the_event_loop(tmp_path: Path) -> None:
    async def fail() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/missing/storage.db")
        with pytest.raises(StorageConnectionError):
            await SQLAlchemyStorageAdapter(engine=engine).get("key")

    for _ in range(10):
        asyncio.run(fail())  # a thread that reports its end to a loop which is closed raises, and pytest would tell


async def test_cancelled_caller_does_not_wait_for_an_exhausted_pool(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/storage.db", pool_size=1, max_overflow=0)
    adapter = SQLAlchemyStorageAdapter(engine=engine, connect_timeout=0.05)
    async with engine.connect():
        waiting = asyncio.ensure_future(adapter.get("key"))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait({waiting}, timeout=5)
        assert waiting.cancelled()
    assert await adapter.get("key") is None
    await engine.dispose()


@pytest.mark.storage_backends("postgres")
async def test_psycopg_works_in_both_modes(storage_config: TaskiqFlowConfig) -> None:
    url = make_url(storage_config.storage_url or "").set(drivername="postgresql+psycopg", query={})
    for async_mode in (True, False):
        async with SQLAlchemyStorageAdapter(url, async_mode, table=storage_config.storage_table) as adapter:
            await adapter.set(f"psycopg {async_mode}", 1)
            assert await adapter.get(f"psycopg {async_mode}") == 1
            assert await adapter.delete(f"psycopg {async_mode}")


async def test_recycling_adapters_on_one_url_share_what_was_compiled(tmp_path: Path) -> None:
    dialects: set[Dialect] = set()
    with recycle():
        for _ in range(3):
            async with SQLAlchemyStorageAdapter(f"sqlite+aiosqlite:///{tmp_path}/storage.db") as adapter:
                await adapter.set("key", 1)
                dialects.add(await adapter._run(lambda connection: connection.dialect))
    assert len(dialects) == 1
