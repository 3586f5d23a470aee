"""The factory: what settings, arguments and brokers lead to."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
import taskiq_redis
from redis import Redis
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection
from redis.cluster import RedisCluster
from taskiq import AsyncBroker, InMemoryBroker

from taskiq_flow import clock
from taskiq_flow.cache import InMemoryCacheAdapter, RedisCacheAdapter, StorageCacheAdapter
from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import (
    ConfigurationError,
    InvalidTTLError,
    MissingDependencyError,
    StorageConnectionError,
)
from taskiq_flow.storage import (
    BaseStorageAdapter,
    InMemoryStorageAdapter,
    RedisStorageAdapter,
    SQLAlchemyStorageAdapter,
    StorageAdapterFactory,
)
from taskiq_flow.storage.redis.broker import server_of
from tests import redis_servers
from tests.contract.test_clocks import SixMethods
from tests.redis_servers import PASSWORD

create = StorageAdapterFactory.create_storage_adapter


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in os.environ:
        if name.startswith("TASKIQ_FLOW_STORAGE"):
            monkeypatch.delenv(name)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "kind", "address"),
    [
        ("memory://", InMemoryStorageAdapter, "memory://"),
        ("memory://shared", InMemoryStorageAdapter, "memory://shared"),
        ("redis://h:1/2", RedisStorageAdapter, "redis://h:1/2"),
        ("rediss://u:secret@h:1/2", RedisStorageAdapter, "rediss://u:***@h:1/2"),
        ("valkey://h:1", RedisStorageAdapter, "valkey://h:1"),
        ("redis+cluster://h:1", RedisStorageAdapter, "redis+cluster://h:1"),
        ("unix:///run/redis.sock?db=1&password=secret", RedisStorageAdapter, "unix:///run/redis.sock?***"),
        ("sqlite:///a.db", SQLAlchemyStorageAdapter, "sqlite+aiosqlite:///a.db"),
        ("sqlite+aiosqlite:///a.db", SQLAlchemyStorageAdapter, "sqlite+aiosqlite:///a.db"),
        ("postgres://u:secret@h/db", SQLAlchemyStorageAdapter, "postgresql+asyncpg://u:***@h/db"),
        ("postgresql+asyncpg://u:secret@h/db?ssl=x", SQLAlchemyStorageAdapter, "postgresql+asyncpg://u:***@h/db"),
    ],
)
def test_url_chooses_by_its_scheme(
    url: str, kind: type[BaseStorageAdapter], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_URL", url)
    adapter = create()
    assert isinstance(adapter, kind)
    assert repr(adapter) == f"{kind.__name__}({address}, namespace='taskiq_flow')"
    assert "secret" not in repr(TaskiqFlowConfig()) + str(TaskiqFlowConfig())


def test_environment_reaches_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TTL_SECONDS": "90.5", "NAMESPACE": "shop", "TABLE": "results", "URL": "sqlite:///x"}.items():
        monkeypatch.setenv(f"TASKIQ_FLOW_STORAGE_{name}", value)
    adapter = create()
    assert isinstance(adapter, SQLAlchemyStorageAdapter)
    assert (adapter.ttl_seconds, adapter.namespace, adapter._statements.table.name) == (90.5, "shop", "results")


def test_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_URL", "")
    assert isinstance(create(), InMemoryStorageAdapter)


def test_nearest_says_last() -> None:
    config = TaskiqFlowConfig(storage_url="sqlite:///x", storage_ttl_seconds=1)
    assert isinstance(create(config, redis_url="redis://h"), RedisStorageAdapter)
    assert create(config, ttl_seconds=2).ttl_seconds == 2
    assert create(config).ttl_seconds == 1
    assert config.storage_ttl_seconds == 1, "the settings themselves stay as they were"
    assert isinstance(create(TaskiqFlowConfig(storage_type="redis"), type="memory"), InMemoryStorageAdapter)


def test_type_of_the_call_decides_which_url_counts() -> None:
    config = TaskiqFlowConfig(storage_type="redis", storage_redis_url="redis://h/1")
    assert isinstance(create(config, type="memory"), InMemoryStorageAdapter)
    assert isinstance(create(config, type="sqlite"), SQLAlchemyStorageAdapter)
    config = TaskiqFlowConfig(storage_type="memory", storage_redis_url="redis://h/1")
    assert isinstance(create(config), InMemoryStorageAdapter)
    for kind in ("redis", "auto"):
        assert "redis://h/1" in repr(create(config, type=kind)), "and not the default of localhost"


@pytest.mark.parametrize("url", ["memory://", "redis://h", "sqlite:///x", "postgresql://h/x"])
def test_default_time_to_live_is_the_same_everywhere(url: str) -> None:
    assert create(TaskiqFlowConfig(storage_url=url)).ttl_seconds is None
    assert create(TaskiqFlowConfig(storage_url=url, storage_ttl_seconds=60)).ttl_seconds == 60
    with pytest.raises(InvalidTTLError, match="ttl_seconds must be above 0"):
        create(TaskiqFlowConfig(storage_url=url), ttl_seconds=0)


@pytest.mark.parametrize(
    ("settings", "arguments", "address"),
    [
        ({"storage_url": "memory://"}, {"type": "memory"}, "memory://"),
        ({"storage_url": "memory://a://b"}, {}, "memory://a://b"),
        ({"storage_url": "sqlite:///x"}, {"type": "sqlite"}, "sqlite+aiosqlite:///x"),
        ({"storage_url": "postgresql://h/d"}, {"type": "sqlalchemy"}, "postgresql+asyncpg://h/d"),
        ({}, {"type": "sqlite"}, "sqlite+aiosqlite:///taskiq-flow.db"),
        ({}, {"type": "sqlalchemy"}, "sqlite+aiosqlite:///taskiq-flow.db"),
        ({}, {"type": "redis"}, "redis://localhost:6379"),
        ({}, {"type": "redis", "redis_url": "redis://h"}, "redis://h"),
    ],
)
def test_a_type_and_what_fits_it(settings: dict[str, Any], arguments: dict[str, Any], address: str) -> None:
    adapter = create(TaskiqFlowConfig(**settings), **arguments)
    assert repr(adapter) == f"{type(adapter).__name__}({address}, namespace='taskiq_flow')"


async def test_a_memory_without_a_name_is_shared_with_nobody() -> None:
    one, another = (create(TaskiqFlowConfig(storage_url="memory://")) for _ in range(2))
    await one.set("key", 1)
    assert await another.keys() == []


@pytest.mark.parametrize("url", ["redis://h", "sqlite:///x"])
def test_time_outs_reach_the_adapter(url: str) -> None:
    config = TaskiqFlowConfig(storage_url=url, storage_connect_timeout=1.5, storage_operation_timeout=2.5)
    adapter: Any = create(config)
    assert adapter._operation_timeout == 2.5
    if isinstance(adapter, SQLAlchemyStorageAdapter):
        assert adapter._connect_timeout == 1.5


# --- caches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://shared", InMemoryCacheAdapter),
        ("redis://h", RedisCacheAdapter),
        ("sqlite:///x", StorageCacheAdapter),
    ],
)
async def test_a_cache_is_on_the_storage_that_is_chosen(
    url: str, kind: type[StorageCacheAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TaskiqFlowConfig(storage_url=url, storage_namespace="shop")
    cache: Any = StorageAdapterFactory.create_cache_adapter(config, default_ttl=7, lock_timeout=3)
    assert type(cache) is kind
    assert (cache.default_ttl, cache.lock_timeout) == (7, 3)
    assert repr(cache.storage) == repr(create(config))

    closed = []

    async def note() -> None:
        closed.append(cache.storage)

    monkeypatch.setattr(cache.storage, "aclose", note)
    await cache.aclose()
    assert closed == [cache.storage], "it is the cache's own"


def test_a_cache_without_more_ado() -> None:
    in_memory: Any = StorageAdapterFactory.create_cache_adapter(TaskiqFlowConfig())
    on_redis: Any = StorageAdapterFactory.create_cache_adapter(TaskiqFlowConfig(), redis_url="redis://h")
    for cache in (in_memory, on_redis):
        assert (cache.default_ttl, cache.lock_timeout) == (3600, 10)
    assert repr(on_redis.storage) == "RedisStorageAdapter(redis://h, namespace='taskiq_flow')"


def test_a_cache_on_the_brokers_server() -> None:
    cache = StorageAdapterFactory.create_cache_adapter(broker=taskiq_redis.ListQueueBroker("redis://h:1/2"))
    assert isinstance(cache, RedisCacheAdapter)
    assert "(redis://h:1/2 (the broker's), " in repr(cache.storage)


def test_a_cache_on_a_storage_of_somebody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StorageAdapterFactory, "_builders", dict(StorageAdapterFactory._builders))
    StorageAdapterFactory.register_scheme("dict", lambda _url, _config: SixMethods(clock.now_ms, {}))
    cache = StorageAdapterFactory.create_cache_adapter(TaskiqFlowConfig(storage_url="dict://"))
    assert type(cache) is StorageCacheAdapter
    assert isinstance(cache.storage, SixMethods)


async def test_the_default_middlewares_share_one_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = StorageAdapterFactory.create_default_middlewares(
        TaskiqFlowConfig(storage_namespace="shop"), taskiq_redis.ListQueueBroker("redis://h:1/2")
    )
    assert {name: type(middleware).__name__ for name, middleware in made.items()} == {
        "storage": "StorageMiddleware",
        "cache": "CacheMiddleware",
    }
    storage, cache = made["storage"].storage, made["cache"].cache
    assert repr(storage) == "RedisStorageAdapter(redis://h:1/2 (the broker's), namespace='shop')"
    assert cache.storage is storage
    assert cache.lock_timeout == 300

    closed = []

    async def note() -> None:
        closed.append(storage)

    monkeypatch.setattr(storage, "aclose", note)
    for middleware in made.values():
        await middleware.shutdown()
    assert closed == [storage], "once, by the one that owns it"


# --- what is told -----------------------------------------------------------------------------------------------------


def test_schemes_that_are_known_are_listed() -> None:
    with pytest.raises(ConfigurationError) as raised:
        create(TaskiqFlowConfig(storage_url="dynamo://h"))
    known = ", ".join(f"{scheme}://" for scheme in sorted(StorageAdapterFactory._builders))
    assert str(raised.value) == (
        f"the storage URL 'dynamo://h' has an unknown scheme; known schemes: {known}, and any other of SQLAlchemy's"
    )


def test_a_dialect_of_sqlalchemys_is_known() -> None:
    config = TaskiqFlowConfig(storage_url="mssql+pymssql://u:secret@h/d", storage_async_mode=False)
    with pytest.raises(MissingDependencyError, match=r"^mssql\+pymssql:// needs 'pymssql', which is not installed"):
        create(config)


@pytest.mark.parametrize(
    ("settings", "arguments", "words"),
    [
        ({"storage_type": "mongo"}, {}, ["'mongo'", "auto, memory, redis, sqlite, sqlalchemy"]),
        ({}, {"type": "mongo"}, ["'mongo'", "auto, memory, redis, sqlite, sqlalchemy"]),
        ({"storage_url": "dynamo://u:secret@h"}, {}, ["dynamo://u:***@h", "memory://", "redis://", "sqlite://"]),
        ({"storage_url": "localhost"}, {}, ["'localhost'", "known schemes"]),
        ({"storage_type": "redis", "storage_url": "sqlite:///x"}, {}, ["'redis'", "sqlite:///x"]),
        ({"storage_type": "memory", "storage_url": "redis://h"}, {}, ["'memory'", "redis://h"]),
        ({"storage_type": "sqlite", "storage_url": "postgresql://h/d"}, {}, ["'sqlite'", "postgresql://h/d"]),
        (
            {"storage_url": "sqlite:///x", "storage_redis_url": "redis://:secret@h"},
            {},
            ["storage_url (sqlite:///x) and storage_redis_url (redis://:***@h) are both set and differ: set only one"],
        ),
        ({"storage_type": "sqlite"}, {"redis_url": "redis://h"}, ["redis_url", "'sqlite'"]),
        ({}, {"redis_url": "http://u:secret@h"}, ["http://u:***@h"]),
        ({}, {"redis_url": "sqlite:///x"}, ["sqlite:///x", "Redis"]),
        ({}, {"redis_url": "memory://"}, ["memory://", "Redis"]),
        ({"storage_redis_url": "postgresql://u:secret@h/d"}, {}, ["postgresql://u:***@h/d", "Redis"]),
        ({"storage_type": "redis", "storage_redis_url": "sqlite:///x"}, {}, ["sqlite:///x", "'redis'"]),
        ({"storage_type": "redis", "storage_url": "dynamo://h"}, {}, ["dynamo://h", "known schemes"]),
        ({"storage_url": "postgresql+asyncpg://h/d", "storage_async_mode": False}, {}, ["asyncpg", "psycopg"]),
        ({"storage_namespace": ""}, {}, ["namespace", "empty"]),
    ],
)
def test_unusable_settings_are_told(settings: dict[str, Any], arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        create(TaskiqFlowConfig(**settings), **arguments)
    for word in words:
        assert word in str(raised.value)
    assert "secret" not in str(raised.value)


def test_misspelt_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="storage_urll"):
        TaskiqFlowConfig(storage_urll="redis://:secret@h")  # type: ignore[call-arg] # the mistake is the point


# --- schemes of others ------------------------------------------------------------------------------------------------


def test_a_scheme_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StorageAdapterFactory, "_builders", dict(StorageAdapterFactory._builders))

    def build(url: str, config: TaskiqFlowConfig) -> BaseStorageAdapter:
        assert url == "dynamo://table"
        return InMemoryStorageAdapter(config.storage_ttl_seconds, namespace=config.storage_namespace)

    StorageAdapterFactory.register_scheme("dynamo", build)
    StorageAdapterFactory.register_scheme("dynamo", build)
    assert "dynamo" in StorageAdapterFactory.known_schemes()
    adapter = create(TaskiqFlowConfig(storage_url="dynamo://table", storage_namespace="shop"), ttl_seconds=5)
    assert adapter.ttl_seconds == 5

    with pytest.raises(ConfigurationError, match="'dynamo' is registered already"):
        StorageAdapterFactory.register_scheme("dynamo", lambda _url, _config: adapter)
    with pytest.raises(ConfigurationError, match="'redis' is registered already"):
        StorageAdapterFactory.register_scheme("redis", build)
    with pytest.raises(ConfigurationError, match="'Dynamo DB' is not a URL scheme"):
        StorageAdapterFactory.register_scheme("Dynamo DB", build)
    for scheme in ("", "X", "dynamo:"):
        with pytest.raises(ConfigurationError, match="is not a URL scheme"):
            StorageAdapterFactory.register_scheme(scheme, build)


def test_a_scheme_with_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StorageAdapterFactory, "_builders", dict(StorageAdapterFactory._builders))
    any_driver, fast = InMemoryStorageAdapter(namespace="any"), InMemoryStorageAdapter(namespace="fast")
    StorageAdapterFactory.register_scheme("dynamo", lambda _url, _config: any_driver)
    StorageAdapterFactory.register_scheme("dynamo+fast", lambda _url, _config: fast)
    for url, adapter in (
        ("dynamo://t", any_driver),
        ("dynamo+slow://t", any_driver),
        ("dynamo+slow+old://t", any_driver),
        ("dynamo+fast://t", fast),
    ):
        assert create(TaskiqFlowConfig(storage_url=url)) is adapter


# --- missing packages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "url", "extra"),
    [("redis", "redis://h", "redis"), ("asyncpg", "postgresql://h/d", "postgres"), ("asyncmy", "mysql://h/d", "mysql")],
)
def test_missing_package_names_the_extra(missing: str, url: str, extra: str) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import MissingDependencyError
from taskiq_flow.storage import StorageAdapterFactory
try:
    StorageAdapterFactory.create_storage_adapter(TaskiqFlowConfig(storage_url={url!r}))
except MissingDependencyError as error:
    assert isinstance(error, ImportError)
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert f'pip install "taskiq-flow-kit[{extra}]"' in done.stdout
    assert missing in done.stdout


# --- brokers ----------------------------------------------------------------------------------------------------------


async def test_what_the_settings_say_holds_on_the_brokers_server_too() -> None:
    broker = taskiq_redis.ListQueueBroker("redis://h:1/2")
    config = TaskiqFlowConfig(
        storage_namespace="shop",
        storage_ttl_seconds=60,
        storage_connect_timeout=1.5,
        storage_operation_timeout=2.5,
    )
    adapter: Any = create(config, broker=broker)
    assert repr(adapter) == "RedisStorageAdapter(redis://h:1/2 (the broker's), namespace='shop')"
    assert (adapter.ttl_seconds, adapter._operation_timeout) == (60, 2.5)
    client = await adapter._client()
    assert client.connection_pool.connection_kwargs["socket_connect_timeout"] == 1.5
    await adapter.aclose()
    assert isinstance(create(config, broker=broker, type="memory"), InMemoryStorageAdapter)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", "redis://localhost:6379/0"),
        ("redis://u:secret@h:1/2", "redis://h:1/2"),
        ("rediss://h", "rediss://h:6379/0"),
        ("unix:///run/redis.sock", "redis:///run/redis.sock/0"),
    ],
)
async def test_how_a_brokers_server_is_called(url: str, address: str) -> None:
    adapter: Any = create(broker=taskiq_redis.ListQueueBroker(url))
    assert repr(adapter) == f"RedisStorageAdapter({address} (the broker's), namespace='taskiq_flow')"
    client = await adapter._client()
    assert client.connection_pool.timeout is None, "it is the adapter that gives up"
    await adapter.aclose()


async def test_how_a_brokers_sentinels_are_asked() -> None:
    broker = taskiq_redis.ListQueueSentinelBroker(
        [("a", 1), ("b", 2)], "main", min_other_sentinels=1, sentinel_kwargs={"password": "of the sentinels"}, db=3
    )
    adapter: Any = create(TaskiqFlowConfig(storage_connect_timeout=1.5), broker=broker)
    assert repr(adapter) == "RedisStorageAdapter(sentinel://a:1,b:2/main (the broker's), namespace='taskiq_flow')"
    pool = (await adapter._client()).connection_pool
    manager = pool.sentinel_manager
    assert pool.service_name == "main"
    assert manager.min_other_sentinels == 1
    assert (pool.connection_kwargs["db"], pool.connection_kwargs["socket_connect_timeout"]) == (3, 1.5)
    for sentinel in manager.sentinels:
        settings = sentinel.connection_pool.connection_kwargs
        assert (settings["password"], settings["socket_connect_timeout"]) == ("of the sentinels", 1.5)
    await adapter.aclose()


@pytest.mark.parametrize("ssl", [True, False])
async def test_tls_of_a_sentinel_broker_is_that_of_the_storage(ssl: bool) -> None:
    broker = taskiq_redis.ListQueueSentinelBroker([("a", 1)], "main", ssl=ssl)
    adapter: Any = create(broker=broker)
    pool = (await adapter._client()).connection_pool
    assert issubclass(pool.connection_class, SSLConnection) == ssl
    await adapter.aclose()


@pytest.mark.parametrize(
    ("url", "query", "address"), [("redis://u:secret@h:1", "", "redis"), ("rediss://u:secret@h:1", "none", "rediss")]
)
async def test_how_a_brokers_cluster_is_called(url: str, query: str, address: str) -> None:
    broker = taskiq_redis.ListQueueClusterBroker(url + (f"?ssl_cert_reqs={query}" if query else ""))
    broker.redis.nodes_manager.startup_nodes["i:2"] = ClusterNode("i", 2)
    adapter: Any = create(TaskiqFlowConfig(storage_connect_timeout=1.5), broker=broker)
    assert repr(adapter) == (
        f"RedisStorageAdapter({address}+cluster://h:1,i:2 (the broker's), namespace='taskiq_flow')"
    )
    client = server_of(broker, 1.5).make_client()  # type: ignore[union-attr] # it is one of taskiq-redis
    settings = client.connection_kwargs
    assert sorted(client.nodes_manager.startup_nodes) == ["h:1", "i:2"]
    assert (settings["username"], settings["password"]) == ("u", "secret")
    assert (settings["socket_connect_timeout"], client.reinitialize_steps) == (1.5, 0)
    assert (settings.get("connection_class") is SSLConnection) == bool(query)
    assert settings.get("ssl_cert_reqs", "") == query
    await client.aclose()
    await broker.redis.aclose()


@pytest.mark.parametrize(
    "make",
    [
        lambda: taskiq_redis.ListQueueBroker("redis://h?protocol=3"),
        lambda: taskiq_redis.ListQueueSentinelBroker([("a", 1)], "main", protocol=3),
        lambda: taskiq_redis.ListQueueClusterBroker("redis://h:1?protocol=3"),
    ],
    ids=["standalone", "sentinel", "cluster"],
)
async def test_the_protocol_is_the_brokers(make: Callable[[], Any]) -> None:
    server = server_of(make(), 1.5)
    assert server is not None
    client: Any = server.make_client()
    settings = (
        client.connection_kwargs if hasattr(client, "nodes_manager") else client.connection_pool.connection_kwargs
    )
    assert str(settings["protocol"]) == "3"
    await client.aclose()


def test_a_broker_is_known_wherever_in_taskiq_redis_it_is() -> None:
    pool = taskiq_redis.ListQueueBroker("redis://h:1/2").connection_pool
    moved = type("Moved", (InMemoryBroker,), {"__module__": "taskiq_redis.brokers.moved", "connection_pool": pool})
    assert "(redis://h:1/2 (the broker's), " in repr(create(broker=moved()))


def test_a_broker_of_somebody_elses_says_nothing() -> None:
    class Another(InMemoryBroker):
        connection_pool = "of something else"

    assert isinstance(create(broker=Another()), InMemoryStorageAdapter)


# --- the brokers of taskiq-redis, on real servers ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("redis")
    with redis_servers.standalone(folder, f"requirepass {PASSWORD}", password=PASSWORD) as port:
        yield port


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    with redis_servers.cluster(tmp_path_factory.mktemp("cluster")) as ports:
        yield ports


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    with redis_servers.sentinel(tmp_path_factory.mktemp("sentinel"), "mymaster") as ports:
        yield ports


def use_storage_of(broker: AsyncBroker, keys: int = 20) -> None:
    """Use an adapter on a broker's server, on two event loops, beside the broker's own connections."""
    adapter = create(TaskiqFlowConfig(storage_connect_timeout=15), broker)
    assert isinstance(adapter, RedisStorageAdapter)
    assert PASSWORD not in repr(adapter)
    assert "the broker's" in repr(adapter)
    numbers = {f"key {number}": number for number in range(keys)}

    async def first() -> None:
        await asyncio.gather(*[adapter.set(key, number, ttl_seconds=60) for key, number in numbers.items()])

    async def second() -> None:
        assert await adapter.keys() == sorted(numbers)
        assert {key: await adapter.get(key) for key in numbers} == numbers
        assert await adapter.cleanup() == 0
        assert await adapter.delete("key 0")

    asyncio.run(first())
    asyncio.run(second())


@pytest.mark.parametrize("name", ["ListQueueBroker", "PubSubBroker", "RedisStreamBroker"])
def test_standalone_broker(name: str, server: int) -> None:
    database = ["ListQueueBroker", "PubSubBroker", "RedisStreamBroker"].index(name) + 1
    broker = getattr(taskiq_redis, name)(f"redis://:{PASSWORD}@127.0.0.1:{server}/{database}")
    use_storage_of(broker)
    with Redis(port=server, password=PASSWORD, db=database) as client:
        assert len(client.keys("taskiq_flow:*")) == 19
        assert 50_000 < int(client.pttl("taskiq_flow:key 1")) <= 60_000


def test_brokers_client_options_do_not_matter(server: int) -> None:
    use_storage_of(
        taskiq_redis.ListQueueBroker(
            f"redis://:{PASSWORD}@127.0.0.1:{server}/9", max_connection_pool_size=1, decode_responses=True
        )
    )


@pytest.mark.parametrize("name", ["ListQueueSentinelBroker", "PubSubSentinelBroker", "RedisStreamSentinelBroker"])
def test_sentinel_broker(name: str, sentinel: tuple[int, int]) -> None:
    watcher, master = sentinel
    database = ["ListQueueSentinelBroker", "PubSubSentinelBroker", "RedisStreamSentinelBroker"].index(name) + 1
    use_storage_of(getattr(taskiq_redis, name)([("127.0.0.1", watcher)], "mymaster", password=PASSWORD, db=database))
    with Redis(port=master, password=PASSWORD, db=database) as client:
        assert len(client.keys("taskiq_flow:*")) == 19


@pytest.mark.parametrize("name", ["ListQueueClusterBroker", "RedisStreamClusterBroker"])
def test_cluster_broker(name: str, cluster: list[int]) -> None:
    use_storage_of(getattr(taskiq_redis, name)(f"redis://127.0.0.1:{cluster[0]}"))
    held = []
    for port in cluster:
        with Redis(port=port) as client:
            held.append(len(client.keys("taskiq_flow:*")))
    assert sum(held) == 19
    assert all(held), "every node should hold a part"
    with RedisCluster("127.0.0.1", cluster[0]) as client:
        for number in range(20):
            client.delete(f"taskiq_flow:key {number}")


class Tls(NamedTuple):
    """A certificate of the tests' own: how a server uses it, and how a client trusts it."""

    server: list[str]
    client: dict[str, Any]
    authority: Path


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    trustme = pytest.importorskip("trustme", reason="trustme makes the certificates")
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "server.pem")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    server = [
        "port 0",
        "tls-port {port}",
        f"tls-ca-cert-file {folder / 'ca.pem'}",
        f"tls-cert-file {folder / 'server.pem'}",
        f"tls-key-file {folder / 'server.key'}",
        "tls-auth-clients no",
        f"requirepass {PASSWORD}",
    ]
    client = {"ssl": True, "ssl_ca_certs": str(folder / "ca.pem"), "password": PASSWORD, "host": "127.0.0.1"}
    return Tls(server, client, folder / "ca.pem")


@pytest.fixture(scope="module")
def tls_server(tls: Tls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_servers.standalone(tmp_path_factory.mktemp("redis-tls"), *tls.server, **tls.client) as port:
        yield port


# Few keys at once: for each connection redis-py reads the system's certificates anew, and the event loop waits.
@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("ssl_ca_certs={authority}", {}),
        ("ssl_cert_reqs=none", {}),
        ("", {"ssl_cert_reqs": None}),
        ("ssl_ca_certs={authority}&ssl_check_hostname=false", {"username": "default"}),
    ],
)
def test_broker_with_tls(query: str, options: dict[str, Any], tls: Tls, tls_server: int) -> None:
    url = f"rediss://:{PASSWORD}@127.0.0.1:{tls_server}/2?{query.format(authority=tls.authority)}"
    use_storage_of(taskiq_redis.ListQueueBroker(url, **options), keys=4)
    with Redis(port=tls_server, db=2, **tls.client) as client:
        assert len(client.keys("taskiq_flow:*")) == 3


def test_certificate_that_the_broker_would_not_trust_is_not_trusted(tls_server: int) -> None:
    broker = taskiq_redis.ListQueueBroker(f"rediss://:{PASSWORD}@127.0.0.1:{tls_server}")
    with pytest.raises(StorageConnectionError, match="certificate verify failed"):
        asyncio.run(create(broker=broker).get("key"))


def test_cluster_broker_with_tls_and_password(tls: Tls, tmp_path: Path) -> None:
    settings = [*tls.server, "tls-cluster yes", f"masterauth {PASSWORD}"]
    with redis_servers.cluster(tmp_path, *settings, **tls.client) as ports:
        url = f"rediss://:{PASSWORD}@127.0.0.1:{ports[0]}?ssl_ca_certs={tls.authority}"
        use_storage_of(taskiq_redis.ListQueueClusterBroker(url), keys=4)


def test_cluster_broker_that_reaches_its_nodes_by_other_addresses(cluster: list[int]) -> None:
    asked = []

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        asked.append(address)
        return address

    use_storage_of(taskiq_redis.ListQueueClusterBroker(f"redis://127.0.0.1:{cluster[0]}", address_remap=remap), keys=4)
    assert asked


def test_broker_with_a_user_of_its_own(server: int) -> None:
    with Redis(port=server, password=PASSWORD) as admin:
        may = {"keys": ["taskiq_flow:*"], "commands": ["+@all"]}
        admin.acl_setuser("worker", enabled=True, passwords=["+of the worker"], **may)
        use_storage_of(taskiq_redis.ListQueueBroker(f"redis://worker:of%20the%20worker@127.0.0.1:{server}/4"), keys=4)


def test_broker_on_a_unix_socket() -> None:
    with TemporaryDirectory() as folder:  # the path of a socket must be short
        path = Path(folder) / "s"
        with redis_servers.standalone(Path(folder) / "server", f"unixsocket {path}"):
            broker = taskiq_redis.ListQueueBroker(f"unix://{path}?db=3")
            use_storage_of(broker, keys=4)
            with Redis(unix_socket_path=str(path), db=3) as client:
                assert len(client.keys("taskiq_flow:*")) == 3


def test_other_brokers_say_nothing_of_redis() -> None:
    assert isinstance(create(broker=InMemoryBroker()), InMemoryStorageAdapter)
    assert isinstance(create(broker=object()), InMemoryStorageAdapter)


def test_settings_go_before_the_broker() -> None:
    broker = taskiq_redis.ListQueueBroker("redis://h")
    assert isinstance(create(TaskiqFlowConfig(storage_url="memory://"), broker), InMemoryStorageAdapter)
    assert "elsewhere" in repr(create(TaskiqFlowConfig(storage_redis_url="redis://elsewhere"), broker))
    assert "elsewhere" in repr(create(broker=broker, redis_url="redis://elsewhere"))
