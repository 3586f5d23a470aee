"""Pools of connections which close whatever comes back to them after their end."""

from typing import Any

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, Pool, QueuePool

__all__ = ["ClosingAsyncQueuePool", "ClosingQueuePool", "terminate_connections"]


class _ClosingPool(Pool):
    """A pool that, once it is disposed of, closes each connection as it is given back.

    SQLAlchemy would leave those that are in use at that moment, open, to the garbage collector. Its events could do the
    same, but listeners on short-lived pools in several threads make its registry fail (KeyError in
    ``_collection_gced``), as pools at the same address follow one another.
    """

    _is_over = False
    _terminates = False

    def dispose(self) -> None:
        self._is_over = True
        super().dispose()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if self._is_over:
            record.close()
        else:
            super()._do_return_conn(record)

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        if self._terminates and hasattr(connection.driver_connection, "terminate"):
            connection.driver_connection.terminate()
        super()._close_connection(connection, terminate=terminate)


class ClosingQueuePool(_ClosingPool, QueuePool):
    """For synchronous drivers."""


class ClosingAsyncQueuePool(_ClosingPool, AsyncAdaptedQueuePool):
    """For asynchronous drivers."""


def terminate_connections(pool: Pool) -> None:
    """Let a pool close connections of asyncpg's at once: they would say goodbye, and wait until the server's process
    has ended.
    """
    if isinstance(pool, _ClosingPool):
        pool._terminates = True
