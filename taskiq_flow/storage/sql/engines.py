"""Engines of SQLAlchemy: how they are made, who owns them, and what they share under ``recycle()``."""

import math
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool
from sqlalchemy.util.concurrency import greenlet_spawn

from taskiq_flow.storage.forks import leave_to_parent, reset_in_child
from taskiq_flow.storage.loops import PerLoop
from taskiq_flow.storage.sql import pgbouncer
from taskiq_flow.storage.sql.pools import ClosingAsyncQueuePool, ClosingQueuePool, terminate_connections
from taskiq_flow.storage.sql.urls import Database, is_in_memory
from taskiq_flow.storage.testing import is_recycling

__all__ = ["IN_TRANSACTIONS", "EngineSettings", "EnginesPerLoop", "GivenEngine", "LazyEngine", "new_engine"]

IN_TRANSACTIONS = "taskiq_flow_in_transactions"
"""The execution option of a connection on which each statement has a transaction of its own."""
_KEPT = 5
"""How many connections stay open when there is nothing to do, as in SQLAlchemy's pools unless told otherwise."""

# --- new engines ------------------------------------------------------------------------------------------------------


class _SharedState:
    """What the first engine of its kind has found out about the server, for those that follow."""

    def __init__(self) -> None:
        self.template: Engine | None = None
        """An engine that is never connected, whose dialect another one has used."""
        self.compiled: dict[Any, Any] = {}
        """The statements that were compiled for that dialect."""


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is made from."""

    database: Database
    asynchronous: bool
    """Whether the engine is to be the ``sync_engine`` of an ``AsyncEngine``."""
    connect_timeout: float
    operation_timeout: float
    max_connections: int

    @property
    def in_transactions(self) -> bool:
        """Whether each statement has a transaction of its own."""
        url = self.database.url
        is_behind = self.database.is_behind_pgbouncer or pgbouncer.is_known(url)
        return is_behind and url.get_driver_name() == "asyncpg"


@lru_cache(maxsize=16)
def _shared_state(_settings: EngineSettings, _in_transactions: bool) -> _SharedState:
    return _SharedState()


def new_engine(settings: EngineSettings) -> Engine:
    """Return an engine; connects to nothing.

    Under ``recycle()`` it shares dialect and compiled statements with others of the same settings, so that an adapter
    on an event loop of its own, as each test has, does not begin anew. Not before one of them has been connected: while
    SQLAlchemy gets to know a server, it lets connections of one engine wait for that, but not those of another engine
    with the same dialect.
    """
    if not is_recycling():
        return _first_engine(settings)
    shared = _shared_state(settings, settings.in_transactions)
    if shared.template is None:
        engine = _first_engine(settings)
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
        execution_options={**engine.get_execution_options(), **execution_options},
    )


def _first_engine(settings: EngineSettings) -> Engine:
    database = settings.database
    url = database.driver_url
    kept = min(_KEPT, settings.max_connections)
    options: dict[str, Any] = {
        "pool_reset_on_return": None,  # there is never a transaction to roll back
        "pool_pre_ping": url.get_backend_name() != "sqlite",  # a restarted server costs no call
        "hide_parameters": True,
        "connect_args": _driver_options(settings) | database.arguments,
        # Longer than an operation may take: who waits for a connection fails by that time-out only.
        "pool_timeout": 2 * settings.operation_timeout,
        "pool_size": kept,
        "max_overflow": settings.max_connections - kept,
        "poolclass": ClosingAsyncQueuePool if settings.asynchronous else ClosingQueuePool,
    }
    if settings.in_transactions:
        options["execution_options"] = {IN_TRANSACTIONS: True}
        options["connect_args"] |= _WITHOUT_NAMES
    else:
        options["isolation_level"] = "AUTOCOMMIT"
    if url.get_backend_name() == "sqlite":
        if url.drivername == "sqlite+aiosqlite":
            url = url.set(drivername="sqlite+pysqlite")
        if is_in_memory(url):
            options |= {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
            for name in ("pool_timeout", "pool_size", "max_overflow"):
                del options[name]
        return create_engine(url, **options)
    return create_async_engine(url, **options).sync_engine if settings.asynchronous else create_engine(url, **options)


def _driver_options(settings: EngineSettings) -> dict[str, Any]:
    """Return how the driver is told of time-outs and the like."""
    url, connect, operation = settings.database.driver_url, settings.connect_timeout, settings.operation_timeout
    # The adapter's own time-out comes first; these end the work of a thread, or of a task, that it has left.
    after = operation + 1
    options: dict[str, dict[str, Any]] = {
        "aiosqlite": {"timeout": 0},  # how long to wait for a lock: see runners
        "pysqlite": {"timeout": 0},
        # The names that asyncpg gives to statements are those of each process: behind PgBouncer, another one's
        # statement might be executed.
        "asyncpg": {"timeout": connect, "command_timeout": after, "prepared_statement_name_func": _unique_name},
        # So are those of psycopg, which prepares what it has seen five times.
        "psycopg": {"connect_timeout": math.ceil(connect), "prepare_threshold": None},
        # Unless told, these two switch a server's autocommit off, and SQLAlchemy switches it on again.
        "asyncmy": {"connect_timeout": connect, "autocommit": True},
        "pymysql": {"connect_timeout": connect, "read_timeout": after, "write_timeout": after, "autocommit": True},
    }
    # What the URL says itself takes precedence.
    chosen = options.get(url.drivername.partition("+")[2], {})
    return {name: value for name, value in chosen.items() if name not in url.query}


def _unique_name() -> str:
    return f"taskiq_flow_{uuid4().hex}"


_WITHOUT_NAMES: dict[str, Any] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": str,  # an empty name: the statement that the server keeps only until the next
}


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
        reset_in_child(self)

    def after_fork(self) -> None:
        """Forget the engine of the parent process."""
        if self._engine is not None:
            self._finalizer.detach()
            leave_to_parent(self._engine)
        self._engine, self._lock = None, threading.Lock()

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
        """Close the connections of every engine, each on its loop; further calls get new engines."""
        await self._engines.aclose()

    def close_from_outside(self) -> None:
        """Close the connections of every engine, from a thread that runs no event loop."""
        for engine in self._engines.resources():
            terminate_connections(engine.sync_engine.pool)
        self._engines.close_from_outside()


async def _dispose(engine: AsyncEngine) -> None:
    # Not `engine.dispose()`, which makes a new pool: a call that is just connecting would leave its connection there.
    await greenlet_spawn(engine.sync_engine.pool.dispose)
