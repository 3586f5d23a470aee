"""Which Redis server a taskiq-redis broker talks to, so that its storage can be there too.

Its connections are not shared: they belong to one event loop, may decode responses, and a worker's listener blocks on
them. The same server, database, credentials and TLS settings are used for connections of our own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection

from taskiq_flow.storage.redis.clients import client_options, cluster_client_options

__all__ = ["BrokerServer", "server_of"]

_IDENTITY = {"host", "port", "path", "db", "username", "password", "credential_provider", "protocol"}


class BrokerServer(NamedTuple):
    """Where a broker's Redis is: for messages, and as a maker of clients."""

    address: str
    make_client: Callable[[], Any]


def server_of(broker: Any, connect_timeout: float) -> BrokerServer | None:
    """Return the server of a list, pub/sub or stream broker of taskiq-redis: standalone, Sentinel or cluster.

    :param connect_timeout: seconds, for the clients that are made.
    :return: None where the broker is none of these.
    """
    options = client_options(connect_timeout)
    if (pool := getattr(broker, "connection_pool", None)) is not None:
        return _standalone(pool, options)
    if (sentinel := getattr(broker, "sentinel", None)) is not None:
        return _behind_sentinel(sentinel, broker.master_name, options)
    if isinstance(cluster := getattr(broker, "redis", None), RedisCluster):
        return _cluster(cluster, cluster_client_options(connect_timeout))
    return None


def _standalone(pool: Any, options: dict[str, Any]) -> BrokerServer:
    identity = _identity(pool.connection_kwargs)

    def make() -> Redis:
        return Redis.from_pool(
            BlockingConnectionPool(connection_class=pool.connection_class, timeout=None, **options | identity)
        )

    scheme = "rediss" if issubclass(pool.connection_class, SSLConnection) else "redis"
    place = identity.get("path") or f"{identity.get('host', 'localhost')}:{identity.get('port', 6379)}"
    return BrokerServer(f"{scheme}://{place}/{identity.get('db', 0)} (the broker's)", make)


def _behind_sentinel(sentinel: Any, master_name: str, options: dict[str, Any]) -> BrokerServer:
    places = [client.connection_pool.connection_kwargs for client in sentinel.sentinels]
    addresses = [(place["host"], place["port"]) for place in places]
    identity = {**_identity(sentinel.connection_kwargs), **_flags(sentinel.connection_kwargs)}

    def make() -> Any:
        ours: Any = Sentinel(  # type: ignore[no-untyped-call] # redis-py leaves this constructor untyped
            addresses,
            min_other_sentinels=sentinel.min_other_sentinels,
            sentinel_kwargs={**options, **sentinel.sentinel_kwargs},
            **options | identity,
        )
        return ours.master_for(master_name)

    shown = ",".join(f"{host}:{port}" for host, port in addresses)
    return BrokerServer(f"sentinel://{shown}/{master_name} (the broker's)", make)


def _cluster(cluster: Any, options: dict[str, Any]) -> BrokerServer:
    nodes = [(node.host, node.port) for node in cluster.nodes_manager.startup_nodes.values()]
    identity = _identity(cluster.connection_kwargs)
    tls = issubclass(cluster.connection_kwargs["connection_class"], SSLConnection)
    remap = cluster.nodes_manager.address_remap

    def make() -> RedisCluster:
        return RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in nodes],
            ssl=tls,
            address_remap=remap,
            **options | identity,
        )

    shown = ",".join(f"{host}:{port}" for host, port in nodes)
    return BrokerServer(f"{'rediss' if tls else 'redis'}+cluster://{shown} (the broker's)", make)


def _identity(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what says which server, as whom, and by which TLS settings; not what belongs to a pool or loop."""
    return {
        name: value
        for name, value in settings.items()
        # Where certificates are not checked, None says so; everywhere else it says nothing.
        if name == "ssl_cert_reqs" or (value is not None and (name in _IDENTITY or name.startswith("ssl_")))
    }


def _flags(settings: dict[str, Any]) -> dict[str, Any]:
    return {"ssl": settings["ssl"]} if "ssl" in settings else {}
