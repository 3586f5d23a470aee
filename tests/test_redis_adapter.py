"""What is special to Redis: its own time to live, what people see with ``redis-cli``, clients, options of the URL.

The contract, clusters, faults and clients that were handed in have test files of their own.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import anyio
import pytest
from freezegun.api import FrozenDateTimeFactory
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError

from taskiq_flow import clock
from taskiq_flow.exceptions import ConfigurationError, SerializationError, StorageConnectionError
from taskiq_flow.storage import RedisStorageAdapter, StorageEntry
from taskiq_flow.storage.base import ABSENT
from tests import redis_servers

DAY_MS = 24 * 60 * 60 * 1000


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_servers.standalone(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture
def url(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def raw(port: int) -> Iterator[Redis]:
    """The server itself, of this module's own, empty."""
    with Redis(port=port) as client:
        client.flushall()
        yield client


@pytest.fixture
def adapter(url: str, raw: Redis) -> Iterator[RedisStorageAdapter]:
    adapter = RedisStorageAdapter(url)
    yield adapter
    adapter.close_from_outside()


def pttl(raw: Redis, key: str = "key") -> int:
    left = raw.pttl(f"taskiq_flow:{key}")
    assert isinstance(left, int)
    return left


# --- time to live -----------------------------------------------------------------------------------------------------


async def test_set_sets_the_servers_ttl(adapter: RedisStorageAdapter, raw: Redis) -> None:
    await adapter.set("key", 1, ttl_seconds=60)
    assert 55_000 < pttl(raw) <= 60_000
    await adapter.set("key", 2)
    assert pttl(raw) == -1, "for ever again"
    expires_at = datetime.now(timezone.utc) + timedelta(seconds=30)
    await adapter.set_entry(StorageEntry("key", 3, expires_at=expires_at))
    assert 25_000 < pttl(raw) <= 30_000


async def test_exchange_sets_the_servers_ttl(adapter: RedisStorageAdapter, raw: Redis) -> None:
    assert await adapter.compare_and_set("key", ABSENT, 1, ttl_seconds=60)
    assert 55_000 < pttl(raw) <= 60_000
    assert await adapter.compare_and_set("key", 1, 2)
    assert pttl(raw) == -1, "for ever again"
    assert await adapter.compare_and_set("key", 2, ABSENT)
    assert raw.dbsize() == 0


async def test_default_ttl_reaches_the_server(url: str, raw: Redis) -> None:
    async with RedisStorageAdapter(url, ttl_seconds=7.5) as adapter:
        await adapter.set("key", 1)
    assert 5_000 < pttl(raw) <= 7_500


async def test_server_removes_expired_entries_by_itself(adapter: RedisStorageAdapter, raw: Redis) -> None:
    await adapter.set("key", 1, ttl_seconds=0.001)
    while raw.exists("taskiq_flow:key"):  # noqa: ASYNC110 - its clock is the real one: it can only be asked
        await asyncio.sleep(0.001)
    assert await adapter.cleanup() == 0


async def test_server_keeps_entries_a_day_longer_under_the_frozen_clock(
    adapter: RedisStorageAdapter, raw: Redis
) -> None:
    with clock.freeze() as frozen:
        await adapter.set("key", 1, ttl_seconds=0.05)
        assert DAY_MS < pttl(raw) <= DAY_MS + 50
        await asyncio.sleep(0.1)  # real time, on purpose: longer than the time to live
        frozen.tick(0.049)
        assert await adapter.get("key") == 1
        frozen.tick(0.001)
        assert await adapter.get("key") is None
        assert await adapter.cleanup() == 1
    assert raw.dbsize() == 0


async def test_pytest_freezer_moves_the_clock(
    adapter: RedisStorageAdapter, raw: Redis, freezer: FrozenDateTimeFactory
) -> None:
    await adapter.set("key", 1, ttl_seconds=60)
    assert pttl(raw) > DAY_MS
    freezer.tick(59.999)
    assert await adapter.get("key") == 1
    freezer.tick(0.001)
    assert await adapter.get("key") is None
    assert await adapter.keys() == []
    assert await adapter.cleanup() == 1


async def test_frozen_clock_may_be_far_from_the_servers(adapter: RedisStorageAdapter, raw: Redis) -> None:
    for year in (1971, 2200):
        with clock.freeze(f"{year}-01-01T00:00:00Z"):
            await adapter.set("key", year, ttl_seconds=60)
            assert await adapter.get("key") == year
            assert DAY_MS < pttl(raw) <= DAY_MS + 60_000


# --- what people see --------------------------------------------------------------------------------------------------


async def test_entry_is_json_that_people_can_read(adapter: RedisStorageAdapter, raw: Redis) -> None:
    with clock.freeze("2026-01-01T00:00:00Z"):
        await adapter.set("pipeline:run42:status", {"phase": "läuft", "when": (1, 2)}, ttl_seconds=3600)
    assert raw.keys() == [b"taskiq_flow:pipeline:run42:status"]
    text = raw.get("taskiq_flow:pipeline:run42:status")
    assert isinstance(text, bytes)
    assert text.decode() == (
        '{"expires_at": 1767229200000, "created_at": 1767225600000, "metadata": {}, '
        '"value": {"phase": "läuft", "when": {"$type": "tuple", "value": [1, 2]}}}'
    )
    assert json.loads(text)["value"]["phase"] == "läuft"


async def test_entry_is_one_string_of_redis(adapter: RedisStorageAdapter, raw: Redis) -> None:
    await adapter.set("key", "x" * 1_000_000)
    assert raw.type("taskiq_flow:key") == b"string"
    assert await adapter.get("key") == "x" * 1_000_000
    assert await adapter.delete("key")
    assert raw.dbsize() == 0, "nothing beside the entries is stored"


async def test_namespace_is_quoted(url: str, raw: Redis) -> None:
    async with RedisStorageAdapter(url, namespace="a/b:c é*") as adapter:
        await adapter.set("key/é:*", 1)
        assert await adapter.keys() == ["key/é:*"]
    assert raw.keys() == ["a%2Fb%3Ac%20%C3%A9%2A:key/é:*".encode()]


def test_repr_names_the_server() -> None:
    client: Any = object()
    assert repr(RedisStorageAdapter()) == "RedisStorageAdapter(redis://localhost:6379, namespace='taskiq_flow')"
    assert "(a client that was passed in, " in repr(RedisStorageAdapter(client=client))
    assert "(a client that was passed in, " in repr(RedisStorageAdapter(client_factory=lambda: client))


# --- what others do meanwhile -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["watch", "multi"])
async def test_cleanup_leaves_an_entry_that_another_writer_stores_anew(
    moment: str, adapter: RedisStorageAdapter, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker writes between the look and the leap: before the entry is watched, and after."""
    stored: list[object] = []
    step = getattr(Pipeline, moment)

    def interfere(pipe: Any, *arguments: Any) -> Any:
        stored.append(raw.set("taskiq_flow:key", rewritten or b""))
        return step(pipe, *arguments)

    with clock.freeze() as frozen:
        await adapter.set("key", "new", ttl_seconds=60)
        rewritten = raw.get("taskiq_flow:key")
        await adapter.set("key", "old", ttl_seconds=1)
        frozen.tick(1)
        monkeypatch.setattr(Pipeline, moment, interfere)
        assert await adapter.cleanup() == 0
        assert stored
        assert await adapter.get("key") == "new"


async def test_cleanups_at_once_count_each_entry_once(adapter: RedisStorageAdapter, url: str, raw: Redis) -> None:
    with clock.freeze() as frozen:
        for number in range(20):
            await adapter.set(f"key {number}", number, ttl_seconds=1)
        frozen.tick(1)
        async with RedisStorageAdapter(url) as another:
            counts = await asyncio.gather(adapter.cleanup(), another.cleanup(), adapter.cleanup())
    assert sum(counts) == 20
    assert raw.dbsize() == 0


@pytest.mark.parametrize("moment", ["watch", "multi"])
@pytest.mark.parametrize("seen", [ABSENT, "old"], ids=["absent", "old"])
async def test_exchange_that_another_writer_overtakes_changes_nothing(
    moment: str, seen: object, adapter: RedisStorageAdapter, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker writes between the look and the leap: before the entry is watched, and after."""
    step = getattr(Pipeline, moment)

    def interfere(pipe: Any, *arguments: Any) -> Any:
        raw.set("taskiq_flow:key", theirs)
        return step(pipe, *arguments)

    await adapter.set("key", "theirs", ttl_seconds=60)
    theirs: Any = raw.get("taskiq_flow:key")
    raw.flushall()
    if seen is not ABSENT:
        await adapter.set("key", seen)
    monkeypatch.setattr(Pipeline, moment, interfere)
    assert not await adapter.compare_and_set("key", seen, "ours")
    assert await adapter.get("key") == "theirs"


async def test_foreign_entries_stay(adapter: RedisStorageAdapter, raw: Redis) -> None:
    foreign = ["queue", "taskiq_flow", "taskiq_flow2:key", "taskiq_flow_:key", "xtaskiq_flow:key"]
    for name in foreign:
        raw.set(name, '{"expires_at": 1, "created_at": 0, "metadata": {}, "value": 1}')
    assert await adapter.keys() == []
    assert await adapter.cleanup() == 0
    assert raw.dbsize() == len(foreign)


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        ("theirs", "it does not begin like one"),
        ('{"expires_at": null, "created_at": 1, "metadata": {}}', "it is cut off or mixed up"),
        ('{"expires_at": null, "created_at": 1, "metadata": {}, "value": 1', "it is cut off or mixed up"),
    ],
)
async def test_error_says_what_is_wrong_with_an_entry(
    stored: str, why: str, adapter: RedisStorageAdapter, raw: Redis
) -> None:
    raw.set("taskiq_flow:key", stored)
    with pytest.raises(SerializationError) as raised:
        await adapter.get("key")
    told = "the entry under key 'key' cannot be read: it is not one of ours, or damaged"
    assert str(raised.value) == f"{told}: {why}"


async def test_foreign_name_that_is_not_utf8_stays(adapter: RedisStorageAdapter, raw: Redis) -> None:
    await adapter.set("key", 1)
    raw.set(b"taskiq_flow:\xff", "theirs")
    assert await adapter.keys() == ["key"]
    assert await adapter.cleanup() == 0
    assert raw.dbsize() == 2


# --- clients and options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query", ["", "?protocol=2", "?protocol=3", "?max_connections=1", "?decode_responses=True", "?socket_timeout=5"]
)
async def test_redis_py_options_of_the_url_work(query: str, url: str, raw: Redis) -> None:
    assert raw.dbsize() == 0
    async with RedisStorageAdapter(url + query) as adapter:
        with clock.freeze() as frozen:
            await asyncio.gather(*[adapter.set(f"schlüssel {number}", "wert", ttl_seconds=9) for number in range(20)])
            assert await asyncio.gather(*[adapter.get(f"schlüssel {number}") for number in range(20)]) == ["wert"] * 20
            assert len(await adapter.keys("schl*")) == 20
            frozen.tick(9)
            assert await adapter.cleanup() == 20


@pytest.mark.parametrize("place", ["?db=3", "3"])
async def test_database_of_the_url_is_used(place: str, url: str, port: int, raw: Redis) -> None:
    async with RedisStorageAdapter(url.removesuffix("0") + place) as adapter:
        await adapter.set("key", 1)
    assert raw.dbsize() == 0
    with Redis(port=port, db=3) as client:
        assert client.keys() == [b"taskiq_flow:key"]


@pytest.mark.parametrize("connections", [1, 3])
async def test_connections_are_limited(connections: int, url: str, raw: Redis) -> None:
    before = len(raw.client_list())
    async with RedisStorageAdapter(url, max_connections=connections) as adapter:
        await asyncio.gather(*[adapter.set(f"key {number}", number) for number in range(30)])
        assert len(raw.client_list()) - before == connections


async def test_cancelled_exchange_gives_its_connection_back(url: str, raw: Redis) -> None:
    adapter = RedisStorageAdapter(url, max_connections=1, operation_timeout=5)
    await adapter.set("key", 0)
    finished = 0
    for steps in range(40):  # of the event loop, of which an exchange takes about twenty
        with anyio.CancelScope() as scope:  # one that cancels again and again, as the adapter's own time-out does
            _count_down(steps, scope.cancel)
            finished += await adapter.compare_and_set("key", 0, 0)
        assert await adapter.get("key") == 0, "there is a connection left"
    assert 0 < finished < 40
    await adapter.aclose()


def _count_down(steps: int, then: Callable[[], None]) -> None:
    """Call something after that many steps of the event loop."""
    following = then if steps == 0 else partial(_count_down, steps - 1, then)
    asyncio.get_running_loop().call_soon(following)


async def test_given_client_is_not_closed(url: str, raw: Redis) -> None:
    assert raw.dbsize() == 0
    async with AsyncRedis.from_url(url) as client:
        async with RedisStorageAdapter(client=client, address="the application's") as adapter:
            await adapter.set("key", 1)
            opened = client.connection_pool
        assert client.connection_pool is opened
        assert await adapter.get("key") == 1
        adapter.close_from_outside()
        assert await adapter.get("key") == 1
        assert repr(adapter) == "RedisStorageAdapter(the application's, namespace='taskiq_flow')"


async def test_client_that_decodes_lists_keys_beside_foreign_entries(url: str, raw: Redis) -> None:
    raw.set("taskiq_flow:foreign", b"\xff\xfe")
    async with AsyncRedis.from_url(url, decode_responses=True) as client:
        adapter = RedisStorageAdapter(client=client)
        await adapter.set("key", 1)
        assert await adapter.keys() == ["foreign", "key"]


@pytest.mark.parametrize("query", ["", "?lib_name=mine&lib_version=7", "?protocol=3"])
@pytest.mark.filterwarnings("ignore:Call to '__init__' function with deprecated:DeprecationWarning")
async def test_connection_sends_nothing_that_it_need_not(query: str) -> None:
    heard = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while commands := await reader.read(1000):
            heard.extend(commands)
            hello = b"%1\r\n+proto\r\n:3\r\n" if b"HELLO" in commands else b""
            writer.write(hello + b"+OK\r\n" * (commands.count(b"*") - bool(hello)))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with RedisStorageAdapter(f"redis://127.0.0.1:{port}{query}") as adapter:
            await adapter.set("key", 1)
    assert b"SET" in heard
    assert (b"CLIENT" in heard) == (b"mine" in heard) == ("mine" in query), "unless told to, it does not say its name"
    assert b"MAINT_NOTIFICATIONS" not in heard
    assert (b"HELLO" in heard) == ("protocol=3" in query)


@pytest.mark.parametrize("name", ["connect_timeout", "operation_timeout"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "1", None])
def test_time_out_must_be_a_number_above_zero(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be a number of seconds above 0"):
        RedisStorageAdapter("redis://h", **{name: value})


@pytest.mark.storage_backends("redis")
async def test_exchange_whose_answer_is_lost_raises(
    storage_adapter: RedisStorageAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = Pipeline._execute_transaction

    async def lose_the_answer(pipe: Any, *arguments: Any) -> Any:
        await execute(pipe, *arguments)
        raise RedisConnectionError("the connection was lost")

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "_execute_transaction", lose_the_answer)
        with pytest.raises(StorageConnectionError, match="the connection was lost"):
            await storage_adapter.compare_and_set("key", ABSENT, 1)
    assert await storage_adapter.get("key") == 1
    assert await storage_adapter.compare_and_set("key", 1, 2), "the next call works"


@pytest.mark.parametrize(
    ("call", "commands"),
    [
        (lambda adapter: adapter.get("key"), ["GET"]),
        (lambda adapter: adapter.exists("key"), ["EXISTS"]),
        (lambda adapter: adapter.delete("key"), ["DEL"]),
        (lambda adapter: adapter.keys("k*"), ["SCAN"]),
        (lambda adapter: adapter.set("key", 2), ["SET"]),
    ],
)
async def test_call_is_one_command_while_the_clock_is_the_systems(
    call: Callable[[RedisStorageAdapter], Any], commands: list[str], adapter: RedisStorageAdapter, raw: Redis
) -> None:
    await adapter.set("key", 1, ttl_seconds=60)
    raw.config_resetstat()
    await call(adapter)
    told: Any = raw.info("commandstats")
    asked = {name.removeprefix("cmdstat_").upper(): number["calls"] for name, number in told.items()}
    assert {name: asked[name] for name in asked.keys() - {"CONFIG|RESETSTAT", "INFO"}} == dict.fromkeys(commands, 1)


async def test_servers_ttl_decides_while_the_clock_is_the_systems(adapter: RedisStorageAdapter, raw: Redis) -> None:
    """However far the clock of this machine is from the server's."""
    raw.set("taskiq_flow:key", '{"expires_at": 1000, "created_at": 0, "metadata": {}, "value": 1}', ex=60)
    assert await adapter.get("key") == 1
    assert await adapter.exists("key")
    assert await adapter.keys() == ["key"]
    assert await adapter.cleanup() == 0
    assert not await adapter.compare_and_set("key", ABSENT, 2)
    assert await adapter.delete("key")


async def test_keys_take_as_many_pages_as_they_need(url: str, raw: Redis) -> None:
    """The time-out is for each of them."""
    with raw.pipeline() as pipe:
        for number in range(5000):
            pipe.set(f"taskiq_flow:{number}", '{"expires_at": null, "created_at": 0, "metadata": {}, "value": 1}')
        pipe.execute()
    async with RedisStorageAdapter(url) as adapter:
        assert len(await adapter.keys()) == 5000


async def test_client_that_decodes_lists_keys_beside_foreign_names(
    url: str, raw: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    raw.set(b"taskiq_flow:\xff", "theirs")
    async with AsyncRedis.from_url(url, decode_responses=True) as client:
        adapter = RedisStorageAdapter(client=client)
        await adapter.set("key", 1)
        assert await adapter.keys() == ["key"]
    assert "left out 1 names that are not UTF-8 text" in caplog.text
