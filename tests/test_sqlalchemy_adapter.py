"""What is special to SQL databases: drivers and modes, how statements use the index, what people see with SQL.

The contract, faults, writers in many processes and engines that were handed in have test files of their own.
"""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from taskiq_flow import clock
from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import (
    StorageBackendError,
    StorageConnectionError,
)
from taskiq_flow.pytest_plugin import StorageBackend
from taskiq_flow.storage import SQLAlchemyStorageAdapter

MODES = pytest.mark.parametrize("async_mode", [True, False])


@pytest.fixture
def place(storage_config: TaskiqFlowConfig) -> dict[str, Any]:
    """The test's isolated store on a server of the run: what an adapter needs besides the URL."""
    return {"namespace": storage_config.storage_namespace, "table": storage_config.storage_table}


def on_file(folder: Path, async_mode: bool, **settings: Any) -> SQLAlchemyStorageAdapter:
    return SQLAlchemyStorageAdapter(f"sqlite:///{folder / 'storage.db'}", async_mode, **settings)


def rows(folder: Path, query: str) -> list[Any]:
    """Return what Python's own driver finds in the file."""
    with closing(sqlite3.connect(folder / "storage.db")) as connection:
        return connection.execute(query).fetchall()


# --- in memory --------------------------------------------------------------------------------------------------------

IN_MEMORY = pytest.mark.parametrize(
    ("url", "async_mode"),
    [
        ("sqlite+aiosqlite://", True),
        ("sqlite+aiosqlite:///:memory:", True),
        ("sqlite://", True),
        ("sqlite://", False),
        ("sqlite+pysqlite:///file:notes?mode=memory&uri=true", False),
    ],
)


@IN_MEMORY
def test_each_adapter_in_memory_has_its_own_database(url: str, async_mode: bool) -> None:
    one, another = (SQLAlchemyStorageAdapter(url, async_mode) for _ in range(2))
    asyncio.run(one.set("key", 1))
    assert asyncio.run(one.get("key")) == 1, "on another event loop"
    assert asyncio.run(another.get("key")) is None
    asyncio.run(one.aclose())
    assert asyncio.run(one.get("key")) is None, "it is gone when the adapter is closed"
    for adapter in (one, another):
        adapter.close_from_outside()


@IN_MEMORY
def test_database_in_memory_is_shared_by_threads(url: str, async_mode: bool) -> None:
    adapter = SQLAlchemyStorageAdapter(url, async_mode)

    async def work(thread: int) -> None:
        await asyncio.gather(*[adapter.set(f"{thread} {number}", number) for number in range(20)])

    threads = [threading.Thread(target=asyncio.run, args=(work(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asyncio.run(adapter.keys())) == 80
    adapter.close_from_outside()


# --- what people see --------------------------------------------------------------------------------------------------


@MODES
async def test_entries_can_be_read_with_sql(async_mode: bool, tmp_path: Path) -> None:
    async with on_file(tmp_path, async_mode, namespace="shop") as adapter:
        with clock.freeze("2026-01-01T00:00:00Z"):
            await adapter.set("status", {"phase": "läuft"}, ttl_seconds=0.5)
            await adapter.set("for ever", None)
    assert rows(tmp_path, "SELECT * FROM taskiq_flow_storage ORDER BY key") == [
        ("shop", "for ever", "null", 1767225600000, None, "{}"),
        ("shop", "status", '{"phase": "läuft"}', 1767225600000, 1767225600500, "{}"),
    ]


@MODES
@pytest.mark.parametrize("table", ["order", "Größe der Tabelle", 'with"quotes', "UPPER", "a.b", "per%cent"])
async def test_table_may_have_any_name(async_mode: bool, table: str, tmp_path: Path) -> None:
    async with on_file(tmp_path, async_mode, table=table) as adapter, on_file(tmp_path, async_mode) as another:
        await adapter.set("key", 1, ttl_seconds=60)
        assert await adapter.get("key") == 1
        assert await another.keys() == []
    assert (table,) in rows(tmp_path, "SELECT name FROM sqlite_master WHERE type = 'table'")


@MODES
async def test_closed_file_is_one_file(async_mode: bool, tmp_path: Path) -> None:
    async with on_file(tmp_path, async_mode) as adapter:
        await asyncio.gather(*[adapter.set(f"key {number}", number) for number in range(20)])
    assert os.listdir(tmp_path) == ["storage.db"]
    assert rows(tmp_path, "PRAGMA journal_mode") == [("wal",)], "readers and a writer work side by side"


@pytest.mark.storage_backends("sqlite", "postgres")
async def test_large_value_is_stored(place: dict[str, Any], storage_backend: StorageBackend) -> None:
    value = {"text": "é😀" * 100_000, "bytes": bytes(range(256)) * 1000}
    async with SQLAlchemyStorageAdapter(storage_backend.url, **place) as adapter:
        await adapter.set("key", value)
        assert await adapter.get("key") == value


# --- statements -------------------------------------------------------------------------------------------------------


def noting_statements(engine: AsyncEngine) -> list[tuple[str, Any]]:
    """Return the list to which every statement is added."""
    statements: list[tuple[str, Any]] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        statements.append((statement, parameters))

    return statements


@pytest.mark.parametrize("pattern", ["pipeline:run42:*", "pipeline:run42:?[ab]*", "pipeline:run42:task"])
@pytest.mark.storage_backends("sqlite", "postgres")
async def test_keys_with_a_prefix_cost_with_the_matches(
    pattern: str, place: dict[str, Any], storage_backend: StorageBackend
) -> None:
    engine = create_async_engine(storage_backend.url, poolclass=NullPool)
    statements = noting_statements(engine)
    adapter = SQLAlchemyStorageAdapter(engine=engine, **place)
    await adapter.set("pipeline:run42:task", 1)
    await adapter.keys(pattern)
    statement, parameters = statements[-1]
    async with engine.connect() as connection:
        if storage_backend.name == "postgres":
            await connection.execute(text("SET enable_seqscan = off"))  # the table is too small to need an index
        explain = "EXPLAIN QUERY PLAN" if storage_backend.name == "sqlite" else "EXPLAIN"
        found = (await connection.exec_driver_sql(f"{explain} {statement}", parameters)).all()
    plan = "\n".join(str(row[-1]) for row in found)
    if storage_backend.name == "sqlite":
        assert "(namespace=? AND key>? AND key<?)" in plan
    else:
        condition = next(line for line in plan.splitlines() if "Index Cond" in line)
        assert "namespace" in condition
        assert ">= 'pipeline:run42:" in condition
        assert "< 'pipeline:run42" in condition


@pytest.mark.parametrize(
    ("call", "count"),
    [
        (lambda adapter: adapter.get("key"), 1),
        (lambda adapter: adapter.set("key", 1), 1),
        (lambda adapter: adapter.delete("key"), 1),
        (lambda adapter: adapter.exists("key"), 1),
        (lambda adapter: adapter.keys("k*"), 1),
        (lambda adapter: adapter.cleanup(), 1),
    ],
)
async def test_every_operation_is_one_statement(call: Callable[[Any], Any], count: int, tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'storage.db'}")
    adapter = SQLAlchemyStorageAdapter(engine=engine)
    await adapter.set("key", 1)
    statements = noting_statements(engine)
    await call(adapter)
    await engine.dispose()
    assert len(statements) == count


@pytest.mark.parametrize("async_engine", [True, False])
async def test_given_engine_keeps_its_pool(async_engine: bool, tmp_path: Path) -> None:
    file = tmp_path / "storage.db"
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}") if async_engine else create_engine(f"sqlite:///{file}")
    pool = engine.pool
    async with SQLAlchemyStorageAdapter(engine=engine) as adapter:
        await adapter.set("key", 1)
    adapter.close_from_outside()
    assert engine.pool is pool
    assert await adapter.get("key") == 1
    if isinstance(engine, AsyncEngine):
        async with engine.connect() as connection:
            assert await connection.run_sync(lambda theirs: theirs.get_isolation_level()) == "SERIALIZABLE"
        await engine.dispose()
    else:
        engine.dispose()


# --- databases that only read -----------------------------------------------------------------------------------------


@MODES
async def test_read_only_file_can_be_read(async_mode: bool, tmp_path: Path) -> None:
    async with on_file(tmp_path, async_mode) as writer:
        await writer.set("key", 1)
    url = f"sqlite:///file:{tmp_path / 'storage.db'}?mode=ro&uri=true"
    async with SQLAlchemyStorageAdapter(url, async_mode) as reader:
        assert await reader.get("key") == 1
        assert await reader.keys() == ["key"]
        with pytest.raises(StorageBackendError, match=r"SQLite at .*storage\.db refused set\('key'\).*readonly"):
            await reader.set("key", 2)
        assert await reader.get("key") == 1


@pytest.mark.storage_backends("postgres")
async def test_read_only_server_can_be_read(place: dict[str, Any], storage_backend: StorageBackend) -> None:
    read_only = {"server_settings": {"default_transaction_read_only": "on"}}
    engine = create_async_engine(storage_backend.url, connect_args=read_only)
    async with SQLAlchemyStorageAdapter(storage_backend.url, **place) as writer:
        await writer.set("key", 1)
    reader = SQLAlchemyStorageAdapter(engine=engine, **place)
    assert await reader.get("key") == 1
    # It may have become a standby: a new connection may reach the server that has taken over.
    with pytest.raises(StorageConnectionError, match=r"PostgreSQL at .* set\('key'\) failed.*read-only"):
        await reader.set("key", 2)
    assert await reader.get("key") == 1
    await engine.dispose()


def test_driver_that_hangs_does_not_keep_the_event_loop_from_ending(tmp_path: Path) -> None:
    """A server that stops answering: psycopg has no time-out for it."""
    engine = create_engine(f"sqlite:///{tmp_path / 'storage.db'}", poolclass=NullPool)
    answers = threading.Event()

    @event.listens_for(engine, "before_cursor_execute")
    def hang(*_: object) -> None:
        answers.wait(10.0)
        answers.set()

    async def ask() -> None:
        adapter = SQLAlchemyStorageAdapter(engine=engine, operation_timeout=0.1)
        with pytest.raises(StorageConnectionError, match=r"no answer within 0\.1 s"):
            await adapter.get("key")

    try:
        asyncio.run(ask())
        assert not answers.is_set(), "the loop ended while the driver still hung"
    finally:
        answers.set()
