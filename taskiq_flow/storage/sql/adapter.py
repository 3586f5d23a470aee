"""``SQLAlchemyStorageAdapter``: entries in one table of any database that SQLAlchemy reaches.

Every operation is a single statement in autocommit, so that it is atomic by itself, nothing is ever half-written, and
SQLite needs no lock that it would have to upgrade. The statements are written once, for SQLAlchemy's synchronous
connection; in asynchronous mode they run under ``run_sync``, else in a thread.
"""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar
from weakref import WeakMethod

from sqlalchemy import URL, Connection, Engine, Executable, exc
from sqlalchemy.ext.asyncio import AsyncEngine

from taskiq_flow.exceptions import SerializationError
from taskiq_flow.storage import rules
from taskiq_flow.storage.backend import DEFAULT_TIMEOUT, BackendAdapter, Record
from taskiq_flow.storage.expiry import DEFAULT_INTERVAL, PeriodicCleaning, Piece, checked_interval
from taskiq_flow.storage.failures import Diagnosis, Failure
from taskiq_flow.storage.sql import pgbouncer
from taskiq_flow.storage.sql.cleaning import as_text, remove_expired
from taskiq_flow.storage.sql.engines import EngineSettings, EnginesPerLoop, GivenEngine, LazyEngine, new_engine
from taskiq_flow.storage.sql.errors import NotConnectedError, TooLargeError, diagnose
from taskiq_flow.storage.sql.runners import AsyncRunner, GivenAsyncRunner, Runner, ThreadRunner
from taskiq_flow.storage.sql.schema import checked_table
from taskiq_flow.storage.sql.statements import LARGEST_PACKET, packet_size, statements
from taskiq_flow.storage.sql.tables import with_table
from taskiq_flow.storage.sql.urls import is_in_memory, usable_url
from taskiq_flow.storage.urls import masked

__all__ = ["SQLAlchemyStorageAdapter", "SQLiteStorageAdapter"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MySQL", "mariadb": "MariaDB"}
# SQLite keeps a value of any type in a column of any type.
_RECORD_TYPES: tuple[Any, ...] = (str, int, (int, type(None)), str)


class SQLAlchemyStorageAdapter(BackendAdapter):
    """Entries in a table of a database: SQLite, PostgreSQL, MySQL, MariaDB. Creates its table on first use.

    :param db_url: any SQLAlchemy URL; where it names no driver, the usual one for the mode is taken. An SQLite
        database in memory (``sqlite+aiosqlite://``) is one database for each adapter, and gone when that is closed.
    :param async_mode: whether the URL's driver is asynchronous; a synchronous one works in threads.
    :param ttl_seconds: default time to live in seconds; None for no expiry.
    :param namespace: see :class:`BackendAdapter`.
    :param table: the name of the table, or schema and name: ``tenant_a.results``. The schema must be there.
    :param engine: an engine to use instead of ``db_url``; this adapter does not dispose of it. An ``AsyncEngine`` is
        bound to the event loop that it was first used on.
    :param connect_timeout: seconds to wait for a connection.
    :param max_connections: how many connections each event loop may have open, or, in threads, this adapter; further
        calls wait for one. The URL may say it, too: ``?max_connections=4``. By default 15, and 5 for SQLite.
    :param operation_timeout: seconds one call may take in all, waiting for locks included.
    :param cleanup_interval: seconds after which what has expired is removed in the background, time and again; the
        first time is soon after the first use, the last one is :meth:`aclose`. None for never.
    :raises ConfigurationError: if the URL cannot be used, or its driver does not fit ``async_mode``.
    :raises MissingDependencyError: if the URL's driver is not installed.
    """

    backend = "SQL"

    def __init__(
        self,
        db_url: str | URL = "sqlite+aiosqlite:///taskiq-flow.db",
        async_mode: bool = True,
        ttl_seconds: float | None = None,
        *,
        namespace: str = rules.DEFAULT_NAMESPACE,
        table: str = rules.DEFAULT_TABLE,
        engine: AsyncEngine | Engine | None = None,
        connect_timeout: float = 5.0,
        operation_timeout: float = DEFAULT_TIMEOUT,
        max_connections: int | None = None,
        cleanup_interval: float | None = DEFAULT_INTERVAL,
    ) -> None:
        super().__init__(namespace=namespace, ttl_seconds=ttl_seconds, operation_timeout=operation_timeout)
        self._connect_timeout = rules.checked_timeout("connect_timeout", connect_timeout)
        if max_connections is not None:
            rules.checked_max_connections(max_connections)
        self._cleaning = PeriodicCleaning(WeakMethod(self._clean), checked_interval(cleanup_interval))
        if engine is None:
            database = usable_url(db_url, async_mode)
            self._url, dialect = database.url, database.dialect
            self._runner = _runner_for_url(
                EngineSettings(
                    database,
                    async_mode and dialect.name != "sqlite",
                    connect_timeout,
                    operation_timeout,
                    max_connections or database.max_connections or _default_connections(dialect.name),
                )
            )
        else:
            self._url, dialect = engine.url, type(engine.dialect)
            limit = max_connections or _default_connections(dialect.name)
            self._runner = _runner_for_engine(engine, connect_timeout, operation_timeout, limit)
        given = db_url if engine is None else engine.url
        self._secret_url = given if isinstance(given, str) else given.render_as_string(hide_password=False)
        self.backend = _NAMES.get(dialect.name, dialect.name)
        self._statements = statements(checked_table(table, dialect.name), dialect.name)

    async def aclose(self) -> None:
        """Remove what has expired, unless that takes long, and close the connections that this adapter opened; an
        engine that was passed in stays open.
        """
        await self._cleaning.finish()
        await self._runner.aclose()

    def close_from_outside(self) -> None:
        """Close the connections, from a thread that runs no event loop: for test kits, between tests."""
        self._runner.close_from_outside()

    # --- hooks --------------------------------------------------------------------------------------------------------

    async def _read(self, key: str, now: int) -> Record | None:
        statement, where = self._statements.read, self._at(key, now)
        row = await self._run(lambda connection: connection.execute(statement, where).one_or_none())
        if row is not None and not all(isinstance(*part) for part in zip(row, _RECORD_TYPES, strict=True)):
            raise SerializationError(
                f"the entry under key {key!r} cannot be read: a column holds another type than ours"
            )
        return None if row is None else Record._make(row)

    async def _write(self, key: str, record: Record, now: int) -> None:
        row = self._row(key, record)
        await self._run_with(row, lambda connection: self._statements.store(connection, row))

    async def _remove(self, key: str, now: int) -> bool:
        return await self._count(self._statements.remove, self._at(key, now)) > 0

    async def _discard(self, key: str) -> None:
        await self._count(self._statements.discard, {"of": self.namespace, "at": key})

    async def _exchange(self, key: str, seen: Record | None, record: Record | None, now: int) -> bool:
        row = {} if record is None else self._row(key, record)
        if seen is None:
            return record is None or await self._run_with(
                row, lambda connection: self._statements.store_if_absent(connection, row, now)
            )
        choose = self._statements.remove_seen if record is None else self._statements.replace_seen
        unchanged = {f"seen_{name}": kept for name, kept in seen._asdict().items()}
        statement, parameters = choose(seen.expires_at is not None), self._at(key, now) | unchanged | row
        return await self._run_with(row, lambda connection: connection.execute(statement, parameters).rowcount) > 0

    async def _is_live(self, key: str, now: int) -> bool:
        statement, where = self._statements.is_live, self._at(key, now)
        return await self._run(lambda connection: connection.execute(statement, where).first()) is not None

    async def _live_keys(self, prefix: str, now: int) -> Iterable[str]:
        low, high = prefix or None, rules.upper_bound(prefix) if prefix else None
        statement = self._statements.live_keys(low is not None, high is not None)
        where = {"of": self.namespace, "now": now, "low": low, "high": high}
        found = await self._run(lambda connection: connection.execute(statement, where).scalars().all())
        keys = [text for key in found if (text := as_text(key)) is not None]
        if len(keys) < len(found):
            logger.warning("%r left out %d rows whose keys are not UTF-8 text", self, len(found) - len(keys))
        return keys

    async def _count_entries(self) -> int | None:
        where = {"of": self.namespace}
        return await self._run(lambda connection: connection.execute(self._statements.count, where).scalar_one())

    async def _purge_piece(self, now: int, after: str | None) -> Piece:
        return await self._run(partial(remove_expired, self._statements, self.namespace, now, after))

    def _address(self) -> str:
        # Not what SQLAlchemy has parsed: of a password with an unquoted "@" it takes a part for the host.
        address = masked(f"{self._url.drivername}://{self._secret_url.strip().partition('://')[2]}")
        return address.removesuffix("?***")

    def _diagnose(self, error: Exception) -> Diagnosis | None:
        return diagnose(error)

    # --- statements ---------------------------------------------------------------------------------------------------

    async def _run(self, work: Callable[[Connection], T]) -> T:
        """Return what ``work`` returns on a connection in autocommit, in a database that has the table."""
        self._cleaning.note_use()
        try:
            return await self._runner.run(partial(with_table, self._statements.table, work))
        except (NotConnectedError, exc.DBAPIError) as error:
            if pgbouncer.speaks(error.error if isinstance(error, NotConnectedError) else error):
                pgbouncer.remember(self._url)  # who calls asks again, of an engine that does without names
                await self._runner.aclose()
            raise

    async def _run_with(self, row: dict[str, Any], work: Callable[[Connection], T]) -> T:
        """Return what ``work``, which sends ``row``, returns.

        MySQL says of a value that is too large that it is, and ends the connection: its reset may come first.
        """
        try:
            return await self._run(work)
        except Exception as error:
            diagnosis = self._diagnose(error)
            if diagnosis is None or diagnosis.failure is not Failure.LOST or self.backend not in {"MySQL", "MariaDB"}:
                raise
            limit = await self._largest_packet()
            if limit is None or packet_size(row) <= limit:
                raise
            raise TooLargeError(limit, error) from error

    async def _largest_packet(self) -> int | None:
        """Return the size, in bytes, of the largest statement that MySQL takes; None if it cannot be asked."""
        try:
            return int(await self._run(lambda connection: connection.scalar(LARGEST_PACKET)))
        except Exception:  # noqa: BLE001 - the error that made us ask is what counts
            return None

    async def _count(self, statement: Executable, parameters: dict[str, Any]) -> int:
        """Execute a statement, and return how many rows it changed."""
        return await self._run(lambda connection: connection.execute(statement, parameters).rowcount)

    def _at(self, key: str, now: int) -> dict[str, Any]:
        return {"of": self.namespace, "at": key, "now": now}

    def _row(self, key: str, record: Record) -> dict[str, Any]:
        return {"namespace": self.namespace, "key": key, **record._asdict()}


SQLiteStorageAdapter = SQLAlchemyStorageAdapter
"""Another name for :class:`SQLAlchemyStorageAdapter`, which also serves PostgreSQL and MySQL."""


def _default_connections(dialect: str) -> int:
    # As many as SQLAlchemy's pools have unless told otherwise; in SQLite, where one writes at a time, as many as they
    # keep open.
    return 5 if dialect == "sqlite" else 15


def _runner_for_url(settings: EngineSettings) -> Runner:
    # SQLite is always reached through Python's own driver, in threads. So does aiosqlite, with a thread for each
    # connection and a dozen calls to it for each statement; and with SQLAlchemy it leaves a task that never ends where
    # a connection is closed twice. A database in memory lives in one connection, which no event loop may own.
    url = settings.database.url
    make = partial(new_engine, settings)
    if settings.asynchronous:
        return AsyncRunner(EnginesPerLoop(make), settings.connect_timeout, settings.operation_timeout)
    return ThreadRunner(
        LazyEngine(make),
        threads=settings.max_connections,
        one_at_a_time=url.get_backend_name() == "sqlite" and is_in_memory(url),
        operation_timeout=settings.operation_timeout,
    )


def _runner_for_engine(
    engine: AsyncEngine | Engine, connect_timeout: float, operation_timeout: float, threads: int
) -> Runner:
    if isinstance(engine, AsyncEngine):
        return GivenAsyncRunner(engine, connect_timeout, operation_timeout)
    return ThreadRunner(GivenEngine(engine), threads=threads, one_at_a_time=False, operation_timeout=operation_timeout)
