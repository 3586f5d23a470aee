"""The brokers of taskiq-redis, on real servers."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
import taskiq_redis
from redis import Redis
from redis.cluster import RedisCluster
from taskiq import AsyncBroker

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import (
    StorageConnectionError,
)
from taskiq_flow.storage import (
    RedisStorageAdapter,
    StorageAdapterFactory,
)
from tests import redis_servers
from tests.redis_servers import PASSWORD

create = StorageAdapterFactory.create_storage_adapter


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
