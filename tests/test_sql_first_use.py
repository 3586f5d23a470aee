"""The table is made by whoever needs it first; of any number who do so at once, all succeed."""

import asyncio
from secrets import token_hex

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from taskiq_flow.pytest_plugin import StorageBackend
from taskiq_flow.storage import SQLAlchemyStorageAdapter


@pytest.mark.storage_backends("sqlite", "postgres")
async def test_first_writers_at_once_all_succeed(storage_backend: StorageBackend) -> None:
    for _ in range(5):
        table = f"tfk_first_use_{token_hex(4)}"
        async with SQLAlchemyStorageAdapter(storage_backend.url, table=table) as adapter:
            await asyncio.gather(*[adapter.set(f"key {number}", number) for number in range(20)])
            assert len(await adapter.keys()) == 20
        await _drop(storage_backend, table)


@pytest.mark.storage_backends("sqlite", "postgres")
async def test_dropped_table_is_created_anew(storage_backend: StorageBackend) -> None:
    table = f"tfk_first_use_{token_hex(4)}"
    async with SQLAlchemyStorageAdapter(storage_backend.url, table=table) as adapter:
        await adapter.set("key", "value")
        await _drop(storage_backend, table)
        assert await adapter.get("key") is None
        await adapter.set("key", "value")
        assert await adapter.get("key") == "value"
    await _drop(storage_backend, table)


async def _drop(backend: StorageBackend, table: str) -> None:
    engine = create_async_engine(backend.url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f"DROP TABLE {table}"))
    await engine.dispose()
