"""The table of entries, as each database gets it."""

import re
from typing import Any

import pytest
from sqlalchemy import Dialect, make_url
from sqlalchemy.dialects import mssql, mysql, oracle, postgresql, sqlite
from sqlalchemy.schema import CreateTable

from taskiq_flow.storage.sql.statements import statements


@pytest.mark.parametrize(
    ("dialect", "name", "value"),
    [
        (sqlite, "TEXT", "TEXT"),
        (postgresql, 'VARCHAR COLLATE "C"', "TEXT"),
        (mysql, "VARBINARY({})", "LONGTEXT CHARACTER SET utf8mb4"),
        (oracle, "BLOB", "CLOB"),
        (mssql, "VARBINARY({})", "TEXT"),
    ],
)
def test_names_are_equal_byte_for_byte_and_values_may_be_long(dialect: Any, name: str, value: str) -> None:
    check_table(dialect.dialect(), name, value)


def test_mariadb_has_the_table_of_mysql() -> None:
    check_table(make_url("mariadb+pymysql://h").get_dialect()(), "VARBINARY({})", "LONGTEXT CHARACTER SET utf8mb4")


def check_table(dialect: Dialect, name: str, value: str) -> None:
    sql = str(CreateTable(statements("kept", dialect.name).table).compile(dialect=dialect))
    number = "NUMBER(19)" if dialect.name == "oracle" else "BIGINT"
    null = " NULL" if dialect.name == "mssql" else ""
    columns = [
        f"namespace {name.format(255)} NOT NULL",
        f"key {name.format(1024)} NOT NULL",
        f"value {value} NOT NULL",
        f"created_at {number} NOT NULL",
        f"expires_at {number}{null}",
        f"metadata {value} NOT NULL",
        "PRIMARY KEY (namespace, key)",
    ]
    unquoted = re.sub(r'["`\[\]]key["`\]]|\[(\w+)\]', lambda found: found[1] or "key", sql)
    unquoted = unquoted.replace("TEXT COLLATE", "VARCHAR COLLATE")  # SQLAlchemy 2.0; to PostgreSQL the same
    assert " ".join(unquoted.split()) == f"CREATE TABLE kept ( {', '.join(columns)} )"
