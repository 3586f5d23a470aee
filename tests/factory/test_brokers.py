"""What the factory learns from a broker; no server is asked."""

from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
import taskiq_redis
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection
from taskiq import AsyncBroker, BrokerMessage, InMemoryBroker

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import ConfigurationWarning
from taskiq_flow.storage import (
    InMemoryStorageAdapter,
    StorageAdapterFactory,
)
from taskiq_flow.storage.redis.broker import server_of

create = StorageAdapterFactory.create_storage_adapter


async def test_settings_hold_on_the_brokers_server() -> None:
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
async def test_brokers_address_is_shown_without_credentials(url: str, address: str) -> None:
    adapter: Any = create(broker=taskiq_redis.ListQueueBroker(url))
    assert repr(adapter) == f"RedisStorageAdapter({address} (the broker's), namespace='taskiq_flow')"
    client = await adapter._client()
    assert client.connection_pool.timeout is None, "it is the adapter that gives up"
    await adapter.aclose()


async def test_sentinels_are_those_of_the_broker() -> None:
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
async def test_tls_is_that_of_the_sentinel_broker(ssl: bool) -> None:
    broker = taskiq_redis.ListQueueSentinelBroker([("a", 1)], "main", ssl=ssl)
    adapter: Any = create(broker=broker)
    pool = (await adapter._client()).connection_pool
    assert issubclass(pool.connection_class, SSLConnection) == ssl
    await adapter.aclose()


@pytest.mark.parametrize(
    ("url", "query", "address"), [("redis://u:secret@h:1", "", "redis"), ("rediss://u:secret@h:1", "none", "rediss")]
)
async def test_cluster_nodes_are_those_of_the_broker(url: str, query: str, address: str) -> None:
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
async def test_protocol_is_that_of_the_broker(make: Callable[[], Any]) -> None:
    server = server_of(make(), 1.5)
    assert server is not None
    client: Any = server.make_client()
    settings = (
        client.connection_kwargs if hasattr(client, "nodes_manager") else client.connection_pool.connection_kwargs
    )
    assert str(settings["protocol"]) == "3"
    await client.aclose()


def test_broker_is_known_by_its_package() -> None:
    pool = taskiq_redis.ListQueueBroker("redis://h:1/2").connection_pool
    moved = type("Moved", (InMemoryBroker,), {"__module__": "taskiq_redis.brokers.moved", "connection_pool": pool})
    assert "(redis://h:1/2 (the broker's), " in repr(create(broker=moved()))


def test_connection_pool_of_another_broker_is_ignored() -> None:
    class Another(InMemoryBroker):
        connection_pool = "of something else"

    assert isinstance(create(broker=Another()), InMemoryStorageAdapter)


def test_other_brokers_lead_to_memory() -> None:
    assert isinstance(create(broker=InMemoryBroker()), InMemoryStorageAdapter)
    assert isinstance(create(broker=object()), InMemoryStorageAdapter)


def test_settings_take_precedence_over_the_broker() -> None:
    broker = taskiq_redis.ListQueueBroker("redis://h")
    assert isinstance(create(TaskiqFlowConfig(storage_url="memory://"), broker), InMemoryStorageAdapter)
    assert "elsewhere" in repr(create(TaskiqFlowConfig(storage_redis_url="redis://elsewhere"), broker))


class SendsElsewhere(AsyncBroker):
    """A broker whose tasks run in other processes."""

    async def kick(self, message: BrokerMessage) -> None:
        """Send nothing."""

    async def listen(self) -> AsyncGenerator[bytes, None]:
        """Receive nothing."""
        yield b""


def test_memory_for_a_broker_that_sends_elsewhere_is_warned_of_once() -> None:
    broker = SendsElsewhere()
    with pytest.warns(ConfigurationWarning) as caught:
        assert isinstance(create(broker=broker), InMemoryStorageAdapter)
    [warning] = caught
    assert str(warning.message).startswith("no storage is configured, so entries are kept in this process's memory")
    assert "SendsElsewhere" in str(warning.message)
    assert "set TASKIQ_FLOW_STORAGE_URL" in str(warning.message)
    assert warning.filename == __file__
    create(broker=broker)
    with pytest.warns(ConfigurationWarning) as caught:
        StorageAdapterFactory.create_default_middlewares(TaskiqFlowConfig(cache_type="redis"), SendsElsewhere())
    assert len(caught) == 1


@pytest.mark.parametrize(
    "settings", [{"storage_type": "memory"}, {"storage_url": "memory://"}, {"storage_url": "redis://h"}]
)
def test_storage_that_was_asked_for_is_not_warned_of(settings: dict[str, Any]) -> None:
    create(TaskiqFlowConfig(**settings), SendsElsewhere())
