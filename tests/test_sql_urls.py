"""Which URLs the SQL adapter takes, and what it says of those that it cannot use; no server is reached."""

import sys
import traceback
from typing import Any

import pytest
from sqlalchemy import make_url

from taskiq_flow.exceptions import ConfigurationError, MissingDependencyError, StorageConnectionError
from taskiq_flow.storage import SQLAlchemyStorageAdapter


def test_default_is_a_file_in_the_working_directory() -> None:
    assert "sqlite+aiosqlite:///taskiq-flow.db" in repr(SQLAlchemyStorageAdapter())


@pytest.mark.parametrize("name", ["connect_timeout", "operation_timeout"])
def test_time_outs_must_be_above_zero(name: str) -> None:
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigurationError, match=f"^{name} must be a number of seconds above 0, not 0$"):
        SQLAlchemyStorageAdapter("sqlite://", **settings)


@pytest.mark.parametrize(
    ("url", "async_mode", "shown"),
    [
        ("sqlite:///a.db", True, "sqlite+aiosqlite:///a.db"),
        ("sqlite:///a.db", False, "sqlite+pysqlite:///a.db"),
        ("postgres://u:p@h/d", True, "postgresql+asyncpg://u:***@h/d"),
        ("postgresql://u:p@h/d", True, "postgresql+asyncpg://u:***@h/d"),
        ("postgresql://u:p@h/d", False, "postgresql+psycopg://u:***@h/d"),
        ("postgresql+psycopg://u:p@h/d", True, "postgresql+psycopg://u:***@h/d"),
        ("postgresql+psycopg://u:p@h/d", False, "postgresql+psycopg://u:***@h/d"),
        ("mysql://u:p@h/d", True, "mysql+asyncmy://u:***@h/d"),
        ("mariadb://u:p@h/d", False, "mariadb+pymysql://u:***@h/d"),
    ],
)
def test_url_without_driver_gets_the_usual_one(url: str, async_mode: bool, shown: str) -> None:
    for given in (url, make_url(url)):
        adapter = SQLAlchemyStorageAdapter(given, async_mode)
        assert repr(adapter) == f"SQLAlchemyStorageAdapter({shown}, namespace='taskiq_flow')"


@pytest.mark.parametrize(
    ("url", "async_mode", "told"),
    [
        ("postgresql+asyncpg://u:s3cret@h/d", False, "use postgresql+psycopg://, or async_mode=True"),
        ("sqlite+pysqlite:///a.db", True, "use sqlite+aiosqlite://, or async_mode=False"),
        ("mysql+pymysql://u:s3cret@h/d", True, "use mysql+asyncmy://, or async_mode=False"),
        ("postgresql+unknown://u:s3cret@h/d", True, "SQLAlchemy has no dialect for 'postgresql+unknown'"),
        ("unknown://u:s3cret@h/d", True, "SQLAlchemy has no dialect for 'unknown'"),
        ("u:s3cret@h/d", True, "write it like 'sqlite+aiosqlite:///file.db'"),
        ("", True, "write it like 'sqlite+aiosqlite:///file.db'"),
    ],
)
def test_url_that_cannot_be_used_is_refused(url: str, async_mode: bool, told: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        SQLAlchemyStorageAdapter(url, async_mode)
    assert told in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_error_of_a_url_that_cannot_be_parsed_has_no_cause_that_shows_the_password() -> None:
    with pytest.raises(ConfigurationError) as raised:
        SQLAlchemyStorageAdapter("postgresql://u:s3cret@h:port/d")
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("is_async", [True, False])
def test_database_that_is_not_well_known_keeps_its_name(is_async: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    dialect = make_url("oracle+oracledb://h/d").get_dialect()
    monkeypatch.setattr(dialect, "import_dbapi", lambda: None)
    monkeypatch.setattr(dialect, "is_async", is_async)
    if is_async:
        with pytest.raises(ConfigurationError, match=r"use a driver of that kind, or async_mode=True$"):
            SQLAlchemyStorageAdapter("oracle+oracledb://h/d", async_mode=False)
    else:
        assert SQLAlchemyStorageAdapter("oracle+oracledb://h/d", async_mode=False).backend == "oracle"


@pytest.mark.parametrize(
    ("url", "async_mode", "missing", "told"),
    [
        ("postgresql://h/d", True, "asyncpg", 'pip install "taskiq-flow-kit[postgres]"'),
        ("mysql://h/d", True, "asyncmy", 'pip install "taskiq-flow-kit[mysql]"'),
        ("postgresql+psycopg_async://h/d", True, "psycopg", "pip install psycopg"),
        ("postgresql+psycopg2://h/d", False, "psycopg2", "pip install psycopg2"),
    ],
)
def test_missing_driver_is_named_with_what_brings_it(
    url: str, async_mode: bool, missing: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependencyError) as raised:
        SQLAlchemyStorageAdapter(url, async_mode)
    assert f"{missing!r}, which is not installed" in str(raised.value)
    assert str(raised.value).endswith(told)
    assert isinstance(raised.value.__cause__, ImportError)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://app:Alpha@Bravo@127.0.0.1/shop",
        "postgresql://app@127.0.0.1:5432/shop?password=Alpha@Bravo",
        "postgresql://127.0.0.1:5432/shop?password=Alpha@Bravo",
        "postgresql://127.0.0.1/shop?password=Alpha@Bravo",
    ],
)
def test_unquoted_at_sign_in_a_password_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="must be quoted") as raised:
        SQLAlchemyStorageAdapter(url)
    assert "Alpha" not in str(raised.value)
    assert "Bravo" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user%40server:p%40ss@h/d",
        "postgresql://u:p@h:1/d?application_name=a@b",
        "postgresql:///d?host=/run/postgresql",
        "sqlite:////folder/a?x@b",
    ],
)
def test_at_sign_where_it_may_be_is_taken(url: str) -> None:
    SQLAlchemyStorageAdapter(url)


async def test_error_shows_no_part_of_an_unquoted_password() -> None:
    async with SQLAlchemyStorageAdapter("mysql://app:Alpha/Bravo?x@127.0.0.1:1/shop") as adapter:
        with pytest.raises(StorageConnectionError) as raised:
            await adapter.get("key")
    shown = "".join(traceback.format_exception(raised.value))
    assert "Alpha" not in shown
    assert "Bravo" not in shown


def test_blanks_around_a_url_are_stripped() -> None:
    assert repr(SQLAlchemyStorageAdapter(" sqlite:///a.db\n")) == repr(SQLAlchemyStorageAdapter("sqlite:///a.db"))
