"""``SQLAlchemyStorageAdapter``: entries in one table of any database that SQLAlchemy reaches.

Every operation is a single statement in autocommit, so that it is atomic by itself, nothing is ever half-written, and
SQLite needs no lock that it would have to upgrade. The statements are written once, for SQLAlchemy's synchronous
connection; in asynchronous mode they run under ``run_sync``, else in a thread.
"""

import asyncio
import math
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from traceback import clear_frames
from typing import Any, TypeVar

from sqlalchemy import (
    URL,
    Connection,
    Dialect,
    Engine,
    Executable,
    Table,
    create_engine,
    event,
    exc,
    inspect,
    make_url,
    text,
)
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from taskiq_flow.exceptions import ConfigurationError, MissingDependencyError, SerializationError, StorageError
from taskiq_flow.storage import rules
from taskiq_flow.storage.backend import DEFAULT_TIMEOUT, BackendAdapter, Record, without_frames
from taskiq_flow.storage.cancellation import Caller, in_own_task
from taskiq_flow.storage.loops import PerLoop
from taskiq_flow.storage.sql.pools import ClosingAsyncQueuePool, ClosingQueuePool, hurry
from taskiq_flow.storage.sql.statements import Statements, statements
from taskiq_flow.storage.testing import is_recycling
from taskiq_flow.storage.threads import Threads
from taskiq_flow.storage.urls import for_driver, masked

__all__ = ["SQLAlchemyStorageAdapter", "SQLiteStorageAdapter"]

T = TypeVar("T")

_NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MySQL", "mariadb": "MariaDB"}
_ASYNC_DRIVERS = {"sqlite": "aiosqlite", "postgresql": "asyncpg", "mysql": "asyncmy", "mariadb": "asyncmy"}
_SYNC_DRIVERS = {"sqlite": "pysqlite", "postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
# SQLite keeps a value of any type in a column of any type.
_RECORD_TYPES: tuple[Any, ...] = (str, int, (int, type(None)), str)
_EXTRAS = {"asyncpg": "postgres", "asyncmy": "mysql"}
_ATTEMPTS = 10
# As many as SQLAlchemy's pools have connections unless told otherwise; SQLite, where one writes at a time, gets no more
# than they keep open.
_THREADS, _SQLITE_THREADS = 15, 5
# What databases say when two writers of one row got in each other's way: the statement did nothing and may be repeated.
_REPEATABLE = {"40001", "40P01", 1205, 1213}


class SQLAlchemyStorageAdapter(BackendAdapter):
    """Entries in a table of a database: SQLite, PostgreSQL, MySQL, MariaDB. Creates its table on first use.

    :param db_url: any SQLAlchemy URL; where it names no driver, the usual one for the mode is taken. An SQLite
        database in memory (``sqlite+aiosqlite://``) is one database for each adapter, and gone when that is closed.
    :param async_mode: whether the URL's driver is asynchronous; a synchronous one works in threads.
    :param ttl_seconds: default time to live in seconds; None for ever.
    :param namespace: see :class:`BackendAdapter`.
    :param table: the name of the table, in the database's default schema.
    :param engine: an engine of one's own, used instead of ``db_url``; this adapter does not dispose of it. An
        ``AsyncEngine`` is bound to the event loop that it was first used on.
    :param connect_timeout: seconds to wait for a connection.
    :param operation_timeout: seconds one call may take in all, waiting for locks included.
    :raises ConfigurationError: the URL cannot be used, or its driver does not fit ``async_mode``.
    :raises MissingDependencyError: the URL's driver is not installed.
    """

    backend = "SQL"

    _forgotten: "weakref.finalize[[], SQLAlchemyStorageAdapter]"
    """Closes the connections of the synchronous engine when an adapter that has one is dropped."""

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
    ) -> None:
        super().__init__(namespace=namespace, ttl_seconds=ttl_seconds, operation_timeout=operation_timeout)
        self._connect_timeout = rules.checked_timeout("connect_timeout", connect_timeout)
        if engine is None:
            self._url, dialect = _usable_url(db_url, async_mode)
        else:
            self._url, dialect, async_mode = engine.url, type(engine.dialect), isinstance(engine, AsyncEngine)
        self.backend = _NAMES.get(dialect.name, dialect.name)
        self._statements = statements(table, dialect.name)
        self._given = engine
        self._in_memory = dialect.name == "sqlite" and engine is None and _is_in_memory(self._url)
        # SQLite is always reached through Python's own driver, in threads. So does aiosqlite, with a thread for each
        # connection and a dozen errands to it for each call; and with SQLAlchemy it leaves a task that never ends where
        # a connection is closed twice. A database in memory lives in one connection, which no event loop may own.
        self._async_engines: PerLoop[AsyncEngine] | None = None
        if engine is None and async_mode and dialect.name != "sqlite":
            arguments = (self._url, True, connect_timeout, operation_timeout)
            self._async_engines = PerLoop(lambda: AsyncEngine(_new_engine(*arguments)), _dispose)
        self._sync_engine: Engine | None = None
        self._engine_lock = threading.Lock()
        self._turn = threading.Lock()
        self._threads = Threads(_SQLITE_THREADS if dialect.name == "sqlite" else _THREADS)

    async def aclose(self) -> None:
        """Close the connections that this adapter opened; an engine that was passed in stays open."""
        if self._async_engines is not None:
            await self._async_engines.aclose()
        if self._sync_engine is not None:
            await asyncio.to_thread(self._dispose_sync_engine)
        self._threads.end()

    def close_from_outside(self) -> None:
        """Close the connections, from a thread that runs no event loop: for test kits, between tests."""
        if self._async_engines is not None:
            for engine in self._async_engines.resources():
                hurry(engine.sync_engine.pool)
            self._async_engines.close_from_outside()
        self._dispose_sync_engine()
        self._threads.hand_on()

    # --- hooks ----------------------------------------------------------------------------------------------------

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
        await self._run(lambda connection: _upsert(connection, self._statements, row))

    async def _remove(self, key: str, now: int) -> bool:
        return await self._count(self._statements.remove, self._at(key, now)) > 0

    async def _discard(self, key: str) -> None:
        await self._count(self._statements.discard, {"of": self.namespace, "at": key})

    async def _exchange(self, key: str, seen: Record | None, record: Record | None, now: int) -> bool:
        row = {} if record is None else self._row(key, record)
        if seen is None:
            return record is None or await self._run(
                lambda connection: _insert_if_absent(connection, self._statements, row, now)
            )
        choose = self._statements.remove_seen if record is None else self._statements.replace_seen
        unchanged = {f"seen_{name}": kept for name, kept in seen._asdict().items()}
        return await self._count(choose(seen.expires_at is not None), self._at(key, now) | unchanged | row) > 0

    async def _is_live(self, key: str, now: int) -> bool:
        statement, where = self._statements.is_live, self._at(key, now)
        return await self._run(lambda connection: connection.execute(statement, where).first()) is not None

    async def _live_keys(self, prefix: str, now: int) -> Iterable[str]:
        low, high = prefix or None, rules.upper_bound(prefix) if prefix else None
        statement = self._statements.live_keys(low is not None, high is not None)
        where = {"of": self.namespace, "now": now, "low": low, "high": high}
        return await self._run(lambda connection: connection.execute(statement, where).scalars().all())

    async def _purge(self, now: int) -> int:
        return await self._count(self._statements.purge, {"of": self.namespace, "now": now})

    async def _count(self, statement: Executable, parameters: dict[str, Any]) -> int:
        """Execute a statement, and return how many rows it changed."""
        return await self._run(lambda connection: connection.execute(statement, parameters).rowcount)

    def _at(self, key: str, now: int) -> dict[str, Any]:
        return {"of": self.namespace, "at": key, "now": now}

    def _row(self, key: str, record: Record) -> dict[str, Any]:
        return {"namespace": self.namespace, "key": key, **record._asdict()}

    def _address(self) -> str:
        # Not with SQLAlchemy's own mask: of a password with an unquoted "@" it takes a part for the host.
        return masked(self._url.set(query={}).render_as_string(hide_password=False))

    def _translated(self, error: Exception, doing: str) -> StorageError | None:
        if isinstance(error, exc.DBAPIError):
            reason = _reason(error)
            if "Could not decode to UTF-8" in reason:
                return SerializationError(f"the entry under {doing} is not one of ours: {reason:.200}")
            return self._unreachable(doing, reason) if error.connection_invalidated else self._refused(doing, reason)
        if isinstance(error, exc.SQLAlchemyError):
            return self._refused(doing, error)
        # asyncpg's own, on a connection that the server is just ending: SQLAlchemy before 2.0.50 passes it on.
        lost = isinstance(error, OSError) or type(error).__module__.partition(".")[0] == "asyncpg"
        return self._unreachable(doing, _reason(error)) if lost else None

    # --- running statements -----------------------------------------------------------------------------------------

    async def _run(self, work: Callable[[Connection], T]) -> T:
        """Return what ``work`` returns on a connection in autocommit, in a database that has the table."""
        if isinstance(self._given, AsyncEngine):
            return await in_own_task(partial(self._run_async, self._given, work), self._connect_timeout)
        if self._async_engines is not None:
            engine = await self._async_engines.get()
            return await in_own_task(partial(self._run_async, engine, work), self._connect_timeout)
        delays = _delays_for_a_lock(self._operation_timeout)
        while True:
            given_up = threading.Event()
            try:
                return await self._threads.run(partial(self._run_in_thread, work, given_up))
            except asyncio.CancelledError:
                given_up.set()
                raise
            except exc.OperationalError as error:
                if not _says_locked(error) or (delay := next(delays, None)) is None:
                    raise
            await asyncio.sleep(delay)  # here and not in the thread: there are few

    async def _run_async(self, engine: AsyncEngine, work: Callable[[Connection], T], caller: Caller) -> T:
        # Stopped while it connects, ends a transaction or closes, SQLAlchemy leaves an open connection to the garbage
        # collector, and with aiosqlite a task that never ends.
        try:
            connection = await engine.connect()
        except Exception as error:  # noqa: BLE001 - asyncpg and others raise what they like while connecting
            if engine.driver == "aiosqlite":
                # Its thread still reports its end to this loop, and complains loudly if that closes first.
                await asyncio.sleep(0.01)
            raise self._unreachable("connecting", _reason(error)) from without_frames(error)
        delays = _delays_for_a_lock(self._operation_timeout)
        try:
            while True:
                try:
                    with caller.may_interrupt():
                        return await connection.run_sync(self._work, work)
                except exc.OperationalError as error:
                    if not _says_locked(error) or (delay := next(delays, None)) is None:
                        raise
                await connection.rollback()  # for SQLAlchemy a transaction has begun, even in autocommit
                with caller.may_interrupt():
                    await asyncio.sleep(delay)
        except asyncio.CancelledError as error:
            # SQLAlchemy's frames refer to themselves: until the garbage collector came, one of them would keep the
            # cursor, which on SQLite keeps its file open, and locked for a reader.
            clear_frames(error.__traceback__)
            raise
        finally:
            await connection.close()

    def _run_in_thread(self, work: Callable[[Connection], T], given_up: threading.Event) -> T:
        if not self._in_memory:
            return self._run_sync(work, given_up)
        with self._turn:
            return self._run_sync(work, given_up)

    def _run_sync(self, work: Callable[[Connection], T], given_up: threading.Event) -> T:
        try:
            connection = self._open_sync_engine().connect()
        except Exception as error:  # noqa: BLE001 - asyncpg and others raise what they like while connecting
            raise self._unreachable("connecting", _reason(error)) from without_frames(error)
        with connection:
            if given_up.is_set():  # while it connected: the caller has gone on, and may have written something newer
                raise TimeoutError("given up")
            return self._work(connection, work)

    def _work(self, connection: Connection, work: Callable[[Connection], T]) -> T:
        if self._given is not None:
            # Here and not on the engine: there it is part of connecting, and a call that is cancelled in the middle of
            # that leaves the connection to the garbage collector.
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        # The table is nearly always there: nothing looks for it until a statement fails.
        try:
            return _repeated(connection, work)
        except exc.DBAPIError as error:
            if error.connection_invalidated or not (
                _says_no_table(error) or _lacks(connection, self._statements.table)
            ):
                raise
        _create(connection, self._statements.table)
        return _repeated(connection, work)

    # --- engines --------------------------------------------------------------------------------------------------

    def _open_sync_engine(self) -> Engine:
        if isinstance(self._given, Engine):
            return self._given
        with self._engine_lock:
            if self._sync_engine is None:
                self._sync_engine = _new_engine(self._url, False, self._connect_timeout, self._operation_timeout)
                self._forgotten = weakref.finalize(self, self._sync_engine.pool.dispose)
            return self._sync_engine

    def _dispose_sync_engine(self) -> None:
        with self._engine_lock:
            engine, self._sync_engine = self._sync_engine, None
        if engine is not None:
            self._forgotten.detach()
            with self._turn:  # an SQLite database in memory has but one connection, which may be in use
                engine.pool.dispose()


SQLiteStorageAdapter = SQLAlchemyStorageAdapter
"""The API page's name for :class:`SQLAlchemyStorageAdapter`, which also serves PostgreSQL and MySQL."""


def _repeated(connection: Connection, work: Callable[[Connection], T]) -> T:
    """Return what ``work`` returns, tried again where the database says that another writer was in the way."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return work(connection)
        except exc.DBAPIError as error:
            if not _is_repeatable(error):
                raise
    return work(connection)


def _says_locked(error: exc.DBAPIError) -> bool:
    """Return whether an SQLite database told that another connection was writing: the statement did nothing."""
    return "database is locked" in str(error.orig)


def _delays_for_a_lock(timeout: float) -> Iterator[float]:
    """Yield how long to wait, in seconds, before asking SQLite for its lock again, for ``timeout`` seconds in all.

    SQLite would wait by itself, but in a thread, where nobody could stop it: the statement of a caller who has long
    given up would still be executed. No clock is asked: a test may have stopped it.
    """
    waited, delay = 0.0, 0.001
    while waited < timeout:
        yield delay
        waited, delay = waited + delay, min(2 * delay, 0.02)


def _says_no_table(error: exc.DBAPIError) -> bool:
    """Return whether the statement failed for want of the table, which another one may have made by now."""
    return "42P01" in _codes(error) or 1146 in _codes(error) or "no such table" in str(error.orig)


def _lacks(connection: Connection, table: Table) -> bool:
    """Return whether the database has no such table; False where it cannot even say that."""
    try:
        return not inspect(connection).has_table(table.name)
    except exc.DBAPIError:
        return False


def _create(connection: Connection, table: Table) -> None:
    """Create the table unless it is there; of any number of processes that do so at once, all succeed."""
    if connection.dialect.name == "sqlite":
        _use_write_ahead_log(connection)
    for attempt in range(_ATTEMPTS):
        try:
            table.create(connection, checkfirst=True)
        except exc.DBAPIError as error:  # somebody else was first, between the look and the leap
            if error.connection_invalidated or _says_locked(error):
                raise
            if inspect(connection).has_table(table.name):
                return
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def _use_write_ahead_log(connection: Connection) -> None:
    # Readers and one writer then work side by side. The mode stays with the file. Of two processes that switch at once,
    # one is told "locked", asks again, and finds it switched.
    if connection.execute(text("PRAGMA journal_mode")).scalar() not in {"wal", "memory"}:
        connection.execute(text("PRAGMA journal_mode=WAL"))


def _upsert(connection: Connection, known: Statements, row: dict[str, Any]) -> None:
    """Store a row, whatever was there, in one statement where the database has one for it."""
    if known.upsert is not None:
        connection.execute(known.upsert, row)
        return
    here = {"of": row["namespace"], "at": row["key"]}
    for attempt in range(_ATTEMPTS):
        if connection.execute(known.update, here | row).rowcount:
            return
        try:
            connection.execute(known.insert, row)
        except exc.IntegrityError:  # another writer inserted it first: update that one
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def _insert_if_absent(connection: Connection, known: Statements, row: dict[str, Any], now: int) -> bool:
    """Store a row unless a live one is there; return whether it was stored."""
    if known.insert_if_absent is not None:
        return connection.execute(known.insert_if_absent, {**row, "now": now}).rowcount > 0
    connection.execute(known.discard_expired, {"of": row["namespace"], "at": row["key"], "now": now})
    try:
        connection.execute(known.insert, row)
    except exc.IntegrityError:  # somebody else's is there
        return False
    return True


def _is_repeatable(error: exc.DBAPIError) -> bool:
    return not _REPEATABLE.isdisjoint(_codes(error))


def _codes(error: exc.DBAPIError) -> set[Any]:
    """Return what a driver calls the error: its SQLSTATE (PostgreSQL's drivers), its number (MySQL's)."""
    original = error.orig
    return {getattr(original, "sqlstate", None), next(iter(getattr(original, "args", ())), None)}


async def _dispose(engine: AsyncEngine) -> None:
    await engine.dispose()


def _usable_url(db_url: str | URL, async_mode: bool) -> tuple[URL, type[Dialect]]:
    """Return the URL with a driver that fits the mode, and its dialect.

    :raises ConfigurationError: no such database, or the driver does not fit the mode.
    :raises MissingDependencyError: the driver is not installed.
    """
    try:
        url = make_url(db_url)
    except (exc.ArgumentError, ValueError):
        raise ConfigurationError(
            "db_url is no SQLAlchemy URL: write it like 'sqlite+aiosqlite:///file.db' or "
            "'postgresql+asyncpg://user:password@host/database'"
        ) from None
    database, _, driver = url.drivername.partition("+")
    database = "postgresql" if database == "postgres" else database
    drivers = _ASYNC_DRIVERS if async_mode else _SYNC_DRIVERS
    driver = driver or drivers.get(database, "")
    url = url.set(drivername=f"{database}+{driver}" if driver else database)
    try:
        dialect = url.get_dialect()
        if async_mode:  # some drivers, such as psycopg, are both
            dialect = dialect.get_async_dialect_cls(url)
        dialect.import_dbapi()
    except exc.NoSuchModuleError:
        known = ", ".join(_ASYNC_DRIVERS)
        raise ConfigurationError(f"SQLAlchemy has no dialect for {url.drivername!r}; well known are: {known}") from None
    except ImportError as error:
        package = error.name or driver
        if package in _EXTRAS:
            raise MissingDependencyError.for_extra(f"{url.drivername}://", package, _EXTRAS[package]) from error
        message = f"{url.drivername}:// needs {package!r}, which is not installed: pip install {package}"
        raise MissingDependencyError(message) from error
    if dialect.is_async != async_mode:
        proposal = f"{database}+{drivers[database]}://" if database in drivers else "a driver of that kind"
        raise ConfigurationError(
            f"the driver {driver!r} of {url.drivername}:// does not fit async_mode={async_mode}: use {proposal}, "
            f"or async_mode={dialect.is_async}"
        )
    return url, dialect


class _Learned:
    """What the first engine of its kind has found out about the server, for those that follow."""

    def __init__(self) -> None:
        self.pattern: Engine | None = None
        """An engine that is never connected, whose dialect another one has used."""
        self.compiled: dict[Any, Any] = {}
        """The statements that were compiled for that dialect."""


@lru_cache(maxsize=16)
def _learned(_url: URL, _asynchronous: bool, _connect: float, _operation: float) -> _Learned:
    return _Learned()


def _new_engine(url: URL, asynchronous: bool, connect: float, operation: float) -> Engine:
    """Return an engine that shares dialect and compiled statements with others of the same arguments: an adapter on an
    event loop of its own, as each test has, does not begin anew.

    Not before one of them has been connected: while SQLAlchemy gets to know a server, it lets connections of one
    engine wait for that, but not those of another engine with the same dialect.
    """
    if not is_recycling():
        return _first_engine(url, asynchronous, connect, operation)
    learned = _learned(url, asynchronous, connect, operation)
    if learned.pattern is None:
        engine = _first_engine(url, asynchronous, connect, operation)
        pattern = _like(engine)

        @event.listens_for(engine.pool, "connect")
        def teach(*_: object) -> None:
            learned.pattern = learned.pattern or pattern

        return engine
    return _like(learned.pattern, compiled_cache=learned.compiled)


def _like(engine: Engine, **execution_options: Any) -> Engine:
    """Return an engine with the same dialect and settings, and without connections."""
    return Engine(
        engine.pool.recreate(),
        engine.dialect,
        engine.url,
        hide_parameters=engine.hide_parameters,
        execution_options=execution_options,
    )


def _first_engine(url: URL, asynchronous: bool, connect: float, operation: float) -> Engine:
    url, told = for_driver(url)
    options: dict[str, Any] = {
        "isolation_level": "AUTOCOMMIT",
        "pool_reset_on_return": None,  # there is never a transaction to roll back
        "pool_pre_ping": url.get_backend_name() != "sqlite",  # a restarted server costs no call
        "hide_parameters": True,
        "connect_args": _driver_options(url, connect, operation) | told,
        "pool_timeout": operation,
        "poolclass": ClosingAsyncQueuePool if asynchronous else ClosingQueuePool,
    }
    if url.get_backend_name() == "sqlite":
        if url.drivername == "sqlite+aiosqlite":
            url = url.set(drivername="sqlite+pysqlite")
        if _is_in_memory(url):
            options |= {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
            del options["pool_timeout"]
        return create_engine(url, **options)
    return create_async_engine(url, **options).sync_engine if asynchronous else create_engine(url, **options)


def _is_in_memory(url: URL) -> bool:
    database = url.database or ""
    return database in {"", ":memory:"} or "mode=memory" in database or url.query.get("mode") == "memory"


def _driver_options(url: URL, connect: float, operation: float) -> dict[str, Any]:
    """Return how the driver is told of time-outs."""
    driver = url.drivername.partition("+")[2]
    options: dict[str, dict[str, Any]] = {
        "aiosqlite": {"timeout": 0},  # how long to wait for a lock: see _delays_for_a_lock
        "pysqlite": {"timeout": 0},
        "asyncpg": {"timeout": connect, "command_timeout": operation},
        "psycopg": {"connect_timeout": math.ceil(connect)},
        # Unless told, these two switch a server's autocommit off, and SQLAlchemy switches it on again.
        "asyncmy": {"connect_timeout": connect, "autocommit": True},
        "pymysql": {
            "connect_timeout": connect,
            "read_timeout": operation,
            "write_timeout": operation,
            "autocommit": True,
        },
    }
    # What the URL says itself goes before.
    return {name: value for name, value in options.get(driver, {}).items() if name not in url.query}


def _reason(error: BaseException) -> str:
    """Return the driver's own words, without SQLAlchemy's statement and link."""
    original = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    return f"{type(original).__name__}: {original}" if str(original) else type(original).__name__
