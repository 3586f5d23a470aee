"""Every statement on the table of entries, each built once.

To build a statement takes SQLAlchemy several times as long as to execute one that it has compiled before.
"""

from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Connection,
    LargeBinary,
    MetaData,
    Select,
    Table,
    Update,
    bindparam,
    case,
    cast,
    delete,
    exc,
    func,
    insert,
    or_,
    select,
    text,
    type_coerce,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite

from taskiq_flow.storage.sql.schema import define_table

__all__ = ["LARGEST_PACKET", "Statements", "packet_size", "statements"]

_KEY = ("namespace", "key")
_CONTENT = ("value", "created_at", "expires_at", "metadata")
_ATTEMPTS = 10
_QUOTED = "\0\n\r\x1a\"'\\"  # what MySQL's drivers put a backslash before

LARGEST_PACKET = text("SELECT @@max_allowed_packet")
"""Asks MySQL how many bytes a statement may have."""


class Statements:
    """The statements on one table in one dialect of SQL.

    Their parameters: ``of`` is a namespace, ``at`` a key, ``now`` the time in milliseconds; ``seen_value`` and the like
    are what an entry must hold. Columns that are written have their own names.

    :param name: the table's.
    :param dialect: the name that SQLAlchemy has for it.
    """

    def __init__(self, name: str, dialect: str) -> None:
        self.table = table = define_table(MetaData(), name, dialect)
        kept = table.c
        self._of = kept.namespace == bindparam("of")
        self._live = or_(kept.expires_at.is_(None), kept.expires_at > bindparam("now"))
        expired = kept.expires_at <= bindparam("now")
        here = (self._of, kept.key == bindparam("at"))
        live_here = (*here, self._live)

        self.read = select(*(kept[column] for column in _CONTENT)).where(*live_here)
        self.is_live = select(kept.created_at).where(*live_here)
        self.remove = delete(table).where(*live_here)
        self.discard = delete(table).where(*here)
        self.discard_expired = delete(table).where(*here, expired)
        self.count = select(func.count()).select_from(table).where(self._of)
        self.remove_expired = delete(table).where(self._of, kept.key.in_(bindparam("keys", expanding=True)), expired)

        self.insert = insert(table)
        self.update = update(table).where(*here)
        self.upsert, self.insert_if_absent = _conditional_inserts(table, dialect, expired)

        self._key_as_bytes = _as_bytes(kept.key, dialect)
        same = {column: _same(table, column, dialect) for column in _CONTENT}
        expiring = (*live_here, *same.values())
        lasting = (*live_here, *(same | {"expires_at": kept.expires_at.is_(None)}).values())
        self._remove_seen = {True: delete(table).where(*expiring), False: delete(table).where(*lasting)}
        self._replace_seen = {True: update(table).where(*expiring), False: update(table).where(*lasting)}

    def remove_seen(self, expires: bool) -> Any:
        """Return the statement that removes an entry that still is as it was seen, with or without expiry."""
        return self._remove_seen[expires]

    def replace_seen(self, expires: bool) -> Update:
        """Return the statement that writes over an entry that still is as it was seen, with or without expiry."""
        return self._replace_seen[expires]

    def live_keys(self, is_bounded_below: bool, is_bounded_above: bool) -> Select[Any]:
        """Return the statement that lists keys from ``low`` on, and below ``high``: a range of the primary key, so that
        the cost is that of the matches.

        A key comes as the bytes of its UTF-8 form, or as None where it is not of the right type: a foreign row must not
        make the whole list unreadable.
        """
        key = self.table.c.key
        statement = select(self._key_as_bytes).where(self._of, self._live)
        if is_bounded_below:
            statement = statement.where(key >= bindparam("low"))
        return statement.where(key < bindparam("high")) if is_bounded_above else statement

    def page(self, is_bounded_below: bool) -> Select[Any]:
        """Return the statement that lists ``rows`` keys, those after ``after``, and when they expire; keys come as in
        :meth:`live_keys`.
        """
        key, expires_at = self.table.c.key, self.table.c.expires_at
        statement = select(self._key_as_bytes, expires_at).where(self._of).order_by(key).limit(bindparam("rows"))
        return statement.where(key > bindparam("after")) if is_bounded_below else statement

    def store(self, connection: Connection, row: dict[str, Any]) -> None:
        """Store a row, whatever was there, in one statement where the database has one for it."""
        if self.upsert is not None:
            connection.execute(self.upsert, row)
            return
        here = {"of": row["namespace"], "at": row["key"]}
        for attempt in range(_ATTEMPTS):
            if connection.execute(self.update, here | row).rowcount:
                return
            try:
                connection.execute(self.insert, row)
            except exc.IntegrityError:  # another writer inserted it first: update that one
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def store_if_absent(self, connection: Connection, row: dict[str, Any], now: int) -> bool:
        """Store a row unless a live one is there; return whether it was stored."""
        if self.insert_if_absent is not None:
            return connection.execute(self.insert_if_absent, {**row, "now": now}).rowcount > 0
        connection.execute(self.discard_expired, {"of": row["namespace"], "at": row["key"], "now": now})
        try:
            connection.execute(self.insert, row)
        except exc.IntegrityError:  # somebody else's is there
            return False
        return True


@lru_cache(maxsize=64)
def statements(table: str, dialect: str) -> Statements:
    """Return the statements on the table of that name; by the same object, SQLAlchemy finds what it has compiled."""
    return Statements(table, dialect)


def packet_size(row: dict[str, Any]) -> int:
    """Return how many bytes a statement of MySQL's with this row has at least: texts are quoted in it."""
    texts = [content for content in row.values() if isinstance(content, str)]
    return sum(len(content.encode()) + sum(map(content.count, _QUOTED)) for content in texts)


def _conditional_inserts(table: Table, dialect: str, expired: ColumnElement[bool]) -> tuple[Any, Any]:
    """Return the statements that insert an entry whatever is there, and where no live one is: None for each that the
    database has no single statement for.
    """
    if dialect in {"mysql", "mariadb"}:
        here = mysql.insert(table)
        return here.on_duplicate_key_update(_content(here.inserted)), None
    if dialect not in {"sqlite", "postgresql"}:
        return None, None
    new = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    content = _content(new.excluded)
    upsert = new.on_conflict_do_update(index_elements=_KEY, set_=content)
    absent = new.on_conflict_do_update(index_elements=_KEY, set_=content, where=expired)
    # Without being asked to, SQLAlchemy does not keep what psycopg says of an INSERT.
    return upsert, absent.execution_options(preserve_rowcount=True)


def _content(row: Any) -> dict[str, Any]:
    return {column: row[column] for column in _CONTENT}


def _same(table: Table, name: str, dialect: str) -> ColumnElement[bool]:
    """Return the condition that a column holds exactly what was seen, whatever the database's collation."""
    column: Column[Any] = table.c[name]
    seen: BindParameter[Any] = bindparam(f"seen_{name}")
    if name in {"value", "metadata"} and dialect in {"mysql", "mariadb"}:
        return column.collate("utf8mb4_bin") == seen
    return column == seen


def _as_bytes(key: Column[str], dialect: str) -> ColumnElement[bytes]:
    """Return what a key's bytes are in a database's SQL."""
    if dialect == "sqlite":  # a foreign row may have a key of any type
        return case((func.typeof(key) == "text", cast(key, LargeBinary)))
    if dialect == "postgresql":  # a database in SQL_ASCII takes any bytes for text
        return func.convert_to(key, "UTF8", type_=LargeBinary)
    return type_coerce(key, LargeBinary)
