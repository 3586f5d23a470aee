"""PgBouncer in transaction mode: which servers are behind one, as far as this process knows.

It gives each transaction another connection to the server. asyncpg prepares every statement, and asks for it by name
in another step, which reaches another connection: PgBouncer before 1.21 then lets the server say that there is no such
statement, or that there is one already. There, each statement has a transaction of its own, and no name.
"""

from sqlalchemy import URL, exc

__all__ = ["is_known", "remember", "speaks"]

_CODES = {"26000", "42P05"}  # invalid_sql_statement_name, duplicate_prepared_statement
_known: set[tuple[str | None, int | None]] = set()


def speaks(error: BaseException) -> bool:
    """Return whether a server's error is one that only a pooler brings about; the statement did nothing."""
    original = error.orig if isinstance(error, exc.DBAPIError) else error
    words = str(original)
    return getattr(original, "sqlstate", None) in _CODES or (
        "prepared statement" in words and ("already exists" in words or "does not exist" in words)
    )


def remember(url: URL) -> None:
    """Note that a URL's server is behind PgBouncer."""
    _known.add((url.host, url.port))


def is_known(url: URL) -> bool:
    """Return whether a URL's server is known to be behind PgBouncer."""
    return (url.host, url.port) in _known
