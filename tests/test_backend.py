"""What all adapters share: how their messages name the call and the key, and say what is wrong."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import ResponseError

from taskiq_flow.exceptions import SerializationError, StorageBackendError, StorageConnectionError
from taskiq_flow.storage import (
    BaseStorageAdapter,
    InMemoryStorageAdapter,
    InMemoryStore,
    RedisStorageAdapter,
    StorageEntry,
)
from taskiq_flow.storage.backend import BackendAdapter, Record
from taskiq_flow.storage.base import ABSENT

Call = Callable[[BackendAdapter], Any]

CALLS: dict[str, Call] = {
    "get('key')": lambda adapter: adapter.get("key"),
    "set('key')": lambda adapter: adapter.set("key", 1),
    "delete('key')": lambda adapter: adapter.delete("key"),
    "exists('key')": lambda adapter: adapter.exists("key"),
    "keys('k*')": lambda adapter: adapter.keys("k*"),
    "cleanup()": lambda adapter: adapter.cleanup(),
    "set_entry('key')": lambda adapter: adapter.set_entry(StorageEntry("key", 1)),
    "compare_and_set('key')": lambda adapter: adapter.compare_and_set("key", 1, 2),
}


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield what an error was raised from, and what that was."""
    cause = error.__cause__
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


@pytest.mark.parametrize("doing", CALLS)
async def test_error_names_the_call_that_failed(doing: str) -> None:
    async with RedisStorageAdapter("redis://:s3cret@127.0.0.1:1") as adapter:
        with pytest.raises(StorageConnectionError) as raised:
            await CALLS[doing](adapter)
    assert str(raised.value).startswith(f"Redis at redis://:***@127.0.0.1:1: {doing} failed: Error ")
    causes = list(chain_of(raised.value))
    assert len(causes) > 1
    assert all(cause.__traceback__ is None for cause in causes), "their frames hold the password"


SERVER = "Redis at the application's"


class SlowToEnd:
    """A client of Redis whose calls take their time to end when they are cancelled."""

    async def get(self, _name: str) -> Any:
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.sleep_forever()  # until the time is up


async def test_cancellation_before_the_time_out_is_not_hidden_by_it() -> None:
    client: Any = SlowToEnd()
    call = asyncio.ensure_future(RedisStorageAdapter(client=client, operation_timeout=0.05).get("key"))
    await asyncio.sleep(0)  # until it waits
    call.cancel()
    with pytest.raises(asyncio.CancelledError):  # anyio before 4.16 would let the time-out hide it
        await call


class Failing:
    """A client of Redis whose calls end with an error, or never."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    async def get(self, _name: str) -> Any:
        if self._error is None:
            await asyncio.sleep(60)
        else:
            raise self._error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, "no answer within 0.05 s"),
        (TimeoutError("the route is too long"), "the route is too long"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)
async def test_error_tells_what_happened(error: Exception | None, told: str) -> None:
    client: Any = Failing(error)
    adapter = RedisStorageAdapter(client=client, address="the application's", operation_timeout=0.05)
    with pytest.raises(StorageConnectionError) as raised:
        await adapter.get("key")
    assert str(raised.value) == f"{SERVER}: get('key') failed: {told}"


def writelines() -> None:
    """Fail as asyncio does where the connection was lost: by its name this is known."""
    raise TypeError("'NoneType' object is not callable")


class Losing(Failing):
    async def get(self, _name: str) -> Any:
        writelines()


NOT_OURS = "the entry under get('key') is not one of ours"


@pytest.mark.parametrize(
    ("client", "kind", "told"),
    [
        (Losing(), StorageConnectionError, f"{SERVER}: get('key') failed: the connection was lost"),
        (
            Failing(MasterNotFoundError("No master found for 'm' : Redis<password=s3cret> : no answer")),
            StorageConnectionError,
            f"{SERVER}: get('key') failed: No master found for 'm'",
        ),
        (Failing(ResponseError("OOM, full")), StorageBackendError, f"{SERVER} refused get('key'): OOM, full"),
        (Failing(ResponseError("WRONGTYPE, a set")), SerializationError, f"{NOT_OURS}: WRONGTYPE, a set"),
        (
            Failing(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")),
            SerializationError,
            f"{NOT_OURS}: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        ),
    ],
)
async def test_error_of_redis_is_translated(client: Any, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind) as raised:
        await RedisStorageAdapter(client=client, address="the application's").get("key")
    assert type(raised.value) is kind
    assert str(raised.value) == told


@pytest.mark.parametrize("error", [TypeError("a bug"), AttributeError("a bug"), ZeroDivisionError("a bug")])
async def test_other_errors_are_not_translated(error: Exception) -> None:
    client: Any = Failing(error)
    with pytest.raises(type(error), match="a bug"):
        await RedisStorageAdapter(client=client).get("key")


# --- what cannot be stored --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda adapter: adapter.set("key", [1j]), "the value for key 'key', at value[0]"),
        (lambda adapter: adapter.set_entry(StorageEntry("key", [1j])), "the value for key 'key', at value[0]"),
        (
            lambda adapter: adapter.set_entry(StorageEntry("key", 1, metadata={"by": 1j})),
            "the metadata for key 'key', at metadata['by']",
        ),
        (lambda adapter: adapter.compare_and_set("key", [1j], 1), "the value expected at key 'key'[0]"),
        (lambda adapter: adapter.compare_and_set("key", 1, [1j]), "the value for key 'key', at value[0]"),
    ],
)
async def test_value_that_cannot_be_stored_is_named(call: Call, told: str) -> None:
    with pytest.raises(SerializationError) as raised:
        await call(InMemoryStorageAdapter())
    assert str(raised.value).startswith(f"{told}: an object of type complex cannot be stored without loss")


async def test_metadata_must_be_a_dict() -> None:
    entry = StorageEntry("key", 1, metadata=["by", "me"])  # type: ignore[arg-type]
    with pytest.raises(SerializationError) as raised:
        await InMemoryStorageAdapter().set_entry(entry)
    assert str(raised.value) == "the metadata of key 'key' must be a dict, not ['by', 'me']"


async def test_pattern_that_no_legal_key_matches_finds_nothing(storage_adapter: BaseStorageAdapter) -> None:
    await storage_adapter.set("key", 1)
    for pattern in ("\0*", "k\0*", "\ud800*", "k" * 1025, "é" * 513 + "*"):
        assert await storage_adapter.keys(pattern) == []


async def test_pattern_must_be_a_str() -> None:
    with pytest.raises(TypeError) as raised:
        await InMemoryStorageAdapter().keys(5)  # type: ignore[arg-type]
    assert str(raised.value) == "a key pattern must be a str, not int: 5"


# --- what cannot be read ----------------------------------------------------------------------------------------------

SOUND = Record("1", 0, None, "{}")
NO_JSON = "the stored text is not one of ours: Expecting value: line 1 column 1 (char 0)"


@pytest.mark.parametrize(
    ("damaged", "why"),
    [
        ({"value": "words"}, NO_JSON),
        ({"metadata": "words"}, NO_JSON),
        ({"metadata": "[]"}, "its metadata is no dict"),
        ({"created_at": 10**17}, "its times are out of range"),
        ({"expires_at": 10**17}, "its times are out of range"),
    ],
)
async def test_damaged_entry_is_named(damaged: dict[str, Any], why: str) -> None:
    store = InMemoryStore()
    store.records["shop"]["key"] = SOUND._replace(**damaged)
    adapter = InMemoryStorageAdapter(namespace="shop", store=store)
    with pytest.raises(SerializationError) as raised:
        await adapter.get_entry("key")
    assert str(raised.value) == f"the entry under key 'key' cannot be read: {why}"


# --- what others do meanwhile -----------------------------------------------------------------------------------------


async def test_write_between_look_and_exchange_is_not_lost() -> None:
    """Another thread's adapter on the same store."""

    class Overtaken(InMemoryStorageAdapter):
        async def _read(self, key: str, now: int) -> Record | None:
            seen = await super()._read(key, now)
            store.records[self.namespace][key] = SOUND._replace(value='"theirs"')
            return seen

    store = InMemoryStore()
    adapter = Overtaken(store=store)
    assert not await adapter.compare_and_set("key", ABSENT, "ours")
    assert await adapter.get("key") == "theirs"


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_default_ttl_can_be_read() -> None:
    assert InMemoryStorageAdapter(7.5).ttl_seconds == 7.5
    assert InMemoryStorageAdapter().ttl_seconds is None
