"""``Janitor``: removes what tests left on a server, and nothing else.

Each test's entries lie in namespaces that begin with its own name, and on SQL in a table of the run: never is anything
flushed, truncated or dropped that the kit did not make (DESIGN, decision 4). The janitor works on an event loop of its
own, in a thread of its own, so that fixtures may be torn down whatever the test's loop does, and its connections stay
open from test to test.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from taskiq_flow.pytest_plugin.run import is_abandoned
from taskiq_flow.pytest_plugin.servers.sql import own_engine

__all__ = ["Broom", "Janitor", "RedisBroom", "SQLBroom"]

T = TypeVar("T")

_TIMEOUT = 30.0
"""Seconds that one errand may take: a sweep, or what a test asks of ``storage_faults``."""
_SCAN_LIMIT = 20_000
"""Keys on a server above which searching it while tests run costs more than it is worth: once at the end will do."""


class Broom(Protocol):
    """Clears one server."""

    def sweep(self, prefix: str) -> Coroutine[Any, Any, None]:
        """Remove all entries in namespaces that begin with ``prefix``."""

    def finish(self, run_id: str) -> Coroutine[Any, Any, None]:
        """Remove all that the run left, its table included."""

    def sweep_abandoned(self) -> Coroutine[Any, Any, None]:
        """Remove what killed runs of this machine left."""

    def close(self) -> Coroutine[Any, Any, None]:
        """Close the connections."""


class Janitor:
    """Runs brooms on a loop in a thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._brooms: dict[str, Broom] = {}

    def broom(self, name: str, make: Callable[[], Broom]) -> Broom:
        """Return the broom of that name, made on first use."""
        if name not in self._brooms:
            self._brooms[name] = make()
        return self._brooms[name]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what ``work`` returns on the janitor's loop; wait for it.

        :raises TimeoutError: it took too long, and was cancelled.
        """
        doing = self._submit(work)
        try:
            return doing.result(_TIMEOUT)
        finally:
            doing.cancel()

    def close(self) -> None:
        """Close all connections and end the thread."""
        if self._loop is None or self._thread is None:
            return
        for broom in self._brooms.values():
            with suppress(Exception):  # a server that died or hangs: there is nobody to take leave of
                self.run(broom.close())
        self._brooms.clear()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop, self._thread = None, None

    def _submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_run_loop, args=(self._loop,), name="taskiq-flow-janitor", daemon=True
            )
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)


class RedisBroom:
    """Clears a Redis server of keys that begin with a prefix."""

    def __init__(self, url: str) -> None:
        from redis.asyncio import Redis

        self._client: Any = Redis.from_url(url, socket_timeout=_TIMEOUT)

    async def sweep(self, prefix: str) -> None:
        """Remove all keys that begin with ``prefix``; on a crowded server this is left to :meth:`finish`."""
        if await self._client.dbsize() <= _SCAN_LIMIT:
            await self._remove(prefix, lambda _name: True)

    async def finish(self, run_id: str) -> None:
        """Remove all keys of the run."""
        await self._remove(run_id, lambda _name: True)

    async def sweep_abandoned(self) -> None:
        """Remove the keys of killed runs of this machine."""
        await self._remove("tfk_", is_abandoned)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _remove(self, prefix: str, is_ours: Callable[[str], bool]) -> None:
        names = [name async for name in self._client.scan_iter(match=f"{prefix}*", count=1000)]
        ours = [name for name in names if is_ours(name.decode(errors="replace"))]
        for start in range(0, len(ours), 1000):
            await self._client.unlink(*ours[start : start + 1000])


class SQLBroom:
    """Clears the run's table in a database."""

    def __init__(self, url: str, table: str) -> None:
        self._engine = own_engine(url)
        self._table = table
        self._table_is_there = False

    async def sweep(self, prefix: str) -> None:
        """Remove the rows whose namespace begins with ``prefix``."""
        from sqlalchemy import text

        # Small letters, digits and underscores only: `{` is the first character after them in ASCII.
        bounds: dict[str, Any] = {"low": prefix, "high": prefix + "{"}
        if self._engine.dialect.name == "mysql":  # the column holds bytes
            bounds = {name: bound.encode() for name, bound in bounds.items()}
        statement = text(f"DELETE FROM {self._table} WHERE namespace >= :low AND namespace < :high")
        async with self._engine.connect() as connection:
            self._table_is_there = self._table_is_there or await connection.run_sync(_has_table, self._table)
            if self._table_is_there:
                await connection.execute(statement, bounds)

    async def finish(self, run_id: str) -> None:
        """Drop the run's table."""
        await self._drop(lambda table: table == self._table and table.startswith(run_id))

    async def sweep_abandoned(self) -> None:
        """Drop the tables of killed runs of this machine."""
        await self._drop(is_abandoned)

    async def close(self) -> None:
        """Close the connections."""
        await self._engine.dispose()

    async def _drop(self, is_ours: Callable[[str], bool]) -> None:
        from sqlalchemy import inspect, text

        async with self._engine.connect() as connection:
            tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
            for table in filter(is_ours, tables):
                await connection.execute(text(f"DROP TABLE IF EXISTS {table}"))  # another run may drop it, too


def _has_table(connection: Any, table: str) -> bool:
    from sqlalchemy import inspect

    return bool(inspect(connection).has_table(table))


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
