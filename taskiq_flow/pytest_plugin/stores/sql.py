"""What the storages of the SQL adapter have in common: SQLite, PostgreSQL and MySQL.

The kit asks a database as the adapter does: by SQLAlchemy, with the URL's own driver; and for rows by the adapter's own
table, whose types know in which form each database keeps a key.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from taskiq_flow.pytest_plugin.run import is_run, is_stale
from taskiq_flow.pytest_plugin.stores.base import ADAPTER_TIMEOUT, StorageKind

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Table
    from sqlalchemy.ext.asyncio import AsyncEngine

    from taskiq_flow.storage.base import BaseStorageAdapter

__all__ = ["SQLCleaner", "SQLStorage", "execute", "first_value", "own_engine"]


class SQLStorage(StorageKind):
    """Entries in the run's table."""

    adapter = "taskiq_flow.storage.sql.adapter.SQLAlchemyStorageAdapter"

    async def read_raw(self, adapter: Any, key: str) -> bytes | None:
        """Return the value's text; expiry and the like are in other columns."""
        from sqlalchemy import select

        table: Table = adapter._statements.table
        statement = select(table.c.value).where(*_row(table, adapter.namespace, key))
        text: str | None = await adapter._run(lambda connection: connection.execute(statement).scalar_one_or_none())
        return None if text is None else text.encode()

    async def write_raw(self, adapter: Any, key: str, data: bytes) -> bool:
        """Replace the value's text; data that is no text, or has a NUL, cannot be stored."""
        from sqlalchemy import update

        try:
            text = data.decode()
        except UnicodeDecodeError:
            return False
        if "\0" in text:
            return False
        table: Table = adapter._statements.table
        statement = update(table).where(*_row(table, adapter.namespace, key)).values(value=text)
        await adapter._run(lambda connection: connection.execute(statement))
        return True

    def has_server(self, adapter: Any) -> bool:
        """Return whether the adapter's database is not a file."""
        return bool(adapter._url.get_backend_name() != "sqlite")

    def adapter_at(self, adapter: Any, host: str, port: int, password: str) -> "BaseStorageAdapter | None":
        """Return an adapter with the same driver for that address."""
        if not self.has_server(adapter):
            return None
        url = adapter._url.set(username="somebody", password=password, host=host, port=port, query={})
        made: BaseStorageAdapter = type(adapter)(
            url,
            async_mode=url.get_dialect().is_async,
            connect_timeout=ADAPTER_TIMEOUT,
            operation_timeout=ADAPTER_TIMEOUT,
        )
        return made


class SQLCleaner:
    """Removes rows of the run's table, and tables of runs; nothing is ever truncated or dropped that is another's."""

    def __init__(self, url: str, table: str) -> None:
        from taskiq_flow.storage.sql.statements import statements

        self._engine = own_engine(url)
        self._table = statements(table, self._engine.dialect.name).table
        self._table_exists = False

    async def clean(self, prefix: str) -> None:
        """Remove the rows whose namespace begins with ``prefix``."""
        from sqlalchemy import delete

        namespace = self._table.c.namespace
        # Small letters, digits and underscores only: `{` is the first character after them in ASCII.
        statement = delete(self._table).where(namespace >= prefix, namespace < prefix + "{")
        async with self._engine.connect() as connection:
            self._table_exists = self._table_exists or await connection.run_sync(_has_table, self._table.name)
            if self._table_exists:
                await connection.execute(statement)

    async def finish(self, run_id: str) -> None:
        """Drop the run's table."""
        await self._drop(lambda table: table == run_id)

    async def clean_stale(self) -> None:
        """Drop the tables of killed runs of this machine."""
        await self._drop(lambda table: is_run(table) and is_stale(table))

    async def close(self) -> None:
        """Close the connections."""
        await self._engine.dispose()

    async def _drop(self, is_ours: Callable[[str], bool]) -> None:
        from sqlalchemy import MetaData, Table, inspect
        from sqlalchemy.schema import DropTable

        async with self._engine.connect() as connection:
            tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
            for name in filter(is_ours, tables):
                # Another run may drop it at the same time.
                await connection.execute(DropTable(Table(name, MetaData()), if_exists=True))


def _row(table: "Table", namespace: str, key: str) -> "tuple[ColumnElement[bool], ...]":
    return table.c.namespace == namespace, table.c.key == key


def _has_table(connection: Any, table: str) -> bool:
    from sqlalchemy import inspect

    return bool(inspect(connection).has_table(table))


def own_engine(url: str, **options: Any) -> "AsyncEngine":
    """Return an engine of the kit's own, in autocommit, for whatever URL the adapters take.

    :param options: further ones of ``create_async_engine``.
    """
    from sqlalchemy import make_url
    from sqlalchemy.ext.asyncio import create_async_engine

    from taskiq_flow.storage.urls import for_driver

    address, told = for_driver(make_url(url))
    return create_async_engine(address, isolation_level="AUTOCOMMIT", connect_args=told, **options)


def first_value(url: str, question: str, timeout: float) -> str:
    """Return the first value of what a new connection answers, within ``timeout`` seconds.

    :raises Exception: if the driver's own; its words are clearer than SQLAlchemy's.
    """
    return str(_answer(url, question, timeout))


def execute(url: str, statement: str, timeout: float) -> None:
    """Run a statement that returns nothing, on a new connection, within ``timeout`` seconds.

    :raises Exception: as above.
    """
    _answer(url, statement, timeout)


def _answer(url: str, statement: str, timeout: float) -> object:
    import asyncio  # here, since reading what a run may use loads this module

    from sqlalchemy.exc import DBAPIError

    try:
        return asyncio.run(asyncio.wait_for(_executed(url, statement), timeout))
    except DBAPIError as error:
        raise (error.orig and error.orig.__cause__) or error.orig or error from None


async def _executed(url: str, statement: str) -> object:
    from sqlalchemy.pool import NullPool

    engine = own_engine(url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            result = await connection.exec_driver_sql(statement)
            return result.scalar_one() if result.returns_rows else None
    finally:
        await engine.dispose()
