"""Work on a database that may not have the table yet."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, Table, exc, inspect, text

from taskiq_flow.storage.sql.engines import IN_TRANSACTIONS
from taskiq_flow.storage.sql.errors import is_lost, is_repeatable, says_locked, says_no_table
from taskiq_flow.storage.sql.pools import ClosingPool

__all__ = ["with_table"]

T = TypeVar("T")

_ATTEMPTS = 10


def with_table(table: Table, work: Callable[[Connection], T], connection: Connection) -> T:
    """Return what ``work`` returns, having created the table where it was missing.

    The table is nearly always there: nothing looks for it until a statement fails.
    """
    try:
        try:
            return _repeated(connection, work)
        except exc.DBAPIError as error:
            if is_lost(error) or not (says_no_table(error) or _lacks(connection, table)):
                raise
        _create(connection, table)
        return _repeated(connection, work)
    except exc.DBAPIError as error:
        if is_lost(error):
            _drop(connection)
        raise


def _drop(connection: Connection) -> None:
    """Let neither this connection be used again nor, in a pool of ours, those that were opened before."""
    pool = connection.engine.pool
    connection.invalidate()
    if isinstance(pool, ClosingPool):
        pool.forget_connections()


def _repeated(connection: Connection, work: Callable[[Connection], T]) -> T:
    """Return what ``work`` returns, tried again where the database says that another writer was in the way."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return _done(connection, work)
        except exc.DBAPIError as error:
            if not is_repeatable(error):
                raise
    return _done(connection, work)


def _done(connection: Connection, work: Callable[[Connection], T]) -> T:
    """Return what ``work`` returns: in autocommit, or in a transaction where the connection has none."""
    if not connection.get_execution_options().get(IN_TRANSACTIONS):
        return work(connection)
    with connection.begin():
        return work(connection)


def _lacks(connection: Connection, table: Table) -> bool:
    """Return whether the database has no such table; False where it cannot even say that."""
    try:
        return not _done(connection, partial(_has, table))
    except exc.DBAPIError:
        return False


def _create(connection: Connection, table: Table) -> None:
    """Create the table unless it is there; of any number of processes that do so at once, all succeed."""
    if connection.dialect.name == "sqlite":
        _use_write_ahead_log(connection)
    for attempt in range(_ATTEMPTS):
        try:
            _done(connection, lambda connection: table.create(connection, checkfirst=True))
        except exc.DBAPIError as error:  # somebody else was first, between the check and the creation
            if error.connection_invalidated or says_locked(error):
                raise
            if _done(connection, partial(_has, table)):
                return
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def _has(table: Table, connection: Connection) -> bool:
    return inspect(connection).has_table(table.name, schema=table.schema)


def _use_write_ahead_log(connection: Connection) -> None:
    # Readers and one writer then work side by side. The mode stays with the file. Of two processes that switch at once,
    # one is told "locked", asks again, and finds it switched.
    if connection.execute(text("PRAGMA journal_mode")).scalar() not in {"wal", "memory"}:
        connection.execute(text("PRAGMA journal_mode=WAL"))
