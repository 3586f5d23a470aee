"""What kind of failure an error of a server is, on each backend; what is lost is tried again where nothing was done."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from sqlalchemy import create_engine, event, exc, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import SerializationError, StorageBackendError, StorageConnectionError, StorageError
from taskiq_flow.pytest_plugin import StorageBackend
from taskiq_flow.storage import RedisStorageAdapter, SQLAlchemyStorageAdapter
from taskiq_flow.storage.failures import Failure

LOST, PASSING, REFUSED, UNSTORABLE = Failure.LOST, Failure.PASSING, Failure.REFUSED, Failure.UNSTORABLE


async def failure_of(call: Any) -> StorageError:
    with pytest.raises(StorageError) as raised:
        await call
    return raised.value


# --- Redis ------------------------------------------------------------------------------------------------------------


class RedisStub:
    """A server that gives the next of these answers to each command, and the last one from then on."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.connections = self.commands = 0
        self.port = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while await reader.read(10_000):
            self.commands += 1
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            writer.write(f"{answer}\r\n".encode())
        writer.close()


@asynccontextmanager
async def redis_stub(*answers: str) -> AsyncIterator[RedisStub]:
    stub = RedisStub(*answers)
    async with await asyncio.start_server(stub.talk, "127.0.0.1", 0) as server:
        stub.port = server.sockets[0].getsockname()[1]
        yield stub


ROLE_CHANGES = [
    "READONLY You can't write against a read only replica.",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN The cluster is down",
]


@pytest.mark.parametrize("answer", ROLE_CHANGES)
async def test_redis_that_has_changed_its_role_is_asked_once_more_on_a_new_connection(answer: str) -> None:
    async with redis_stub(f"-{answer}", "+OK") as stub:
        adapter = RedisStorageAdapter(f"redis://127.0.0.1:{stub.port}")
        await adapter.set("key", 1)
        await adapter.aclose()
    assert stub.connections >= 2


@pytest.mark.parametrize("answer", ROLE_CHANGES)
async def test_redis_that_keeps_another_role_is_lost(answer: str) -> None:
    async with redis_stub(f"-{answer}") as stub, RedisStorageAdapter(f"redis://127.0.0.1:{stub.port}") as adapter:
        error = await failure_of(adapter.set("key", 1))
    assert type(error) is StorageConnectionError
    assert error.failure is LOST


@pytest.mark.parametrize(
    ("answer", "failure", "kind"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", PASSING, StorageBackendError),
        ("BUSY Redis is busy running a script.", PASSING, StorageBackendError),
        ("NOREPLICAS Not enough good replicas to write.", PASSING, StorageBackendError),
        ("MISCONF Redis is configured to save RDB snapshots, but it's unable to persist", PASSING, StorageBackendError),
        ("ERR max number of clients reached", PASSING, StorageConnectionError),
        ("WRONGPASS invalid username-password pair", REFUSED, StorageConnectionError),
        ("NOAUTH Authentication required.", REFUSED, StorageConnectionError),
        ("NOPERM this user has no permissions to run the 'set' command", REFUSED, StorageBackendError),
        ("MOVED 3999 127.0.0.1:6381", REFUSED, StorageBackendError),
        ("ERR unknown command 'SET'", REFUSED, StorageBackendError),
        ("ERR string exceeds maximum allowed size (proto-max-bulk-len)", UNSTORABLE, StorageBackendError),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", UNSTORABLE, SerializationError),
    ],
)
async def test_error_of_redis_is_sorted(answer: str, failure: Failure, kind: type[StorageError]) -> None:
    async with redis_stub(f"-{answer}") as stub, RedisStorageAdapter(f"redis://127.0.0.1:{stub.port}") as adapter:
        error = await failure_of(adapter.set("key", 1))
    assert type(error) is kind
    assert error.failure is failure


async def test_redis_that_nobody_serves_is_lost() -> None:
    async with RedisStorageAdapter("redis://127.0.0.1:1") as adapter:
        assert (await failure_of(adapter.get("key"))).failure is LOST


async def test_redis_that_does_not_answer_is_a_timeout_and_asked_once() -> None:
    asked = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await reader.read(1000):
            asked.append(command)
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with RedisStorageAdapter(f"redis://127.0.0.1:{port}", operation_timeout=0.2) as adapter:
            error = await failure_of(adapter.get("key"))
    assert type(error) is StorageConnectionError
    assert error.failure is Failure.TIMEOUT
    assert len(asked) == 1


# --- SQL --------------------------------------------------------------------------------------------------------------


class DriversError(Exception):
    sqlstate: str | None = None


def error_of(code: str | int, words: str = "words") -> exc.DBAPIError:
    error = DriversError(*([code] if isinstance(code, int) else []), words)
    error.sqlstate = code if isinstance(code, str) else None
    return exc.DBAPIError("SELECT 1", None, error)


def sqlite_error(code: int) -> exc.DBAPIError:
    error = sqlite3.OperationalError("words")
    error.sqlite_errorcode = code
    return exc.OperationalError("SELECT 1", None, error)


async def sorted_in_a_statement(error: exc.DBAPIError, folder: Path) -> tuple[StorageError, int]:
    """Let each statement fail so; return what the adapter makes of it, and how often it has tried."""
    engine = create_engine(f"sqlite:///{folder / 'storage.db'}", poolclass=NullPool)
    adapter = SQLAlchemyStorageAdapter(engine=engine)
    await adapter.set("key", 1)
    tries: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def fail(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "taskiq_flow_storage" in statement and statement.startswith("SELECT"):
            tries.append(statement)
            raise error

    return await failure_of(adapter.get("key")), len(tries)


@pytest.mark.parametrize(
    ("error", "failure", "tries"),
    [
        *[(error_of(code), LOST, 2) for code in ("25006", "57P01", "57P02", "57P05", 1290, 1792, 1836)],
        *[(error_of(code), LOST, 1) for code in ("08006", 1927, 2006, 2013)],
        (error_of("0A000", "cached plan must not change result type"), LOST, 2),
        *[(error_of(code), PASSING, 1) for code in ("55P03", "53300", "53100", "57014", "57P03", "58030")],
        *[(error_of(code), PASSING, 1) for code in (1040, 1114, 1203, 3024, 1969)],
        *[(error_of(code), PASSING, 10) for code in ("40001", "40P01", 1205, 1213)],
        *[(error_of(code), UNSTORABLE, 1) for code in ("22021", "54000", 1153, 1366, 1406)],
        *[(error_of(code), REFUSED, 1) for code in ("42501", "42703", "0A000", 1142, 1064)],
        *[(sqlite_error(code), PASSING, 1) for code in (13, 10 | 5 << 8)],
        (sqlite_error(18), UNSTORABLE, 1),
        *[(sqlite_error(code), REFUSED, 1) for code in (8, 11, 26)],
    ],
    ids=lambda value: repr(value.orig) if isinstance(value, exc.DBAPIError) else None,
)
async def test_error_of_a_database_is_sorted(
    error: exc.DBAPIError, failure: Failure, tries: int, tmp_path: Path
) -> None:
    raised, tried = await sorted_in_a_statement(error, tmp_path)
    assert raised.failure is failure
    assert tried == tries
    assert isinstance(raised, StorageConnectionError) == (failure is LOST)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.storage_backends("postgres")
async def test_codes_of_postgresql_are_read_with_each_driver(
    driver: str, storage_backend: StorageBackend, storage_config: TaskiqFlowConfig
) -> None:
    engine = create_async_engine(storage_backend.url.replace("+asyncpg", f"+{driver}"), poolclass=NullPool)
    adapter = SQLAlchemyStorageAdapter(engine=engine, table=storage_config.storage_table)
    await adapter.set("key", 1)
    codes = {"55P03": PASSING, "25006": LOST, "22000": UNSTORABLE, "42501": REFUSED}
    current = [""]

    @event.listens_for(engine.sync_engine, "before_cursor_execute", retval=True)
    def fail(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> Any:
        if statement.startswith("SELECT"):
            return f"DO $$ BEGIN RAISE EXCEPTION 'words' USING ERRCODE = '{current[0]}'; END $$", ()
        return statement, parameters

    for current[0], failure in codes.items():
        assert (await failure_of(adapter.get("key"))).failure is failure
    await engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.storage_backends("postgres")
async def test_migration_under_open_connections_costs_no_call(driver: str, storage_backend: StorageBackend) -> None:
    table = f"tfk_migrated_{token_hex(4)}"
    engine = create_async_engine(storage_backend.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    url = storage_backend.url.replace("+asyncpg", f"+{driver}")
    async with SQLAlchemyStorageAdapter(url, table=table) as adapter, engine.connect() as connection:
        await adapter.set("key", 1)
        for _ in range(10):  # psycopg prepares what it has seen five times
            await asyncio.gather(*[adapter.get("key") for _ in range(3)])
        for kind in ("varchar", "text"):
            await connection.execute(text(f"ALTER TABLE {table} ALTER COLUMN value TYPE {kind}"))
            assert await asyncio.gather(*[adapter.get("key") for _ in range(3)]) == [1, 1, 1]
        await connection.execute(text(f"DROP TABLE {table}"))
    await engine.dispose()


@pytest.mark.storage_backends("postgres")
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize(
    ("change", "failure"),
    [({"password": "wrong"}, REFUSED), ({"database": "missing"}, REFUSED), ({"port": 1}, LOST)],
    ids=["password", "database", "port"],
)
async def test_failure_to_connect_to_postgresql_is_sorted(
    change: dict[str, Any], failure: Failure, driver: str, storage_backend: StorageBackend
) -> None:
    url = make_url(storage_backend.url).set(drivername=f"postgresql+{driver}").set(**change)
    async with SQLAlchemyStorageAdapter(url) as adapter:
        error = await failure_of(adapter.get("key"))
    assert type(error) is StorageConnectionError
    assert error.failure is failure


async def test_path_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    async with SQLAlchemyStorageAdapter(f"sqlite:///{tmp_path / 'missing' / 'storage.db'}") as adapter:
        error = await failure_of(adapter.get("key"))
    assert type(error) is StorageConnectionError
    assert error.failure is REFUSED
