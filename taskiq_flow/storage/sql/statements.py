"""The table of entries, and every statement on it, each built once.

To build a statement takes SQLAlchemy several times as long as to execute one that it has compiled before.
"""

from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    LargeBinary,
    MetaData,
    Select,
    Table,
    Text,
    Update,
    bindparam,
    delete,
    exc,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.types import TypeDecorator, TypeEngine

from taskiq_flow.storage import rules

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
        self.table = table = _table(name)
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
        self.purge = delete(table).where(self._of, expired)

        self.insert = insert(table)
        self.update = update(table).where(*here)
        self.upsert, self.insert_if_absent = _conditional_inserts(table, dialect, expired)

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
        """
        key = self.table.c.key
        statement = select(key).where(self._of, self._live)
        if is_bounded_below:
            statement = statement.where(key >= bindparam("low"))
        return statement.where(key < bindparam("high")) if is_bounded_above else statement

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


class _Exact(TypeDecorator[str]):
    """Text that is equal, and sorts, byte for byte, whatever the database's collation.

    SQLite's TEXT compares bytes; PostgreSQL's does under the collation "C"; elsewhere the UTF-8 bytes are kept, since
    MySQL's collations ignore trailing blanks, and some of them case and accents.
    """

    impl = Text
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(Text())
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.TEXT(collation="C"))
        if dialect.name in {"mysql", "mariadb"}:
            return dialect.type_descriptor(mysql.VARBINARY(self.length))
        return dialect.type_descriptor(LargeBinary(self.length))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name in {"sqlite", "postgresql"} else value.encode()

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return bytes(value).decode() if isinstance(value, (bytes, bytearray, memoryview)) else value


def _table(name: str) -> Table:
    long_text = Text().with_variant(mysql.LONGTEXT(charset="utf8mb4"), "mysql", "mariadb")
    return Table(
        name,
        MetaData(),
        Column("namespace", _Exact(rules.MAX_NAMESPACE_BYTES), primary_key=True),
        Column("key", _Exact(rules.MAX_KEY_BYTES), primary_key=True),
        Column("value", long_text, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger, nullable=True),
        Column("metadata", long_text, nullable=False),
    )


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
