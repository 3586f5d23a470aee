"""Running work on a connection: in a task for asynchronous drivers, in a thread for synchronous ones."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from traceback import clear_frames
from typing import Protocol, TypeVar

from sqlalchemy import Connection, Engine, exc
from sqlalchemy.ext.asyncio import AsyncEngine

from taskiq_flow.storage.cancellation import Caller, in_own_task
from taskiq_flow.storage.forks import reset_in_child
from taskiq_flow.storage.retries import pauses
from taskiq_flow.storage.sql.engines import EnginesPerLoop, GivenEngine, LazyEngine
from taskiq_flow.storage.sql.errors import NotConnectedError, says_locked
from taskiq_flow.storage.threads import Threads

__all__ = ["AsyncRunner", "GivenAsyncRunner", "Runner", "ThreadRunner"]

T = TypeVar("T")


class Runner(Protocol):
    """Runs work on connections of one engine, or of one for each event loop."""

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Return what ``work`` returns on a connection in autocommit.

        SQLite's lock is asked for again and again, until the operation's time-out.

        :raises NotConnectedError: if there is no connection to be had.
        """

    async def aclose(self) -> None:
        """Close what was opened; an engine that was handed in stays open."""

    def close_from_outside(self) -> None:
        """Close it from a thread that runs no event loop."""


class GivenAsyncRunner:
    """Runs work on an ``AsyncEngine`` that was handed in.

    :param connect_timeout: seconds that a caller who is cancelled waits for a connection.
    :param operation_timeout: seconds that SQLite's lock is asked for again.
    """

    def __init__(self, engine: AsyncEngine, connect_timeout: float, operation_timeout: float) -> None:
        self._engine = engine
        self._connect_timeout = connect_timeout
        self._operation_timeout = operation_timeout

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Return what ``work`` returns; see :meth:`Runner.run`."""
        autocommitted: Callable[[Connection], T] = partial(_in_autocommit, work)
        running = partial(_run_async, self._engine, autocommitted, self._operation_timeout)
        return await in_own_task(running, self._connect_timeout)

    async def aclose(self) -> None:
        """Close nothing."""

    def close_from_outside(self) -> None:
        """Close nothing."""


class AsyncRunner:
    """Runs work on an engine for each event loop; its parameters are those of :class:`GivenAsyncRunner`."""

    def __init__(self, engines: EnginesPerLoop, connect_timeout: float, operation_timeout: float) -> None:
        self._engines = engines
        self._connect_timeout = connect_timeout
        self._operation_timeout = operation_timeout

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Return what ``work`` returns; see :meth:`Runner.run`."""
        engine = await self._engines.get()
        return await in_own_task(partial(_run_async, engine, work, self._operation_timeout), self._connect_timeout)

    async def aclose(self) -> None:
        """Close the engines."""
        await self._engines.aclose()

    def close_from_outside(self) -> None:
        """Close the engines from a thread that runs no event loop."""
        self._engines.close_from_outside()


class ThreadRunner:
    """Runs work in threads.

    :param threads: how many, and so how many connections there may be.
    :param one_at_a_time: whether there is but one connection, as to an SQLite database in memory.
    :param operation_timeout: seconds that SQLite's lock is asked for again.
    """

    def __init__(
        self,
        engine: LazyEngine | GivenEngine,
        *,
        threads: int,
        one_at_a_time: bool,
        operation_timeout: float,
    ) -> None:
        self._engine = engine
        self._threads = Threads(threads)
        self._one_at_a_time = one_at_a_time
        self._operation_timeout = operation_timeout
        self.after_fork()
        reset_in_child(self)

    def after_fork(self) -> None:
        """Make a lock that no thread of a parent process holds."""
        self._lock: AbstractContextManager[object] = threading.Lock() if self._one_at_a_time else nullcontext()

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Return what ``work`` returns; see :meth:`Runner.run`."""
        if isinstance(self._engine, GivenEngine):
            work = partial(_in_autocommit, work)
        waits = _lock_pauses(self._operation_timeout)
        while True:
            given_up = threading.Event()
            try:
                return await self._threads.run(partial(self._run_in_thread, work, given_up))
            except asyncio.CancelledError:
                given_up.set()
                raise
            except exc.OperationalError as error:
                if not says_locked(error) or (pause := next(waits, None)) is None:
                    raise
            await asyncio.sleep(pause)  # here and not in the thread: there are few

    async def aclose(self) -> None:
        """Close the engine, and let the threads end."""
        if self._engine.is_open:
            await asyncio.to_thread(self._dispose)
        self._threads.end()

    def close_from_outside(self) -> None:
        """Close the engine, and leave the threads to the next runner."""
        self._dispose()
        self._threads.recycle()

    def _dispose(self) -> None:
        with self._lock:  # an SQLite database in memory has but one connection, which may be in use
            self._engine.dispose()

    def _run_in_thread(self, work: Callable[[Connection], T], given_up: threading.Event) -> T:
        with self._lock:
            connection = _connected(self._engine.get())
            with connection:
                if (
                    given_up.is_set()
                ):  # while it connected: the caller has gone on, and may have written something newer
                    raise TimeoutError("given up")
                return work(connection)


async def _run_async(
    engine: AsyncEngine, work: Callable[[Connection], T], operation_timeout: float, caller: Caller
) -> T:
    # Stopped while it connects, ends a transaction or closes, SQLAlchemy leaves an open connection to the garbage
    # collector, and with aiosqlite a task that never ends.
    try:
        connection = await engine.connect()
    except Exception as error:
        if engine.driver == "aiosqlite":
            # Its thread still reports its end to this loop, and complains loudly if that closes first.
            await asyncio.sleep(0.01)
        raise NotConnectedError(error) from error
    waits = _lock_pauses(operation_timeout)
    try:
        while True:
            try:
                with caller.may_interrupt():
                    return await connection.run_sync(work)
            except exc.OperationalError as error:
                if not says_locked(error) or (pause := next(waits, None)) is None:
                    raise
            await connection.rollback()  # for SQLAlchemy a transaction has begun, even in autocommit
            with caller.may_interrupt():
                await asyncio.sleep(pause)
    except asyncio.CancelledError as error:
        # SQLAlchemy's frames refer to themselves: until the garbage collector came, one of them would keep the
        # cursor, which on SQLite keeps its file open, and locked for a reader.
        clear_frames(error.__traceback__)
        raise
    finally:
        await connection.close()


def _connected(engine: Engine) -> Connection:
    try:
        return engine.connect()
    except Exception as error:
        raise NotConnectedError(error) from error


def _in_autocommit(work: Callable[[Connection], T], connection: Connection) -> T:
    # Here and not on the engine: there it is part of connecting, and a call that is cancelled in the middle of that
    # leaves the connection to the garbage collector.
    return work(connection.execution_options(isolation_level="AUTOCOMMIT"))


def _lock_pauses(seconds: float) -> Iterator[float]:
    """Yield how long to wait before asking SQLite for its lock again.

    SQLite would wait by itself, but in a thread, where nobody could stop it: the statement of a caller who has long
    given up would still be executed.
    """
    return pauses(0.001, 0.02, for_seconds=seconds)
