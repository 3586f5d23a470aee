"""What is stored under a key is damaged or foreign: an error that says so, and nothing else happens."""

import asyncio
import json
import pickle
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import SerializationError
from taskiq_flow.storage.base import BaseStorageAdapter
from taskiq_flow.storage.factory import StorageAdapterFactory
from tests.faults.conftest import Amount, Tell
from tests.faults.storages import on
from tests.faults.writers import PROCESSES

KEY = "damaged"
HEAD = b'{"expires_at": null, "created_at": 1767222000000, "metadata": {}, "value": '
Put = Callable[[str, Any], Awaitable[None]]

SQL = ("sqlite+aiosqlite", "postgresql+asyncpg", "mysql+asyncmy")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self._trace,)


def damaged_values(trace: Path) -> dict[str, str]:
    whole = json.dumps({"phase": "running"})
    return {
        "nothing": "",
        "blank": " ",
        "words": "not ours",
        "a pickle": pickle.dumps(Bomb(trace), protocol=0).decode("ascii"),
        "code": f"__import__('pathlib').Path({str(trace)!r}).touch()",
        "two values": whole + whole,
        "a byte order mark": "\ufeff" + whole,
        "an unknown tag": '{"$type": "module", "value": "os"}',
        "a tag without value": '{"$type": "tuple"}',
        "a tag of the wrong shape": '{"$type": "decimal", "value": {"a": 1}}',
        "a tag with more": '{"$type": "tuple", "value": [], "call": "os.system"}',
        "what is no key": '{"$type": "set", "value": [[1]]}',
        "a number without end": "9" * 100_000,
        "a date that never was": '{"$type": "datetime", "value": "2026-02-30T00:00:00"}',
        "too many days": '{"$type": "timedelta", "value": [1e308, 0, 0]}',
        "nested deeply": "[" * 100_000,
        "nested deeply, and closed": "[" * 100_000 + "]" * 100_000,
        "nested tags": '{"$type": "tuple", "value": [' * 10_000,
        **{f"cut off at {end}": whole[:end] for end in range(1, len(whole))},
    }


@pytest.fixture
async def adapter(place: TaskiqFlowConfig) -> AsyncIterator[BaseStorageAdapter]:
    """An adapter on a storage with one whole entry."""
    async with StorageAdapterFactory.create_storage_adapter(place) as adapter:
        await adapter.set(KEY, {"phase": "running"})
        yield adapter


@pytest.fixture
async def put(scheme: str, url: str, place: TaskiqFlowConfig) -> AsyncIterator[Put]:
    """Put something else into the entry: ``put("value", "garbage")``.

    The first argument is a column in SQL. On Redis it is ``value``, in a record that else is whole, or ``record``.
    """
    namespace, table = place.storage_namespace, place.storage_table
    if scheme == "redis":
        async with Redis.from_url(url) as client:

            async def on_redis(part: str, content: str | bytes) -> None:
                raw = content.encode() if isinstance(content, str) else content
                await client.set(f"{namespace}:{KEY}", HEAD + raw + b"}" if part == "value" else raw)

            yield on_redis
        return
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")

    async def in_sql(column: str, content: object) -> None:
        shown = "CAST(:content AS TEXT)" if column == "value as text" else ":content"
        statement = text(f"UPDATE {table} SET {column.partition(' ')[0]} = {shown} WHERE namespace = :namespace")
        async with engine.connect() as connection:
            changed = await connection.execute(statement, {"content": content, "namespace": namespace})
            assert changed.rowcount == 1

    yield in_sql
    await engine.dispose()


async def complaint(read: Callable[[str], Awaitable[object]]) -> str:
    """Return what is wrong with the way in which reading fails; nothing where all is well."""
    try:
        return f"it was read as {await read(KEY)!r:.80}"
    except SerializationError as error:
        message = str(error)
        return "" if repr(KEY) in message and len(message) < 500 else f"it is said like this: {message:.500}"
    except Exception as error:  # noqa: BLE001 - that is what must not happen
        return f"it failed with {error!r:.200}"


async def complaints(adapter: BaseStorageAdapter, put: Put, part: str, damages: dict[str, Any]) -> dict[str, str]:
    """Put one damage after the other into a part of the entry; return what is wrong with the answers."""
    wrong = {}
    for damage, content in damages.items():
        await put(part, content)
        wrong[f"{damage}, get"] = await complaint(adapter.get)
        wrong[f"{damage}, get_entry"] = await complaint(adapter.get_entry)
        wrong[f"{damage}, compare_and_set"] = await complaint(lambda key: adapter.compare_and_set(key, 1, 2))
        assert await adapter.exists(KEY), "it is there, and only get can say what is wrong with it"
        assert await adapter.keys() == [KEY]
        assert await adapter.cleanup() == 0
    return {where: what for where, what in wrong.items() if what}


@on("redis", *SQL)
async def test_damaged_value_is_a_serialization_error(adapter: BaseStorageAdapter, put: Put, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    assert not await complaints(adapter, put, "value", damaged_values(trace))
    assert not trace.exists()
    await adapter.set(KEY, "mended")
    assert await adapter.get(KEY) == "mended"


@on("redis")
async def test_damaged_record_on_redis_is_a_serialization_error(
    adapter: BaseStorageAdapter, put: Put, tmp_path: Path
) -> None:
    trace = tmp_path / "executed"
    whole = HEAD + b'{"phase": "running"}}'
    damages = {
        **damaged_values(trace),
        **{f"cut off at {end}": whole[:end] for end in range(1, len(whole))},
        "no text": b"\xff\xfe" + whole,
        "a pickle": pickle.dumps(Bomb(trace)),
        "another's pickle after our head": HEAD + pickle.dumps(Bomb(trace)) + b"}",
    }
    del damages["nothing"]  # an empty string is what Redis itself says of a key that is not there
    assert not await complaints(adapter, put, "record", damages)
    assert not trace.exists()
    await put("record", whole.replace(b"1767222000000", b"99999999999999999"))
    assert not await complaint(adapter.get_entry)
    assert await adapter.get(KEY) == {"phase": "running"}


@pytest.mark.parametrize("command", ["rpush", "sadd", "hset"])
@on("redis")
async def test_other_type_than_string_on_redis_is_a_serialization_error(
    adapter: BaseStorageAdapter, url: str, place: TaskiqFlowConfig, command: str
) -> None:
    name = f"{place.storage_namespace}:{KEY}"
    async with Redis.from_url(url) as client:
        await client.delete(name)
        run: Any = client.execute_command
        await run(command, name, *["item"] * (2 if command == "hset" else 1))
    assert not await complaint(adapter.get)
    assert await adapter.keys() == [KEY]
    await adapter.set(KEY, "mended")
    assert await adapter.get(KEY) == "mended"


@on(*SQL)
async def test_damaged_metadata_and_times_in_sql_are_serialization_errors(
    adapter: BaseStorageAdapter, put: Put, tmp_path: Path
) -> None:
    trace = tmp_path / "executed"
    for damage, content in {**damaged_values(trace), "a list": "[]"}.items():
        await put("metadata", content)
        assert not await complaint(adapter.get_entry), damage
        assert await adapter.get(KEY) == {"phase": "running"}
    await put("metadata", "{}")
    for column in ("created_at", "expires_at"):
        await put(column, 2**63 - 1)
        assert not await complaint(adapter.get_entry), column
        await put(column, 2_000_000_000_000)
    assert not trace.exists()


@on("sqlite+aiosqlite")
async def test_columns_of_sqlite_with_other_types_are_serialization_errors(
    adapter: BaseStorageAdapter, put: Put, tmp_path: Path
) -> None:
    trace = tmp_path / "executed"
    blobs = {"a pickle": pickle.dumps(Bomb(trace)), "no text": b"\xff\xfe", "UTF-16": '"text"'.encode("utf-16")}
    assert not await complaints(adapter, put, "value", blobs)
    assert not await complaints(adapter, put, "value as text", {"no UTF-8": b'"\xff\xfe"'})
    await put("value", '{"phase": "running"}')
    for column in ("created_at", "expires_at"):
        for content in ("tomorrow", "", 4e12 + 0.5, b"\x00\xff"):
            await put(column, content)
            assert not await complaint(adapter.get_entry), (column, content)
        await put(column, 2_000_000_000_000)
    assert not trace.exists()


@on("redis", *SQL)
@pytest.mark.parametrize(
    "unit",
    [
        pytest.param("[", id="lists"),
        pytest.param("[]", id="closed lists", marks=pytest.mark.long),
        pytest.param('{"a":', id="dicts", marks=pytest.mark.long),
        pytest.param('{"$type":"tuple","value":[', id="tagged"),
    ],
)
async def test_hundred_megabytes_of_nested_brackets_cost_little_memory(  # noqa: PLR0917 - fixtures come by name
    place: TaskiqFlowConfig, adapter: BaseStorageAdapter, put: Put, unit: str, amount: Amount, tell: Tell
) -> None:
    size = amount(1_000_000, 100_000_000)
    depth = size // len(unit)
    await put("value", "[" * depth + "]" * depth if unit == "[]" else unit * depth)
    # In a process of its own, which could be killed without harm, and whose memory nobody else has used.
    with ProcessPoolExecutor(1, PROCESSES) as pool:
        wrong, used = pool.submit(read_elsewhere, place).result(timeout=300)
    tell(megabytes=size // 1_000_000, memory_in_megabytes=used // 1_000_000)
    assert not wrong
    assert used < 8 * size + 50_000_000
    await adapter.set(KEY, "mended")


def read_elsewhere(config: TaskiqFlowConfig) -> tuple[str, int]:
    """Return what is wrong with how reading fails, and how many bytes of memory it has taken."""

    async def read() -> tuple[str, int]:
        async with StorageAdapterFactory.create_storage_adapter(config) as adapter:
            await adapter.exists("warm up")
            before = psutil.Process().memory_info().rss
            wrong = await complaint(adapter.get)
            return wrong, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before

    return asyncio.run(read())
