"""What the SQL adapter makes of databases that fail and of rows that are damaged."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, exc
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from taskiq_flow.exceptions import SerializationError, StorageBackendError, StorageConnectionError
from taskiq_flow.storage import SQLAlchemyStorageAdapter


@pytest.mark.parametrize("damaged", ["value = x'00'", "created_at = 'now'", "expires_at = 9e99", "metadata = x'00'"])
async def test_column_of_another_type_is_a_serialization_error(damaged: str, tmp_path: Path) -> None:
    async with SQLAlchemyStorageAdapter(f"sqlite:///{tmp_path / 'storage.db'}") as adapter:
        await adapter.set("key", 1)
        with closing(sqlite3.connect(tmp_path / "storage.db")) as connection, connection:
            connection.execute(f"UPDATE taskiq_flow_storage SET {damaged}")
        with pytest.raises(SerializationError, match="'key' cannot be read: a column holds another type"):
            await adapter.get("key")


# --- errors of the driver, in the middle of a statement ---------------------------------------------------------------


class DriversError(Exception):
    def __init__(self, *args: object, sqlstate: str | None = None) -> None:
        super().__init__(*args)
        if sqlstate is not None:
            self.sqlstate = sqlstate


def failed(*args: object, sqlstate: str | None = None, invalidated: bool = False) -> exc.DBAPIError:
    error = DriversError(*args, sqlstate=sqlstate)
    return exc.DBAPIError("SELECT 1", None, error, connection_invalidated=invalidated)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return create_engine(f"sqlite:///{tmp_path / 'storage.db'}", poolclass=NullPool)


def fail_statements(engine: Engine, error: Exception, times: int = 1000) -> list[str]:
    """Let so many of the next statements fail; return the list to which each statement is added."""
    begun: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def fail(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        begun.append(statement)
        if len(begun) <= times:
            raise error

    return begun


NOT_TEXT = "Could not decode to UTF-8 column 'value' with text 'x'"


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (failed("words"), StorageBackendError, "refused get('key'): DriversError: words"),
        (failed(), StorageBackendError, "refused get('key'): DriversError"),
        (failed("words", invalidated=True), StorageConnectionError, "get('key') failed: DriversError: words"),
        (exc.InvalidRequestError("words"), StorageBackendError, "refused get('key'): words"),
        (OSError("words"), StorageConnectionError, "get('key') failed: OSError: words"),
        (ConnectionResetError(), StorageConnectionError, "get('key') failed: ConnectionResetError"),
        (
            failed(NOT_TEXT),
            SerializationError,
            "the entry under get('key') is not one of ours",
        ),
        (ZeroDivisionError("a bug"), ZeroDivisionError, "a bug"),
    ],
)
async def test_error_of_the_driver_is_translated(
    error: Exception, kind: type[Exception], told: str, engine: Engine
) -> None:
    adapter = SQLAlchemyStorageAdapter(engine=engine)
    await adapter.set("key", 1)
    fail_statements(engine, error)
    with pytest.raises(kind) as raised:
        await adapter.get("key")
    assert told in str(raised.value)


async def test_error_shows_no_values(engine: Engine) -> None:
    adapter = SQLAlchemyStorageAdapter(engine.url.render_as_string())
    await adapter.set("key", 1)
    with closing(sqlite3.connect(engine.url.database or "")) as connection, connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON taskiq_flow_storage BEGIN SELECT RAISE(FAIL, 'no'); END"
        )
    with pytest.raises(StorageBackendError) as raised:
        await adapter.set("key", "hush")
    assert "hush" not in f"{raised.value} {raised.value.__cause__}"
    await adapter.aclose()


@pytest.mark.parametrize(
    "conflict",
    [
        failed("serialization", sqlstate="40001"),
        failed("deadlock", sqlstate="40P01"),
        failed(1205, "lock wait"),
        failed(1213, "deadlock"),
    ],
    ids=str,
)
@pytest.mark.parametrize("times", [1, 9])
async def test_statement_that_another_writer_got_in_the_way_of_is_repeated(
    conflict: exc.DBAPIError, times: int, engine: Engine
) -> None:
    adapter = SQLAlchemyStorageAdapter(engine=engine)
    await adapter.set("key", 1)
    begun = fail_statements(engine, conflict, times)
    assert await adapter.get("key") == 1
    assert len(begun) == times + 1


async def test_repeating_ends_after_ten_times(engine: Engine) -> None:
    adapter = SQLAlchemyStorageAdapter(engine=engine)
    await adapter.set("key", 1)
    begun = fail_statements(engine, failed(1213, "deadlock"))
    with pytest.raises(StorageBackendError, match="deadlock"):
        await adapter.get("key")
    assert [statement for statement in begun if "PRAGMA" not in statement] == [begun[0]] * 10


async def test_other_errors_are_not_repeated(engine: Engine) -> None:
    adapter = SQLAlchemyStorageAdapter(engine=engine)
    await adapter.set("key", 1)
    begun = fail_statements(engine, failed("something else", 1213))
    with pytest.raises(StorageBackendError):
        await adapter.get("key")
    assert len([statement for statement in begun if statement.startswith("SELECT taskiq_flow")]) == 1


@pytest.mark.parametrize(
    "missing", [failed("no", sqlstate="42P01"), failed(1146, "no"), failed("in other words")], ids=str
)
async def test_missing_table_is_created_whatever_the_error_says(missing: exc.DBAPIError, engine: Engine) -> None:
    adapter = SQLAlchemyStorageAdapter(engine=engine)
    begun = fail_statements(engine, missing, times=1)
    await adapter.set("key", 1)
    assert await adapter.get("key") == 1
    assert any("CREATE TABLE" in statement for statement in begun)


# --- connections that cannot be opened --------------------------------------------------------------------------------


@pytest.mark.parametrize("async_mode", [True, False])
async def test_file_that_cannot_be_opened_is_a_storage_connection_error(async_mode: bool, tmp_path: Path) -> None:
    adapter = SQLAlchemyStorageAdapter(f"sqlite:///{tmp_path / 'missing' / 'storage.db'}", async_mode)
    with pytest.raises(StorageConnectionError, match="connecting failed: OperationalError: unable to open") as raised:
        await adapter.get("key")
    cause = raised.value.__cause__
    while cause is not None:
        assert cause.__traceback__ is None, "its frames may hold a password"
        cause = cause.__cause__ or cause.__context__


@pytest.mark.parametrize("driver", ["sqlite+pysqlite", "sqlite+aiosqlite"])
async def test_given_engine_that_cannot_connect_is_a_storage_connection_error(
    driver: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make: Callable[..., Any] = create_async_engine if driver == "sqlite+aiosqlite" else create_engine
    engine = make(f"{driver}:///{tmp_path}/missing/storage.db")
    with pytest.raises(StorageConnectionError, match="connecting failed: OperationalError: unable to open") as raised:
        await SQLAlchemyStorageAdapter(engine=engine).get("key")
    assert f"{driver}:///{tmp_path}/missing/storage.db" in str(raised.value)
    assert isinstance(raised.value.__cause__, exc.OperationalError)
    assert raised.value.__cause__.__traceback__ is None
    assert caplog.messages == []
