"""Pools of connections which close whatever comes back to them after their end."""

import time
from typing import Any

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, Pool, QueuePool
from sqlalchemy.pool.base import _ConnectionRecord

__all__ = ["ClosingAsyncQueuePool", "ClosingPool", "ClosingQueuePool", "terminate_connections"]


class ClosingPool(Pool):
    """A pool that, once it is disposed of, closes each connection as it is given back.

    SQLAlchemy would leave those that are in use at that moment, open, to the garbage collector. Its events could do the
    same, but listeners on short-lived pools in several threads make its registry fail (KeyError in
    ``_collection_gced``), as pools at the same address follow one another.
    """

    _is_over = False
    _terminates = False

    def dispose(self) -> None:
        """Close the idle connections; those in use are closed when they are given back."""
        self._is_over = True
        super().dispose()

    def forget_connections(self) -> None:
        """Let no connection be used again that is open now; calls that are under way go on with theirs."""
        self._invalidate_time = time.time()  # SQLAlchemy's, which does the same where a connection has failed

    def _create_connection(self) -> ConnectionPoolEntry:
        # Where SQLAlchemy fails while it gets to know the server, as behind PgBouncer, it forgets the connection.
        record = _ConnectionRecord(self, connect=False)
        try:
            record.get_connection()
        except Exception:
            record.close()
            raise
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if self._is_over:
            record.close()
        super()._do_return_conn(record)  # a call that waits for it opens it again

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        if self._terminates and hasattr(connection.driver_connection, "terminate"):
            connection.driver_connection.terminate()
        super()._close_connection(connection, terminate=terminate)


class ClosingQueuePool(ClosingPool, QueuePool):
    """For synchronous drivers."""


class ClosingAsyncQueuePool(ClosingPool, AsyncAdaptedQueuePool):
    """For asynchronous drivers."""


def terminate_connections(pool: Pool) -> None:
    """Let a pool close connections of asyncpg's at once: they would say goodbye, and wait until the server's process
    has ended.
    """
    if isinstance(pool, ClosingPool):
        pool._terminates = True
