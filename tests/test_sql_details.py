"""What the SQL adapter says to a driver or a database, and how it reads their answers, without a server."""

import asyncio
import re
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from sqlalchemy import URL, Connection, Delete, Dialect, Insert, Update, create_engine, exc, make_url, text
from sqlalchemy.dialects import mssql, mysql, oracle, postgresql, sqlite
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.schema import CreateTable

from taskiq_flow import clock, serialization
from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import (
    ConfigurationError,
    MissingDependencyError,
    SerializationError,
    StorageBackendError,
    StorageConnectionError,
)
from taskiq_flow.pytest_plugin import StorageBackend
from taskiq_flow.storage import SQLAlchemyStorageAdapter
from taskiq_flow.storage.backend import Record
from taskiq_flow.storage.base import ABSENT
from taskiq_flow.storage.sql import adapter as sqlalchemy
from taskiq_flow.storage.sql.pools import ClosingAsyncQueuePool, ClosingQueuePool
from taskiq_flow.storage.sql.statements import statements

# --- the table --------------------------------------------------------------------------------------------------------


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
def test_the_table(dialect: Any, name: str, value: str) -> None:
    """Names are kept so that they are equal byte for byte; values in what holds the longest text."""
    check_table(dialect.dialect(), name, value)


def test_the_table_on_mariadb() -> None:
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


# --- statements -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "upsert", "insert_if_absent"),
    [
        ("sqlite", "DO UPDATE SET", "WHERE kept.expires_at <= "),
        ("postgresql", "DO UPDATE SET", "WHERE kept.expires_at <= "),
        ("mysql", "ON DUPLICATE KEY UPDATE", None),
        ("mariadb", "ON DUPLICATE KEY UPDATE", None),
        ("oracle", None, None),
    ],
)
def test_what_databases_do_in_one_statement(dialect: str, upsert: str | None, insert_if_absent: str | None) -> None:
    known = statements("kept", dialect)
    for statement, part in ((known.upsert, upsert), (known.insert_if_absent, insert_if_absent)):
        if part is None:
            assert statement is None
        else:
            spoken = {"sqlite": sqlite, "postgresql": postgresql}.get(dialect, mysql)
            assert part in str(statement.compile(dialect=spoken.dialect()))


@pytest.mark.parametrize(("dialect", "collated"), [("mysql", 2), ("mariadb", 2), ("sqlite", 0), ("postgresql", 0)])
def test_texts_are_compared_exactly_whatever_the_collation(dialect: str, collated: int) -> None:
    known = statements("kept", dialect)
    for statement in (known.remove_seen(True), known.replace_seen(False)):
        where = str(statement).partition("WHERE")[2]
        assert len(re.findall(r"\(kept\.(?:value|metadata) COLLATE utf8mb4_bin\) =", where)) == collated


# --- settings ---------------------------------------------------------------------------------------------------------


def test_what_it_is_called_without_more_ado() -> None:
    told = "SQLAlchemyStorageAdapter(sqlite+aiosqlite:///taskiq-flow.db, namespace='taskiq_flow')"
    assert repr(SQLAlchemyStorageAdapter()) == told


@pytest.mark.parametrize("name", ["connect_timeout", "operation_timeout"])
def test_nothing_waits_for_ever(name: str) -> None:
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigurationError, match=f"^{name} must be a number of seconds above 0, not 0$"):
        SQLAlchemyStorageAdapter("sqlite://", **settings)


@pytest.mark.parametrize(
    ("url", "async_mode", "ping", "timeouts"),
    [
        ("sqlite:///x", True, False, {"timeout": 0}),
        ("sqlite:///x", False, False, {"timeout": 0}),
        ("postgresql://h/d", True, True, {"timeout": 1.5, "command_timeout": 2.5}),
        ("postgresql://h/d", False, True, {"connect_timeout": 2}),
    ],
)
def test_how_engines_are_made(
    url: str, async_mode: bool, ping: bool, timeouts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    class Made(Exception):  # noqa: N818 - the test is over when it is raised
        pass

    def make(url: object, **options: Any) -> None:
        asked.append({"url": str(url), **options})
        raise Made

    sqlalchemy._learned.cache_clear()
    for name in ("create_engine", "create_async_engine"):
        monkeypatch.setattr(sqlalchemy, name, make)
    adapter = SQLAlchemyStorageAdapter(url, async_mode, connect_timeout=1.5, operation_timeout=2.5)
    with pytest.raises((Made, StorageConnectionError)):
        asyncio.run(adapter.get("key"))
    assert asked == [
        {
            "url": str(adapter._url).replace("aiosqlite", "pysqlite"),
            "isolation_level": "AUTOCOMMIT",
            "pool_reset_on_return": None,
            "pool_pre_ping": ping,
            "hide_parameters": True,
            "pool_timeout": 2.5,
            "poolclass": ClosingAsyncQueuePool if async_mode and ping else ClosingQueuePool,
            "connect_args": timeouts,
        }
    ]


# --- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("sqlite+aiosqlite:///x", {"timeout": 0}),
        ("sqlite+pysqlite:///x", {"timeout": 0}),
        ("postgresql+asyncpg://h/d", {"timeout": 1.5, "command_timeout": 2.5}),
        ("postgresql+asyncpg://h/d?command_timeout=9", {"timeout": 1.5}),
        ("postgresql+psycopg://h/d", {"connect_timeout": 2}),
        ("mysql+asyncmy://h/d", {"connect_timeout": 1.5, "autocommit": True}),
        (
            "mysql+pymysql://h/d",
            {"connect_timeout": 1.5, "read_timeout": 2.5, "write_timeout": 2.5, "autocommit": True},
        ),
        ("oracle+oracledb://h/d", {}),
    ],
)
def test_what_the_drivers_are_told(url: str, options: dict[str, Any]) -> None:
    assert sqlalchemy._driver_options(make_url(url), 1.5, 2.5) == options


@pytest.mark.parametrize(
    ("url", "in_memory"),
    [
        ("sqlite://", True),
        ("sqlite:///:memory:", True),
        ("sqlite:///file:x?mode=memory&uri=true", True),
        (URL.create("sqlite", database="file:x?mode=memory"), True),
        ("sqlite:///file:x?mode=ro&uri=true", False),
        ("sqlite:///memory", False),
        ("sqlite:///x", False),
    ],
)
def test_which_databases_are_in_memory(url: str | URL, in_memory: bool) -> None:
    assert sqlalchemy._is_in_memory(make_url(url)) is in_memory


NO_URL = (
    "db_url is no SQLAlchemy URL: write it like 'sqlite+aiosqlite:///file.db' or "
    "'postgresql+asyncpg://user:password@host/database'"
)


@pytest.mark.parametrize(
    ("url", "async_mode", "told"),
    [
        ("", True, NO_URL),
        ("postgresql://h:port/d", True, NO_URL),
        (
            "odd://h/d",
            True,
            "SQLAlchemy has no dialect for 'odd'; well known are: sqlite, postgresql, mysql, mariadb",
        ),
        (
            "mysql+pymysql://h/d",
            True,
            "the driver 'pymysql' of mysql+pymysql:// does not fit async_mode=True: use mysql+asyncmy://, "
            "or async_mode=False",
        ),
        (
            "postgresql+asyncpg://h/d",
            False,
            "the driver 'asyncpg' of postgresql+asyncpg:// does not fit async_mode=False: use postgresql+psycopg://, "
            "or async_mode=True",
        ),
    ],
)
def test_what_is_said_of_a_url(url: str, async_mode: bool, told: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        SQLAlchemyStorageAdapter(url, async_mode)
    assert str(raised.value) == told
    assert raised.value.__context__ is None or raised.value.__suppress_context__, "it may show the password"


def test_a_driver_of_an_unknown_database(monkeypatch: pytest.MonkeyPatch) -> None:
    dialect = make_url("oracle+oracledb://h/d").get_dialect()
    monkeypatch.setattr(dialect, "import_dbapi", lambda: None)
    monkeypatch.setattr(dialect, "is_async", True)
    with pytest.raises(ConfigurationError, match=r"use a driver of that kind, or async_mode=True$"):
        SQLAlchemyStorageAdapter("oracle+oracledb://h/d", async_mode=False)


def test_another_database_is_called_as_sqlalchemy_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    dialect = make_url("oracle+oracledb://h/d").get_dialect()
    monkeypatch.setattr(dialect, "import_dbapi", lambda: None)
    assert SQLAlchemyStorageAdapter("oracle+oracledb://h/d", async_mode=False).backend == "oracle"


@pytest.mark.parametrize(
    ("url", "missing", "told"),
    [
        (
            "postgresql://h/d",
            "asyncpg",
            "postgresql+asyncpg:// needs the package 'asyncpg', which is not installed: "
            'pip install "taskiq-flow-kit[postgres]"',
        ),
        (
            "mysql://h/d",
            "asyncmy",
            "mysql+asyncmy:// needs the package 'asyncmy', which is not installed: "
            'pip install "taskiq-flow-kit[mysql]"',
        ),
        (
            "postgresql+psycopg_async://h/d",
            "psycopg",
            "postgresql+psycopg_async:// needs 'psycopg', which is not installed: pip install psycopg",
        ),
    ],
)
def test_a_driver_that_is_not_installed(url: str, missing: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependencyError) as raised:
        SQLAlchemyStorageAdapter(url)
    assert str(raised.value) == told
    assert isinstance(raised.value.__cause__, ImportError)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", ["value = x'00'", "created_at = 'now'", "expires_at = 9e99", "metadata = x'00'"])
async def test_a_column_of_another_type_is_told(damaged: str, tmp_path: Path) -> None:
    async with SQLAlchemyStorageAdapter(f"sqlite:///{tmp_path / 'storage.db'}") as adapter:
        await adapter.set("key", 1)
        with closing(sqlite3.connect(tmp_path / "storage.db")) as connection, connection:
            connection.execute(f"UPDATE taskiq_flow_storage SET {damaged}")
        with pytest.raises(SerializationError) as raised:
            await adapter.get("key")
    assert str(raised.value) == "the entry under key 'key' cannot be read: a column holds another type than ours"


# --- errors -----------------------------------------------------------------------------------------------------------


class DriversError(Exception):
    def __init__(self, *args: object, sqlstate: str | None = None) -> None:
        super().__init__(*args)
        if sqlstate is not None:
            self.sqlstate = sqlstate


def failed(*args: object, sqlstate: str | None = None) -> exc.DBAPIError:
    return exc.DBAPIError("SELECT 1", None, DriversError(*args, sqlstate=sqlstate))


@pytest.mark.parametrize(
    ("error", "repeatable", "no_table"),
    [
        (failed("serialization", sqlstate="40001"), True, False),
        (failed("deadlock", sqlstate="40P01"), True, False),
        (failed(1205, "lock wait"), True, False),
        (failed(1213, "deadlock"), True, False),
        (failed("no table", sqlstate="42P01"), False, True),
        (failed(1146, "no table"), False, True),
        (failed("no such table: kept"), False, True),
        (failed("something else", 1213), False, False),
        (failed(), False, False),
        (exc.DBAPIError("SELECT 1", None, None), False, False),  # type: ignore[arg-type] # SQLAlchemy itself does so
    ],
)
def test_what_an_error_means(error: exc.DBAPIError, repeatable: bool, no_table: bool) -> None:
    assert sqlalchemy._is_repeatable(error) is repeatable
    assert sqlalchemy._says_no_table(error) is no_table


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (failed("words"), "DriversError: words"),
        (failed(), "DriversError"),
        (exc.DBAPIError("SELECT 1", None, None), "DBAPIError"),  # type: ignore[arg-type] # SQLAlchemy itself does so
        (OSError("words"), "OSError: words"),
        (OSError(), "OSError"),
    ],
)
def test_the_drivers_words(error: Exception, told: str) -> None:
    assert sqlalchemy._reason(error).split("\n")[0].startswith(told)


NOT_TEXT = "Could not decode to UTF-8 column 'value' with text 'x'"
PLACE = "SQLite at sqlite+pysqlite://"


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (failed("words"), StorageBackendError, f"{PLACE} refused get('key'): DriversError: words"),
        (
            exc.DBAPIError("SELECT 1", None, DriversError("words"), connection_invalidated=True),
            StorageConnectionError,
            f"{PLACE}: get('key') failed: DriversError: words",
        ),
        (exc.InvalidRequestError("words"), StorageBackendError, f"{PLACE} refused get('key'): words"),
        (OSError("words"), StorageConnectionError, f"{PLACE}: get('key') failed: OSError: words"),
        (ConnectionResetError(), StorageConnectionError, f"{PLACE}: get('key') failed: ConnectionResetError"),
        (
            failed(NOT_TEXT),
            SerializationError,
            f"the entry under get('key') is not one of ours: DriversError: {NOT_TEXT}",
        ),
        (
            failed(NOT_TEXT + "x" * 200),
            SerializationError,
            f"the entry under get('key') is not one of ours: {f'DriversError: {NOT_TEXT}' + 'x' * 200:.200}",
        ),
        (ZeroDivisionError("a bug"), ZeroDivisionError, "a bug"),
    ],
)
async def test_what_is_said_of_an_error(
    error: Exception, kind: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    async with SQLAlchemyStorageAdapter("sqlite://", async_mode=False) as adapter:
        monkeypatch.setattr(sqlalchemy, "_repeated", fail)
        with pytest.raises(kind) as raised:
            await adapter.get("key")
    assert str(raised.value) == told


@pytest.mark.parametrize("async_mode", [True, False])
async def test_a_file_that_cannot_be_opened(async_mode: bool, tmp_path: Path) -> None:
    adapter = SQLAlchemyStorageAdapter(f"sqlite:///{tmp_path / 'nowhere' / 'storage.db'}", async_mode)
    with pytest.raises(StorageConnectionError) as raised:
        await adapter.get("key")
    place = repr(adapter).partition("(")[2].partition(",")[0]
    told = f"SQLite at {place}: connecting failed: OperationalError: unable to open database file"
    assert str(raised.value) == told
    cause = raised.value.__cause__
    while cause is not None:
        assert cause.__traceback__ is None, "its frames may hold a password"
        cause = cause.__cause__ or cause.__context__


async def test_an_error_is_looked_into_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(*_: object) -> None:
        calls.append(1)
        raise failed("words")

    async with SQLAlchemyStorageAdapter("sqlite://", async_mode=False) as adapter:
        await adapter.set("key", 1)
        monkeypatch.setattr(sqlalchemy, "_repeated", fail)
        with pytest.raises(StorageBackendError):
            await adapter.get("key")
    assert len(calls) == 1, "the table is there: nothing is repeated"


async def test_a_missing_table_that_is_told_in_other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlalchemy, "_says_no_table", lambda _error: False)
    async with SQLAlchemyStorageAdapter("sqlite://", async_mode=False) as adapter:
        await adapter.set("key", 1)
        assert await adapter.get("key") == 1


def test_a_database_that_cannot_say_which_tables_it_has(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = statements("kept", "sqlite").table
    assert sqlalchemy._lacks(connection, table)

    def fail(_connection: Connection) -> None:
        raise failed("no permission")

    monkeypatch.setattr(sqlalchemy, "inspect", fail)
    assert not sqlalchemy._lacks(connection, table)


@pytest.fixture
def connection() -> Any:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.mark.parametrize(("failures", "tries"), [(0, 1), (1, 2), (9, 10)])
def test_what_may_be_repeated_is_repeated(connection: Connection, failures: int, tries: int) -> None:
    work = failing(failures, failed(1213, "deadlock"))
    assert sqlalchemy._repeated(connection, work) == tries


@pytest.mark.parametrize(
    ("error", "tries"), [(failed(1213, "deadlock"), 10), (failed("something else"), 1), (KeyError("a bug"), 1)]
)
def test_what_fails_for_good_is_raised(connection: Connection, error: Exception, tries: int) -> None:
    calls: list[Connection] = []
    with pytest.raises(type(error)) as raised:
        sqlalchemy._repeated(connection, failing(99, error, calls))
    assert raised.value is error
    assert calls == [connection] * tries


def failing(failures: int, error: Exception, calls: list[Connection] | None = None) -> Callable[[Connection], int]:
    """Return work that fails as often as that, and then returns how often it was called."""
    noted = [] if calls is None else calls

    def work(connection: Connection) -> int:
        noted.append(connection)
        if len(noted) <= failures:
            raise error
        return len(noted)

    return work


@pytest.mark.storage_backends("postgres")
async def test_the_name_of_the_application_in_the_url(storage_config: TaskiqFlowConfig) -> None:
    url = make_url(storage_config.storage_url or "").update_query_dict({"application_name": "Orders"})
    async with SQLAlchemyStorageAdapter(url, table=storage_config.storage_table) as adapter:
        await adapter.keys("x")
        statement = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'Orders'")
        assert await adapter._run(lambda connection: connection.execute(statement).scalar()) == 1


@pytest.mark.storage_backends("postgres")
def test_test_kits_do_not_wait_for_postgresql_to_take_leave(
    storage_config: TaskiqFlowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[object] = []
    terminate = asyncpg.Connection.terminate

    def note(connection: "asyncpg.Connection[Any]") -> None:
        ended.append(connection)
        terminate(connection)

    monkeypatch.setattr(asyncpg.Connection, "terminate", note)
    adapter = SQLAlchemyStorageAdapter(storage_config.storage_url or "", table=storage_config.storage_table)
    with closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(adapter.keys("x"))
        adapter.close_from_outside()
        assert len(ended) == 1


# --- SQLite's lock, and connections that fail -------------------------------------------------------------------------


def test_how_long_one_waits_for_a_lock() -> None:
    delays = list(sqlalchemy._delays_for_a_lock(0.1))
    assert delays[:6] == [0.001, 0.002, 0.004, 0.008, 0.016, 0.02]
    assert set(delays[5:]) == {0.02}
    assert 0.1 <= sum(delays) < 0.12
    assert list(sqlalchemy._delays_for_a_lock(0.001)) == [0.001]


@pytest.mark.parametrize("driver", ["sqlite+pysqlite", "sqlite+aiosqlite"])
async def test_a_lock_that_another_holds_is_waited_for(driver: str, tmp_path: Path) -> None:
    file = tmp_path / "storage.db"
    make: Callable[..., Any] = create_async_engine if driver == "sqlite+aiosqlite" else create_engine
    engine = make(f"{driver}:///{file}", connect_args={"timeout": 0})
    adapter = SQLAlchemyStorageAdapter(engine=engine, operation_timeout=0.3)
    await adapter.set("key", 1)
    with closing(sqlite3.connect(file, isolation_level=None)) as another:
        another.execute("BEGIN IMMEDIATE")
        asyncio.get_running_loop().call_later(0.1, another.execute, "COMMIT")
        await adapter.set("key", 2)
        if driver == "sqlite+aiosqlite":  # which leaves a connection open where a call is cancelled
            await engine.dispose()
            return
        another.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageConnectionError, match=r"set\('key'\) failed: no answer within 0\.3 s"):
            await adapter.set("key", 3)
        another.execute("COMMIT")
    assert await adapter.get("key") == 2
    engine.dispose()


@pytest.mark.parametrize("driver", ["sqlite+pysqlite", "sqlite+aiosqlite"])
async def test_a_connection_that_fails(driver: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make = create_async_engine if driver == "sqlite+aiosqlite" else create_engine
    engine = make(f"{driver}:///{tmp_path}/nowhere/storage.db")
    with pytest.raises(StorageConnectionError) as raised:
        await SQLAlchemyStorageAdapter(engine=engine).get("key")
    assert str(raised.value) == (
        f"SQLite at {driver}:///{tmp_path}/nowhere/storage.db: "
        "connecting failed: OperationalError: unable to open database file"
    )
    assert isinstance(raised.value.__cause__, exc.OperationalError)
    assert raised.value.__cause__.__traceback__ is None
    assert caplog.messages == []


def test_a_thread_that_could_not_connect_does_not_outlive_the_event_loop(tmp_path: Path) -> None:
    async def fail() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/nowhere/storage.db")
        with pytest.raises(StorageConnectionError):
            await SQLAlchemyStorageAdapter(engine=engine).get("key")

    for _ in range(10):
        asyncio.run(fail())  # a thread that reports its end to a loop which is closed raises, and pytest would tell


async def test_who_gives_up_does_not_wait_for_an_exhausted_pool(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/storage.db", pool_size=1, max_overflow=0)
    adapter = SQLAlchemyStorageAdapter(engine=engine, connect_timeout=0.05)
    async with engine.connect():
        waiting = asyncio.ensure_future(adapter.get("key"))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait({waiting}, timeout=5)
        assert waiting.cancelled()
    assert await adapter.get("key") is None
    await engine.dispose()


def test_an_engine_shows_no_values(tmp_path: Path) -> None:
    url = make_url(f"sqlite+pysqlite:///{tmp_path}/storage.db")
    engine = sqlalchemy._new_engine(url, False, 5.0, 30.0)
    assert engine.url == url
    with pytest.raises(exc.OperationalError) as raised, engine.connect() as connection:
        connection.execute(text("SELECT :secret FROM nowhere"), {"secret": "hush"})
    assert "hush" not in str(raised.value)


@pytest.mark.storage_backends("postgres")
async def test_a_driver_that_is_both_synchronous_and_not(storage_config: TaskiqFlowConfig) -> None:
    url = make_url(storage_config.storage_url or "").set(drivername="postgresql+psycopg", query={})
    for async_mode in (True, False):
        async with SQLAlchemyStorageAdapter(url, async_mode, table=storage_config.storage_table) as adapter:
            await adapter.set(f"psycopg {async_mode}", 1)
            assert await adapter.get(f"psycopg {async_mode}") == 1
            assert await adapter.delete(f"psycopg {async_mode}")


async def test_statements_are_compiled_once_for_all_adapters_on_a_url(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/storage.db"
    known = []
    for _ in range(3):
        async with SQLAlchemyStorageAdapter(url) as adapter:
            await adapter.set("key", 1)
            assert await adapter.get("key") == 1  # of SQLAlchemy 2.0, upserts are compiled each time
            known.append(len(sqlalchemy._learned(make_url(url), False, 5.0, 30.0).compiled))
    assert known[1] == known[2] > 0


def test_only_a_dialect_that_knows_its_server_is_shared(tmp_path: Path) -> None:
    """Or two adapters that are the first ones at once met a dialect that did not know its own schema's name."""
    arguments = (make_url(f"sqlite+pysqlite:///{tmp_path}/storage.db"), False, 5.0, 30.0)
    first, second = sqlalchemy._new_engine(*arguments), sqlalchemy._new_engine(*arguments)
    assert second.dialect is not first.dialect
    for engine in (first, second):
        engine.connect().close()
    third = sqlalchemy._new_engine(*arguments)
    assert third.dialect is first.dialect
    assert third.dialect.default_schema_name == "main"
    for engine in (first, second, third):
        engine.dispose()


# --- what others do meanwhile -----------------------------------------------------------------------------------------


@pytest.mark.storage_backends("sqlite", "postgres", "mysql")
async def test_what_another_stores_between_the_look_and_the_exchange_stays(
    storage_config: TaskiqFlowConfig, storage_backend: StorageBackend
) -> None:
    class Overtaken(SQLAlchemyStorageAdapter):
        seen: Record | None = None

        async def _read(self, key: str, now: int) -> Record | None:
            return self.seen

    place: dict[str, Any] = {"namespace": storage_config.storage_namespace, "table": storage_config.storage_table}
    url = storage_config.storage_url or ""
    if "MariaDB" in storage_backend.version:  # SQLAlchemy has a dialect for each name
        url = url.replace("mysql+", "mariadb+")
    async with SQLAlchemyStorageAdapter(url, **place) as another, Overtaken(url, **place) as adapter:
        await another.set("key", "Theirs", ttl_seconds=60)
        theirs = await another._read("key", clock.now_ms())
        assert theirs is not None
        for seen in (
            None,
            theirs._replace(value='"theirs"'),
            theirs._replace(value='"Theirs "'),
            theirs._replace(metadata="{ }"),
            theirs._replace(created_at=theirs.created_at - 1),
            theirs._replace(expires_at=None),
        ):
            adapter.seen = seen
            expected = ABSENT if seen is None else serialization.loads(seen.value)
            assert not await adapter.compare_and_set("key", expected, "ours")
            if seen is not None:
                assert not await adapter.compare_and_set("key", expected, ABSENT)
            assert await another._read("key", clock.now_ms()) == theirs
        adapter.seen = theirs
        assert await adapter.compare_and_set("key", "Theirs", "ours")


class NotingConnection:
    """A connection that notes statements and their parameters, and answers each as it is told to."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.noted: list[Any] = []
        self.parameters: list[Any] = []
        self._answer = answer

    def execute(self, statement: Any, parameters: Any = None) -> Any:
        self.noted.append(statement)
        self.parameters.append(parameters)
        return self._answer(statement)


ROW = {"namespace": "shop", "key": "key", "value": "1", "created_at": 0, "expires_at": None, "metadata": "{}"}


@pytest.mark.parametrize("dialect", ["mysql", "mariadb"])
def test_an_upsert_is_one_statement(dialect: str) -> None:
    connection: Any = NotingConnection(lambda _statement: None)
    sqlalchemy._upsert(connection, statements("kept", dialect), ROW)
    (statement,) = connection.noted
    assert "ON DUPLICATE KEY UPDATE" in str(statement.compile(dialect=mysql.dialect()))


@pytest.mark.parametrize(("changed", "kinds"), [(1, [Update]), (0, [Update, Insert])])
def test_an_upsert_where_there_is_no_such_statement(changed: int, kinds: list[type]) -> None:
    connection: Any = NotingConnection(lambda _statement: SimpleNamespace(rowcount=changed))
    sqlalchemy._upsert(connection, statements("kept", "oracle"), ROW)
    assert [type(statement) for statement in connection.noted] == kinds


def test_an_upsert_gives_up_after_ten_that_were_quicker_each_time() -> None:
    def answer(statement: Any) -> Any:
        if isinstance(statement, Insert):
            raise exc.IntegrityError("INSERT", None, DriversError("taken"))
        return SimpleNamespace(rowcount=0)

    connection: Any = NotingConnection(answer)
    with pytest.raises(exc.IntegrityError, match="taken"):
        sqlalchemy._upsert(connection, statements("kept", "oracle"), ROW)
    assert sum(isinstance(statement, Insert) for statement in connection.noted) == 10


def test_what_has_expired_is_replaced_where_there_is_no_upsert() -> None:
    connection: Any = NotingConnection(lambda _statement: None)
    assert sqlalchemy._insert_if_absent(connection, statements("kept", "oracle"), ROW, now=5)
    removal, _ = connection.noted
    assert isinstance(removal, Delete)
    assert "expires_at <= :now" in str(removal)
    assert connection.parameters[0] == {"of": "shop", "at": "key", "now": 5}


class UncreatableTable:
    """A table that somebody else is always just making."""

    name = "kept"

    def __init__(self, error: Exception) -> None:
        self.tries: list[bool] = []
        self._error = error

    def create(self, _connection: object, checkfirst: bool) -> None:
        self.tries.append(checkfirst)
        raise self._error


@pytest.mark.parametrize(("invalidated", "tries"), [(False, 10), (True, 1)])
def test_making_the_table_is_given_up_in_the_end(connection: Connection, invalidated: bool, tries: int) -> None:
    error = exc.DBAPIError("CREATE", None, DriversError("words"), connection_invalidated=invalidated)
    table: Any = UncreatableTable(error)
    with pytest.raises(exc.DBAPIError) as raised:
        sqlalchemy._create(connection, table)
    assert raised.value is error
    assert table.tries == [True] * tries


@pytest.mark.parametrize("mode", ["wal", "memory", "delete"])
def test_the_mode_of_a_file_is_switched_once(mode: str) -> None:
    connection: Any = NotingConnection(lambda _statement: SimpleNamespace(scalar=lambda: mode))
    sqlalchemy._use_write_ahead_log(connection)
    statements = ["PRAGMA journal_mode", "PRAGMA journal_mode=WAL"]
    assert [str(statement) for statement in connection.noted] == statements[: 2 if mode == "delete" else 1]
