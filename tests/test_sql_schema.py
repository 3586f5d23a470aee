"""The table's name and schema, its DDL, and rows of others in it."""

import sqlite3
from contextlib import closing
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from sqlalchemy import MetaData, create_engine, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine

from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.pytest_plugin import StorageBackend
from taskiq_flow.storage import SQLAlchemyStorageAdapter, create_table_sql, define_table, metadata

# --- names and schemas ------------------------------------------------------------------------------------------------


@pytest.mark.storage_backends("postgres")
@pytest.mark.parametrize("mode", ["asyncpg", "psycopg"])
async def test_table_may_be_in_a_schema(mode: str, storage_backend: StorageBackend) -> None:
    schema = f"tfk_schema_{token_hex(4)}"
    engine = create_async_engine(storage_backend.url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f"CREATE SCHEMA {schema}"))
        try:
            url = storage_backend.url.replace("+asyncpg", f"+{mode}")
            async with SQLAlchemyStorageAdapter(url, table=f"{schema}.results") as adapter:
                await adapter.set("key", 1)
                assert await adapter.keys() == ["key"]
            rows = await connection.execute(text(f"SELECT count(*) FROM {schema}.results"))
            assert rows.scalar() == 1
        finally:
            await connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    await engine.dispose()


@pytest.mark.parametrize(
    ("url", "table"),
    [
        ("postgresql://h/d", ""),
        ("postgresql://h/d", "é" * 32),
        ("postgresql://h/d", "x" * 64),
        ("postgresql://h/d", ".results"),
        ("postgresql://h/d", "tenant."),
        ("postgresql://h/d", "a\0b"),
        ("postgresql://h/d", "a\nb"),
        ("postgresql://h/d", None),
        ("mysql://h/d", "x" * 65),
        ("mysql://h/d", "results "),
        ("sqlite://", " "),
        ("sqlite://", "sqlite_results"),
    ],
)
def test_name_that_no_table_can_have_is_refused(url: str, table: Any) -> None:
    with pytest.raises(ConfigurationError, match="table"):
        SQLAlchemyStorageAdapter(url, table=table)


# --- DDL --------------------------------------------------------------------------------------------------------------


async def test_public_ddl_creates_the_table_that_the_adapter_uses(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'storage.db'}"
    with closing(sqlite3.connect(tmp_path / "storage.db")) as connection:
        connection.execute(create_table_sql(url, "results"))
    async with SQLAlchemyStorageAdapter(url, table="results") as adapter:
        await adapter.set("key", 1, ttl_seconds=60)
        assert await adapter.get("key") == 1


def test_ddl_needs_no_driver_and_names_the_schema() -> None:
    ddl = create_table_sql("postgresql+psycopg2://h/d", "tenant_a.results")
    assert ddl.startswith("CREATE TABLE tenant_a.results (")
    assert 'COLLATE "C"' in ddl
    assert "VARBINARY(1024)" in create_table_sql("mysql://h/d")


def test_ddl_of_an_unknown_database_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no dialect for 'unknown'"):
        create_table_sql("unknown://h/d")


@pytest.mark.storage_backends("sqlite", "postgres")
async def test_alembic_finds_nothing_to_change(storage_backend: StorageBackend, tmp_path: Path) -> None:
    autogenerate = pytest.importorskip("alembic.autogenerate")
    migration = pytest.importorskip("alembic.migration")
    table = f"tfk_alembic_{token_hex(4)}"
    async with SQLAlchemyStorageAdapter(storage_backend.url, table=table) as adapter:
        await adapter.set("key", 1)
        described = MetaData()
        define_table(described, table)

        def proposed(connection: Any) -> list[Any]:
            only_ours = {"include_name": lambda name, kind, _parents: kind != "table" or name == table}
            context = migration.MigrationContext.configure(connection, opts=only_ours)
            changes: list[Any] = autogenerate.compare_metadata(context, described)
            return changes

        assert await adapter._run(proposed) == []
        await adapter._run(described.drop_all)


def test_metadata_has_the_default_table() -> None:
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    assert inspect(engine).get_table_names() == ["taskiq_flow_storage"]
    engine.dispose()


# --- rows of others ---------------------------------------------------------------------------------------------------


async def test_keys_that_are_not_text_are_left_out_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    insert = "INSERT INTO taskiq_flow_storage VALUES ('taskiq_flow', {}, '1', 0, NULL, '{{}}')"
    async with SQLAlchemyStorageAdapter(f"sqlite:///{tmp_path / 'storage.db'}") as adapter:
        await adapter.set("key", 1)
        with closing(sqlite3.connect(tmp_path / "storage.db")) as connection, connection:
            for key in ("x'ff'", "x'6b6579'", "CAST(x'6bff' AS TEXT)", "7"):
                connection.execute(insert.format(key))
        assert await adapter.keys("k*") == ["key"]
        assert await adapter.keys() == ["7", "key"]
        assert await adapter.cleanup() == 0
        assert await adapter.delete("key")
    assert "left out 3 rows whose keys are not UTF-8 text" in caplog.text


@pytest.mark.storage_backends("mysql")
async def test_keys_of_mysql_that_are_not_text_are_left_out(
    storage_backend: StorageBackend, storage_config: Any
) -> None:
    where = {"namespace": storage_config.storage_namespace, "table": storage_config.storage_table}
    async with SQLAlchemyStorageAdapter(storage_backend.url, **where) as adapter:
        await adapter.set("key", 1)
        insert = text(f"INSERT INTO {where['table']} VALUES (:namespace, x'ff', '1', 0, NULL, '{{}}')")
        await adapter._run(lambda connection: connection.execute(insert, {"namespace": where["namespace"]}))
        assert await adapter.keys() == ["key"]
