"""Databases that have no statement for an upsert, and writers that come between a look and an exchange."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import NullPool

from taskiq_flow import clock, serialization
from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import StorageBackendError
from taskiq_flow.pytest_plugin import StorageBackend
from taskiq_flow.storage import SQLAlchemyStorageAdapter
from taskiq_flow.storage.backend import Record
from taskiq_flow.storage.base import ABSENT
from taskiq_flow.storage.sql import adapter as sql_adapter
from taskiq_flow.storage.sql.statements import Statements

# --- exchanges --------------------------------------------------------------------------------------------------------


@pytest.mark.storage_backends("sqlite", "postgres", "mysql")
async def test_exchange_changes_nothing_that_another_writer_stored_in_between(
    storage_config: TaskiqFlowConfig, storage_backend: StorageBackend
) -> None:
    class Overtaken(SQLAlchemyStorageAdapter):
        seen: Record | None = None

        async def _read(self, key: str, now: int) -> Record | None:
            return self.seen

    where: dict[str, Any] = {"namespace": storage_config.storage_namespace, "table": storage_config.storage_table}
    url = storage_config.storage_url or ""
    if "MariaDB" in storage_backend.version:  # SQLAlchemy has a dialect for each name
        url = url.replace("mysql+", "mariadb+")
    async with SQLAlchemyStorageAdapter(url, **where) as another, Overtaken(url, **where) as adapter:
        await another.set("key", "Theirs", ttl_seconds=60)
        theirs = await another._read("key", clock.now_ms())
        assert theirs is not None
        for seen in (
            None,
            theirs._replace(value='"theirs"'),
            theirs._replace(value='"Theirs "'),
            theirs._replace(metadata="{ }"),
            theirs._replace(created_at=theirs.created_at - 1),
            theirs._replace(expires_at=None),
        ):
            adapter.seen = seen
            expected = ABSENT if seen is None else serialization.loads(seen.value)
            assert not await adapter.compare_and_set("key", expected, "ours")
            if seen is not None:
                assert not await adapter.compare_and_set("key", expected, ABSENT)
            assert await another._read("key", clock.now_ms()) == theirs
        adapter.seen = theirs
        assert await adapter.compare_and_set("key", "Theirs", "ours")


# --- databases without an upsert --------------------------------------------------------------------------------------


@pytest.fixture
def no_upsert(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQLite be one of those databases for which SQLAlchemy has no upsert."""
    monkeypatch.setattr(sql_adapter, "statements", lambda table, _dialect: Statements(table, "of another kind"))


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return create_engine(f"sqlite:///{tmp_path / 'storage.db'}", poolclass=NullPool)


@pytest.mark.parametrize("async_mode", [True, False])
@pytest.mark.usefixtures("no_upsert")
async def test_writers_without_upsert_all_succeed(async_mode: bool, tmp_path: Path) -> None:
    adapters = [SQLAlchemyStorageAdapter(f"sqlite:///{tmp_path / 'storage.db'}", async_mode) for _ in range(4)]
    await adapters[0].set("key", "old", ttl_seconds=60)
    await adapters[0].set("key", "new")
    entry = await adapters[0].get_entry("key")
    assert entry is not None
    assert (entry.value, entry.expires_at) == ("new", None)
    writers = [
        adapter.set(f"key {number}", [number] * 100) for number in range(5) for adapter in adapters for _ in range(2)
    ]
    await asyncio.gather(*writers)
    for number in range(5):
        assert await adapters[0].get(f"key {number}") == [number] * 100
    await asyncio.gather(*[adapter.aclose() for adapter in adapters])


def insert_before_ours(engine: Engine, row: Any, times: int = 1) -> list[str]:
    """Let another writer insert ``row`` just before so many of our next inserts, and remove it before our updates."""
    inserted: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def interfere(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        with closing(sqlite3.connect(engine.url.database or "")) as connection, connection:
            if statement.startswith("INSERT") and len(inserted) < times:
                inserted.append(statement)
                connection.execute("INSERT INTO taskiq_flow_storage VALUES (?, ?, ?, ?, ?, ?)", row)
            elif statement.startswith("UPDATE") and times > 1:
                connection.execute("DELETE FROM taskiq_flow_storage")

    return inserted


async def their_row(engine: Engine) -> Any:
    adapter = SQLAlchemyStorageAdapter(engine=engine)
    await adapter.set("key", "theirs")
    with closing(sqlite3.connect(engine.url.database or "")) as connection:
        row = connection.execute("SELECT * FROM taskiq_flow_storage").fetchone()
    await adapter.delete("key")
    return row


@pytest.mark.usefixtures("no_upsert")
async def test_insert_of_another_writer_is_updated(engine: Engine) -> None:
    inserted = insert_before_ours(engine, await their_row(engine))
    adapter = SQLAlchemyStorageAdapter(engine=engine)
    await adapter.set("key", "ours")
    assert inserted
    assert await adapter.get("key") == "ours"


@pytest.mark.usefixtures("no_upsert")
async def test_set_without_upsert_ends_after_ten_conflicts(engine: Engine) -> None:
    inserted = insert_before_ours(engine, await their_row(engine), times=100)
    with pytest.raises(StorageBackendError, match="UNIQUE constraint failed"):
        await SQLAlchemyStorageAdapter(engine=engine).set("key", "ours")
    assert len(inserted) == 10


@pytest.mark.usefixtures("no_upsert")
async def test_exchange_without_upsert_replaces_what_has_expired(engine: Engine) -> None:
    adapter = SQLAlchemyStorageAdapter(engine=engine)
    with clock.freeze() as frozen:
        await adapter.set("key", "expired", ttl_seconds=1)
        frozen.tick(1)
        assert await adapter.compare_and_set("key", ABSENT, "ours")
        assert await adapter.get("key") == "ours"
        assert not await adapter.compare_and_set("key", ABSENT, "again")
