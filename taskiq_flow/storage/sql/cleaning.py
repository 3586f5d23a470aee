"""Removing what has expired from a table, a piece at a time.

The table is walked along its primary key, so that a piece costs the same however large the table is, and needs no index
of its own. It is read without a lock, and what has expired is removed by key, in one short statement.
"""

from typing import Any

from sqlalchemy import Connection

from taskiq_flow.storage.expiry import Piece
from taskiq_flow.storage.sql.statements import Statements

__all__ = ["as_text", "remove_expired"]

_ROWS = 500
"""How many rows a piece looks at: a few milliseconds' work, and no more parameters than any database takes."""


def remove_expired(
    statements: Statements, namespace: str, now: int, after: str | None, connection: Connection
) -> Piece:
    """Remove what has expired among the rows whose keys follow ``after``.

    :param now: milliseconds since the epoch.
    """
    where = {"of": namespace, "after": after, "rows": _ROWS}
    rows = connection.execute(statements.page(after is not None), where).all()
    keys = [(key, expires_at) for raw, expires_at in rows if (key := as_text(raw)) is not None]
    expired = [key for key, expires_at in keys if isinstance(expires_at, int) and expires_at <= now]
    removed = 0
    if expired:
        parameters = {"of": namespace, "now": now, "keys": expired}
        removed = connection.execute(statements.remove_expired, parameters).rowcount
    is_last = len(rows) < _ROWS or not keys  # a page without one key of ours leads nowhere
    return Piece(removed, len(rows), None if is_last else keys[-1][0])


def as_text(key: Any) -> str | None:
    """Return a key of which the database has given the bytes; None if it is not text."""
    try:
        return None if key is None else bytes(key).decode()
    except UnicodeDecodeError:
        return None
