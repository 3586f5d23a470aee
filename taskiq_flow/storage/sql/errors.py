"""What an error of SQLAlchemy or of a driver means."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import exc

from taskiq_flow.exceptions import SerializationError, StorageError

__all__ = ["NotConnectedError", "is_repeatable", "reason", "says_locked", "says_no_table", "translated"]

# What databases say when two writers of one row got in each other's way: the statement did nothing and may be repeated.
_REPEATABLE = {"40001", "40P01", 1205, 1213}


class NotConnectedError(Exception):
    """A connection could not be opened; ``error`` is the driver's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def translated(
    error: Exception,
    doing: str,
    unreachable: Callable[[str, object], StorageError],
    refused: Callable[[str, object], StorageError],
) -> StorageError | None:
    """Return this package's error for SQLAlchemy's or a driver's, not yet raised; None if it is something else.

    :param doing: the call, as messages show it.
    :param unreachable: makes the error of a server that cannot be reached, from ``doing`` and a reason.
    :param refused: makes the error of a server that refused the call.
    """
    if isinstance(error, exc.DBAPIError):
        why = reason(error)
        if "Could not decode to UTF-8" in why:
            return SerializationError(f"the entry under {doing} is not one of ours: {why:.200}")
        return unreachable(doing, why) if error.connection_invalidated else refused(doing, why)
    if isinstance(error, exc.SQLAlchemyError):
        return refused(doing, error)
    # asyncpg's own, on a connection that the server is just ending: SQLAlchemy before 2.0.50 passes it on.
    lost = isinstance(error, OSError) or type(error).__module__.partition(".")[0] == "asyncpg"
    return unreachable(doing, reason(error)) if lost else None


def reason(error: BaseException) -> str:
    """Return the driver's own words, without SQLAlchemy's statement and link."""
    original = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    return f"{type(original).__name__}: {original}" if str(original) else type(original).__name__


def is_repeatable(error: exc.DBAPIError) -> bool:
    """Return whether another writer was in the way: the statement did nothing and may be repeated at once."""
    return not _REPEATABLE.isdisjoint(_codes(error))


def says_locked(error: exc.DBAPIError) -> bool:
    """Return whether an SQLite database told that another connection was writing: the statement did nothing."""
    return "database is locked" in str(error.orig)


def says_no_table(error: exc.DBAPIError) -> bool:
    """Return whether the statement failed for want of the table, which another one may have made by now."""
    return "42P01" in _codes(error) or 1146 in _codes(error) or "no such table" in str(error.orig)


def _codes(error: exc.DBAPIError) -> set[Any]:
    """Return what a driver calls the error: its SQLSTATE (PostgreSQL's drivers), its number (MySQL's)."""
    original = error.orig
    return {getattr(original, "sqlstate", None), next(iter(getattr(original, "args", ())), None)}
