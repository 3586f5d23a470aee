"""The table of entries, for this package and for migration tools.

Alembic's autogenerate leaves the table alone, or creates it, where ``metadata`` is among its ``target_metadata``::

    from taskiq_flow.storage import metadata

    target_metadata = [application.metadata, metadata]

Another name or schema: ``define_table(application.metadata, "tenant_a.results")``.
"""

from typing import Any

from sqlalchemy import URL, BigInteger, Column, Dialect, LargeBinary, MetaData, Table, Text
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import TypeDecorator, TypeEngine

from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.storage import rules

__all__ = ["checked_table", "create_table_sql", "define_table", "metadata"]

_NAME_LIMITS = {"postgresql": (63, "bytes"), "mysql": (64, "characters"), "mariadb": (64, "characters")}


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


def define_table(metadata: MetaData, table: str = rules.DEFAULT_TABLE, dialect: str = "") -> Table:
    """Add the table of entries to SQLAlchemy's description of a database.

    :param metadata: what the table is added to.
    :param table: its name, or schema and name: ``tenant_a.results``.
    :param dialect: ``sqlite`` for a database without schemas, where a full stop is part of the name.
    """
    schema, name = _split(table, dialect)
    long_text = Text().with_variant(mysql.LONGTEXT(charset="utf8mb4"), "mysql", "mariadb")
    return Table(
        name,
        metadata,
        Column("namespace", _Exact(rules.MAX_NAMESPACE_BYTES), primary_key=True),
        Column("key", _Exact(rules.MAX_KEY_BYTES), primary_key=True),
        Column("value", long_text, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger, nullable=True),
        Column("metadata", long_text, nullable=False),
        schema=schema,
    )


def create_table_sql(db_url: str | URL, table: str = rules.DEFAULT_TABLE) -> str:
    """Return the statement that creates the table of entries in the database of a URL; connects to nothing.

    :param db_url: any SQLAlchemy URL, as for :class:`~taskiq_flow.storage.SQLAlchemyStorageAdapter`.
    :param table: the table's name, or schema and name.
    :raises ConfigurationError: if the URL or the name cannot be used.
    """
    from taskiq_flow.storage.sql.urls import dialect_of

    dialect = dialect_of(db_url)
    checked_table(table, dialect.name)
    statement = CreateTable(define_table(MetaData(), table, dialect.name))
    return str(statement.compile(dialect=dialect)).strip() + ";"


def checked_table(table: str, dialect: str) -> str:
    """Return the name of a table that the database can hold, with or without a schema before it.

    :param dialect: the name that SQLAlchemy has for the database.
    :raises ConfigurationError: if it is not a str, empty, too long, or has characters that the database refuses.
    """
    if not isinstance(table, str):
        raise ConfigurationError(f"table must be a str, not {type(table).__name__}: {table!r}")
    limit, unit = _NAME_LIMITS.get(dialect, (1000, "characters"))
    for part in _split(table, dialect):
        complaint = ""
        if part is None:
            continue
        if not part.strip():
            complaint = "has an empty part: write it as 'table' or 'schema.table'"
        elif "\0" in part or not part.isprintable():
            complaint = "has a character that cannot be in a name"
        elif (size := len(part.encode(errors="replace") if unit == "bytes" else part)) > limit:
            complaint = f"is too long: {part!r} has {size} {unit}, and {dialect} takes {limit}"
        elif dialect == "sqlite" and part.lower().startswith("sqlite_"):
            complaint = "begins with 'sqlite_', which SQLite keeps for itself"
        elif dialect in {"mysql", "mariadb"} and part != part.rstrip():
            complaint = "ends with a blank, which MySQL refuses"
        if complaint:
            raise ConfigurationError(f"the table name {table!r} {complaint}")
    return table


def _split(table: str, dialect: str) -> "tuple[str | None, str]":
    """Return schema and name; SQLite has no schemas."""
    schema, dot, name = table.rpartition(".")
    return (schema, name) if dot and dialect != "sqlite" else (None, table)


metadata = MetaData()
"""SQLAlchemy's description of the table with its default name."""
define_table(metadata)
