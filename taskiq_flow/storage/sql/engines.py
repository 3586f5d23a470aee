"""Engines of SQLAlchemy: which URLs can be used, what drivers are told, and what engines share under ``recycle()``."""

import math
import re
import threading
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from sqlalchemy import URL, Dialect, Engine, create_engine, event, exc, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from taskiq_flow.exceptions import ConfigurationError, MissingDependencyError
from taskiq_flow.storage.loops import PerLoop
from taskiq_flow.storage.sql.pools import ClosingAsyncQueuePool, ClosingQueuePool, terminate_connections
from taskiq_flow.storage.testing import is_recycling
from taskiq_flow.storage.urls import for_driver

__all__ = ["EnginesPerLoop", "GivenEngine", "LazyEngine", "is_in_memory", "new_engine", "usable_url"]

_ASYNC_DRIVERS = {"sqlite": "aiosqlite", "postgresql": "asyncpg", "mysql": "asyncmy", "mariadb": "asyncmy"}
_SYNC_DRIVERS = {"sqlite": "pysqlite", "postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
_EXTRAS = {"asyncpg": "postgres", "asyncmy": "mysql"}

# --- URLs -------------------------------------------------------------------------------------------------------------


def usable_url(db_url: str | URL, async_mode: bool) -> tuple[URL, type[Dialect]]:
    """Return the URL with a driver that fits the mode, and its dialect.

    :raises ConfigurationError: if there is no such database, or the driver does not fit the mode.
    :raises MissingDependencyError: if the driver is not installed.
    """
    url = _parsed(db_url)
    database, _, driver = url.drivername.partition("+")
    drivers = _ASYNC_DRIVERS if async_mode else _SYNC_DRIVERS
    driver = driver or drivers.get(database, "")
    url = url.set(drivername=f"{database}+{driver}" if driver else database)
    try:
        dialect = url.get_dialect()
        if async_mode:  # some drivers, such as psycopg, are both
            dialect = dialect.get_async_dialect_cls(url)
        dialect.import_dbapi()
    except exc.NoSuchModuleError:
        raise _unknown_dialect(url) from None
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


def _parsed(db_url: str | URL) -> URL:
    """Return a URL whose parts can be what they are said to be.

    :raises ConfigurationError: if it is not a URL, or was taken apart in the middle of a password.
    """
    try:
        url = make_url(db_url.strip() if isinstance(db_url, str) else db_url)
    except (exc.ArgumentError, ValueError):
        raise ConfigurationError(
            "db_url is not an SQLAlchemy URL: write it like 'sqlite+aiosqlite:///file.db' or "
            "'postgresql+asyncpg://user:password@host/database'"
        ) from None
    if "@" in (url.host or "") or (isinstance(db_url, str) and _is_cut_in_a_value(db_url, url)):
        raise ConfigurationError(
            f"the URL '{url.drivername}://***' has an '@' too many: in a user, password or query value, any of "
            "/ ? # @ % : must be quoted (urllib.parse.quote)"
        )
    return url.set(drivername=re.sub(r"^postgres(?=\+|$)", "postgresql", url.drivername))


def _is_cut_in_a_value(db_url: str, url: URL) -> bool:
    """Return whether SQLAlchemy took an "@" in the query for the end of the password, or of the user's name."""
    credentials = db_url.partition("://")[2].rpartition("@")[0]
    if not credentials or credentials.startswith("/"):
        return False
    user = credentials.partition(":")[0]
    host_as_user = url.password is not None and "@" in user
    return host_as_user or "?" in user or bool(re.match(r"\d*/[^?]*\?[^?]*=", str(url.password or "")))


def _unknown_dialect(url: URL) -> ConfigurationError:
    known = ", ".join(_ASYNC_DRIVERS)
    return ConfigurationError(f"SQLAlchemy has no dialect for {url.drivername!r}; well known are: {known}")


def dialect_of(db_url: str | URL) -> Dialect:
    """Return the dialect of a URL, whether or not its driver is installed.

    :raises ConfigurationError: if there is no such database.
    """
    url = _parsed(db_url)
    try:
        return url.set(drivername=url.get_backend_name()).get_dialect()()
    except exc.NoSuchModuleError:
        raise _unknown_dialect(url) from None


def is_in_memory(url: URL) -> bool:
    """Return whether an SQLite URL names a database in memory."""
    database = url.database or ""
    return database in {"", ":memory:"} or "mode=memory" in database or url.query.get("mode") == "memory"


# --- new engines ------------------------------------------------------------------------------------------------------


class _SharedState:
    """What the first engine of its kind has found out about the server, for those that follow."""

    def __init__(self) -> None:
        self.template: Engine | None = None
        """An engine that is never connected, whose dialect another one has used."""
        self.compiled: dict[Any, Any] = {}
        """The statements that were compiled for that dialect."""


@lru_cache(maxsize=16)
def _shared_state(_url: URL, _asynchronous: bool, _connect: float, _operation: float) -> _SharedState:
    return _SharedState()


def new_engine(url: URL, asynchronous: bool, connect_timeout: float, operation_timeout: float) -> Engine:
    """Return an engine for a URL; connects to nothing.

    Under ``recycle()`` it shares dialect and compiled statements with others of the same arguments, so that an adapter
    on an event loop of its own, as each test has, does not begin anew. Not before one of them has been connected: while
    SQLAlchemy gets to know a server, it lets connections of one engine wait for that, but not those of another engine
    with the same dialect.

    :param asynchronous: whether it is to be the ``sync_engine`` of an ``AsyncEngine``.
    """
    if not is_recycling():
        return _first_engine(url, asynchronous, connect_timeout, operation_timeout)
    shared = _shared_state(url, asynchronous, connect_timeout, operation_timeout)
    if shared.template is None:
        engine = _first_engine(url, asynchronous, connect_timeout, operation_timeout)
        template = _like(engine)

        @event.listens_for(engine.pool, "connect")
        def share(*_: object) -> None:
            shared.template = shared.template or template

        return engine
    return _like(shared.template, compiled_cache=shared.compiled)


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
        if is_in_memory(url):
            options |= {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
            del options["pool_timeout"]
        return create_engine(url, **options)
    return create_async_engine(url, **options).sync_engine if asynchronous else create_engine(url, **options)


def _driver_options(url: URL, connect: float, operation: float) -> dict[str, Any]:
    """Return how the driver is told of time-outs."""
    driver = url.drivername.partition("+")[2]
    options: dict[str, dict[str, Any]] = {
        "aiosqlite": {"timeout": 0},  # how long to wait for a lock: see runners.LOCK_PAUSES
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
    # What the URL says itself takes precedence.
    return {name: value for name, value in options.get(driver, {}).items() if name not in url.query}


# --- who owns an engine -----------------------------------------------------------------------------------------------


class GivenEngine:
    """A synchronous engine that was handed in; it stays open."""

    is_open = False
    """Whether :meth:`dispose` has something to close."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self) -> Engine:
        """Return it."""
        return self._engine

    def dispose(self) -> None:
        """Close nothing."""


class LazyEngine:
    """A synchronous engine that is made when it is first asked for, and again after it was disposed of.

    Its connections are closed when this object is dropped, too.
    """

    _finalizer: "weakref.finalize[[], LazyEngine]"

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._make = make
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether :meth:`dispose` has something to close."""
        return self._engine is not None

    def get(self) -> Engine:
        """Return the engine, made now if need be."""
        with self._lock:
            if self._engine is None:
                self._engine = self._make()
                self._finalizer = weakref.finalize(self, self._engine.pool.dispose)
            return self._engine

    def dispose(self) -> None:
        """Close the engine's connections."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            self._finalizer.detach()
            engine.pool.dispose()


class EnginesPerLoop:
    """An asynchronous engine for each event loop."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._engines = PerLoop(lambda: AsyncEngine(make()), _dispose)

    async def get(self) -> AsyncEngine:
        """Return the running loop's engine, made now if need be."""
        return await self._engines.get()

    async def aclose(self) -> None:
        """Close the connections of every engine, each on its loop."""
        await self._engines.aclose()

    def close_from_outside(self) -> None:
        """Close the connections of every engine, from a thread that runs no event loop."""
        for engine in self._engines.resources():
            terminate_connections(engine.sync_engine.pool)
        self._engines.close_from_outside()


async def _dispose(engine: AsyncEngine) -> None:
    await engine.dispose()
