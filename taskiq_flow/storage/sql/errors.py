"""What an error of SQLAlchemy or of a database means: a table for each database.

PostgreSQL says an SQLSTATE, of which the first two characters are a class:
https://www.postgresql.org/docs/current/errcodes-appendix.html. MySQL and MariaDB say a number:
https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html,
https://mariadb.com/kb/en/mariadb-error-code-reference/. SQLite says a result code: https://sqlite.org/rescode.html.
"""

import ssl

from sqlalchemy import exc

from taskiq_flow.storage.failures import Diagnosis, Failure
from taskiq_flow.storage.sql import pgbouncer

__all__ = [
    "NotConnectedError",
    "TooLargeError",
    "diagnose",
    "is_lost",
    "is_repeatable",
    "reason",
    "says_locked",
    "says_no_table",
]

_LOST, _PASSING = Failure.LOST, Failure.PASSING
_REFUSED, _UNSTORABLE = Failure.REFUSED, Failure.UNSTORABLE

# What databases say when two writers of one row got in each other's way: the statement did nothing and may be repeated.
_REPEATABLE = {"40001", "40P01", 1205, 1213}

_POSTGRESQL = {
    "08": _LOST,  # connection exception
    "22": _UNSTORABLE,  # data exception
    "25006": _LOST,  # read_only_sql_transaction: it has become a standby
    "25P03": _LOST,  # idle_in_transaction_session_timeout
    "25P04": _LOST,  # transaction_timeout
    "40": _PASSING,  # transaction rollback: serialization failure, deadlock
    "53": _PASSING,  # insufficient resources: disk_full, out_of_memory, too_many_connections
    "54": _UNSTORABLE,  # program limit exceeded
    "55": _PASSING,  # object not in prerequisite state: lock_not_available
    "57014": _PASSING,  # query_canceled: statement_timeout
    "57P01": _LOST,  # admin_shutdown
    "57P02": _LOST,  # crash_shutdown
    "57P03": _PASSING,  # cannot_connect_now: starting up, shutting down, in recovery
    "57P05": _LOST,  # idle_session_timeout
    "58": _PASSING,  # system error
}
_MYSQL = {
    1021: _PASSING,  # ER_DISK_FULL
    1037: _PASSING,  # ER_OUTOFMEMORY
    1038: _PASSING,  # ER_OUT_OF_SORTMEMORY
    1040: _PASSING,  # ER_CON_COUNT_ERROR: too many connections
    1041: _PASSING,  # ER_OUT_OF_RESOURCES
    1053: _LOST,  # ER_SERVER_SHUTDOWN
    1114: _PASSING,  # ER_RECORD_FILE_FULL
    1129: _REFUSED,  # ER_HOST_IS_BLOCKED
    1153: _UNSTORABLE,  # ER_NET_PACKET_TOO_LARGE
    1203: _PASSING,  # ER_TOO_MANY_USER_CONNECTIONS
    1205: _PASSING,  # ER_LOCK_WAIT_TIMEOUT
    1206: _PASSING,  # ER_LOCK_TABLE_FULL
    1213: _PASSING,  # ER_LOCK_DEADLOCK
    1226: _PASSING,  # ER_USER_LIMIT_REACHED
    1264: _UNSTORABLE,  # ER_WARN_DATA_OUT_OF_RANGE
    1290: _LOST,  # ER_OPTION_PREVENTS_STATEMENT: it runs with --read-only
    1301: _UNSTORABLE,  # ER_WARN_ALLOWED_PACKET_OVERFLOWED
    1317: _PASSING,  # ER_QUERY_INTERRUPTED
    1366: _UNSTORABLE,  # ER_TRUNCATED_WRONG_VALUE_FOR_FIELD
    1406: _UNSTORABLE,  # ER_DATA_TOO_LONG
    1792: _LOST,  # ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
    1836: _LOST,  # ER_READ_ONLY_MODE
    1927: _LOST,  # ER_CONNECTION_KILLED
    1969: _PASSING,  # MariaDB's ER_STATEMENT_TIMEOUT
    2002: _LOST,  # CR_CONNECTION_ERROR
    2003: _LOST,  # CR_CONN_HOST_ERROR
    2006: _LOST,  # CR_SERVER_GONE_ERROR
    2013: _LOST,  # CR_SERVER_LOST
    2014: _LOST,  # CR_COMMANDS_OUT_OF_SYNC
    2055: _LOST,  # CR_SERVER_LOST_EXTENDED
    3024: _PASSING,  # ER_QUERY_TIMEOUT
    3572: _PASSING,  # ER_LOCK_NOWAIT
    4031: _LOST,  # ER_CLIENT_INTERACTION_TIMEOUT
}
_SQLITE = {
    5: _PASSING,  # SQLITE_BUSY
    6: _PASSING,  # SQLITE_LOCKED
    7: _PASSING,  # SQLITE_NOMEM
    9: _PASSING,  # SQLITE_INTERRUPT
    10: _PASSING,  # SQLITE_IOERR
    13: _PASSING,  # SQLITE_FULL
    15: _PASSING,  # SQLITE_PROTOCOL: a race for the lock
    18: _UNSTORABLE,  # SQLITE_TOOBIG
}
# Of what is lost, these did nothing: the server refused, or rolled back.
_DID_NOTHING = {"25006", "25P03", "25P04", "57P01", "57P02", "57P03", "57P05", 1290, 1792, 1836}

# libpq says why it could not connect in words alone; PgBouncer has one SQLSTATE, 08P01, for all its errors.
_CONNECTING = {
    "password authentication failed": _REFUSED,
    "no pg_hba.conf entry": _REFUSED,
    "does not exist": _REFUSED,
    "no such user": _REFUSED,
    "no such database": _REFUSED,
    "certificate verify failed": _REFUSED,
    "does not match host name": _REFUSED,
    "channel binding required": _REFUSED,
    "server does not support SSL": _REFUSED,
    "unable to open database file": _REFUSED,
    "too many": _PASSING,
    "remaining connection slots are reserved": _PASSING,
    "no more connections allowed": _PASSING,
    "query_wait_timeout": _PASSING,
    "starting up": _PASSING,
    "shutting down": _PASSING,
    "recovery mode": _PASSING,
    "not yet accepting connections": _PASSING,
    "timed out": Failure.TIMEOUT,
    "timeout expired": Failure.TIMEOUT,
}


class NotConnectedError(Exception):
    """A connection could not be opened; ``error`` is the driver's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class TooLargeError(Exception):
    """A value was too large for the server, which has ended the connection; ``error`` is the driver's."""

    def __init__(self, limit: int, error: Exception) -> None:
        super().__init__(f"the value is larger than max_allowed_packet, which is {limit:,} bytes")
        self.error = error


def diagnose(error: Exception) -> Diagnosis | None:
    """Return what an error of SQLAlchemy or of a driver means; None if it is neither's."""
    if isinstance(error, NotConnectedError):
        cause = error.error
        # Whatever the driver raises while it connects: some raise errors of their own, or of the system.
        if pgbouncer.speaks(cause):
            return Diagnosis(_LOST, reason(cause), did_nothing=True, while_connecting=True, cause=cause)
        return Diagnosis(_connecting(cause), reason(cause), while_connecting=True, cause=cause)
    if isinstance(error, TooLargeError):
        return Diagnosis(_UNSTORABLE, str(error), cause=error.error)
    why = reason(error)
    if isinstance(error, exc.DBAPIError):
        if "Could not decode to UTF-8" in why:
            return Diagnosis(_UNSTORABLE, why, is_foreign_entry=True)
        return Diagnosis(_failure(error), why, did_nothing=_did_nothing(error))
    if isinstance(error, exc.SQLAlchemyError):
        return Diagnosis(_REFUSED, str(error))
    if isinstance(error, UnicodeDecodeError):  # a row of somebody else's
        return Diagnosis(_UNSTORABLE, why, is_foreign_entry=True)
    # asyncpg's own, on a connection that the server is just ending: SQLAlchemy before 2.0.50 passes it on.
    lost = isinstance(error, OSError) or type(error).__module__.partition(".")[0] == "asyncpg"
    return Diagnosis(_LOST, why) if lost else None


def reason(error: BaseException) -> str:
    """Return the driver's own words, without SQLAlchemy's statement and link."""
    original = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    return f"{type(original).__name__}: {original}" if str(original) else type(original).__name__


def is_lost(error: exc.DBAPIError) -> bool:
    """Return whether the connection is no good any more."""
    return _failure(error) is _LOST


def is_repeatable(error: exc.DBAPIError) -> bool:
    """Return whether another writer was in the way: the statement did nothing and may be repeated at once."""
    return not _REPEATABLE.isdisjoint(_codes(error))


def says_locked(error: exc.DBAPIError) -> bool:
    """Return whether an SQLite database told that another connection was writing: the statement did nothing."""
    return "database is locked" in str(error.orig)


def says_no_table(error: exc.DBAPIError) -> bool:
    """Return whether the statement failed for want of the table, which another one may have made by now."""
    return "42P01" in _codes(error) or 1146 in _codes(error) or "no such table" in str(error.orig)


def _failure(error: exc.DBAPIError) -> Failure:
    if _is_stale_plan(error) or pgbouncer.speaks(error):
        return _LOST
    for text in ("query_wait_timeout", "no more connections allowed"):
        if text in str(error.orig):
            return _PASSING
    if (failure := _by_code(error)) is not None:
        return failure
    if error.connection_invalidated:
        return _LOST
    return _UNSTORABLE if isinstance(error, exc.DataError) else _REFUSED


def _connecting(error: Exception) -> Failure:
    if isinstance(error, TimeoutError) and not str(error):
        return Failure.TIMEOUT
    if isinstance(error, exc.TimeoutError):  # of the pool: all connections are in use
        return _PASSING
    if isinstance(error, ssl.SSLCertVerificationError):
        return _REFUSED
    words = str(error)
    for text, failure in _CONNECTING.items():
        if text in words:
            return failure
    if (by_code := _by_code(error)) is not None:
        return by_code
    has_answered = not isinstance(error, OSError) and any(_codes(error))
    return _REFUSED if has_answered else _LOST


def _by_code(error: Exception) -> Failure | None:
    for code in _codes(error):
        known = _MYSQL.get(code) if isinstance(code, int) else _POSTGRESQL.get(code, _POSTGRESQL.get(code[:2]))
        if known is not None:
            return known
    number = getattr(getattr(error, "orig", error), "sqlite_errorcode", None)
    return None if number is None else _SQLITE.get(number & 0xFF)  # without the extension in the higher bits


def _did_nothing(error: exc.DBAPIError) -> bool:
    return _is_stale_plan(error) or pgbouncer.speaks(error) or not _DID_NOTHING.isdisjoint(_codes(error))


def _is_stale_plan(error: exc.DBAPIError) -> bool:
    """Return whether PostgreSQL refused a prepared statement since its table has been changed (SQLSTATE 0A000)."""
    return "cached plan must not change result type" in str(error.orig) or (
        type(error.orig).__name__ == "InvalidCachedStatementError"
    )


def _codes(error: Exception) -> set[str | int]:
    """Return what a driver calls the error: its SQLSTATE (PostgreSQL's drivers), its number (MySQL's)."""
    original = error.orig if isinstance(error, exc.DBAPIError) else error
    state, number = getattr(original, "sqlstate", None), next(iter(getattr(original, "args", ())), None)
    return {code for code in (state, number) if code and (code is state or isinstance(number, int))}
