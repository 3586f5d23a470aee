"""Clients of redis-py: their options, how they are kept for each event loop, and closed."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, TypeAlias

import anyio
from redis import exceptions as redis_errors
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from taskiq_flow.storage.loops import PerLoop
from taskiq_flow.storage.redis.errors import ROLE_CHANGED

__all__ = [
    "QUIET",
    "Client",
    "Clients",
    "ClientsPerLoop",
    "GivenClient",
    "client_options",
    "cluster_client_options",
]

# redis-py types every command as "awaitable or not", for its synchronous and asynchronous clients at once.
Client: TypeAlias = Any

# --- options ----------------------------------------------------------------------------------------------------------

QUIET: dict[str, Any] = {"protocol": 2}
"""Options with which a connection that opens says what it must, and nothing else: Redis' older protocol, which has all
that an adapter asks for, needs no HELLO, as redis-py sends from 8 on, and no wait for its answer."""
if "driver_info" in (_options := signature(Redis).parameters):  # redis-py 7.2
    from redis.driver_info import DriverInfo

    # Else each connection tells redis-py's version, which it looks up in the package's files, and waits for the answer:
    # servers before 7.2 refuse it.
    QUIET["driver_info"] = DriverInfo(name="", lib_version="")
else:
    QUIET |= {"lib_name": None, "lib_version": None}
if "maint_notifications_config" in _options:  # redis-py 8.1
    from redis.maint_notifications import MaintNotificationsConfig

    # Else each connection asks for word of maintenance, which servers other than Redis Enterprise refuse; on that word
    # redis-py would change time-outs, and close connections, of calls that are under way.
    QUIET["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)


def client_options(connect_timeout: float) -> dict[str, Any]:
    """Return the redis-py options of every client that this package makes: a connection that a restarted server has
    dropped, or that leads to one which has handed its role to another, is opened anew, once, without the caller
    noticing.

    How long an operation may take is the adapter's business alone (``BackendAdapter._operation``): redis-py's own
    time-out uses ``asyncio.wait_for``, which before Python 3.12 loses a cancellation that comes at the wrong moment.

    :param connect_timeout: seconds to wait for a connection.
    """
    repeated = (redis_errors.ConnectionError, *ROLE_CHANGED)
    return {
        "socket_connect_timeout": connect_timeout,
        "socket_timeout": None,
        "retry": Retry(NoBackoff(), 1, supported_errors=repeated),
        "retry_on_error": list(repeated),
        **QUIET,
    }


def cluster_client_options(connect_timeout: float) -> dict[str, Any]:
    """Return those of a cluster's client: it does its own retries, and is told of a moved slot by the node that had it.

    redis-py would, at each fifth slot that has moved, close the connections of all other calls as well, and then send
    again what they had sent already.

    :param connect_timeout: seconds to wait for a connection.
    """
    options = {name: option for name, option in client_options(connect_timeout).items() if name.startswith("socket_")}
    known = signature(RedisCluster).parameters  # from redis-py 7.2 to 7.4.0, clusters cannot do what clients can
    return {**options, **{name: option for name, option in QUIET.items() if name in known}, "reinitialize_steps": 0}


# --- clients, one for each event loop ---------------------------------------------------------------------------------


class GivenClient:
    """A client that was handed in; it stays open."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def get(self) -> Client:
        """Return the client, connected if it is a cluster's."""
        return await _ready(self._client)

    async def drop_connections(self) -> None:
        """Close the connections of the client that are idle; it opens others."""
        await _drop_connections(self._client)

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Limit nothing: its own pool does."""
        return nullcontext()

    async def aclose(self) -> None:
        """Close nothing."""

    def close_from_outside(self) -> None:
        """Close nothing."""


@dataclass(eq=False)
class _Connected:
    """A client of one event loop, and the slots that calls take at it."""

    client: Client
    slots: anyio.Semaphore
    waits_for_calls: bool = True
    """Whether calls that are under way when it is to be closed may end first."""

    @property
    def is_in_use(self) -> bool:
        """Whether a call is under way."""
        return self.slots.value != self.slots.max_value


class ClientsPerLoop:
    """A client for each event loop that asks, which as many calls use at once as there may be connections.

    Where all connections are in use, redis-py's clusters and sentinels would refuse further calls.

    :param make: makes a client; does no I/O.
    :param max_connections: how many calls may use a client at once; further ones wait.
    """

    def __init__(self, make: Callable[[], Client], max_connections: int) -> None:
        slots = partial(anyio.Semaphore, max_connections, max_value=max_connections)
        self._clients: PerLoop[_Connected] = PerLoop(lambda: _Connected(make(), slots()), _close)

    async def get(self) -> Client:
        """Return the running loop's client, connected if it is a cluster's."""
        return await _ready((await self._clients.get()).client)

    async def drop_connections(self) -> None:
        """Close the connections of the running loop's client that are idle."""
        await _drop_connections((await self._clients.get()).client)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for one of the slots at the running loop's client, and hold it."""
        connected = await self._clients.get()
        try:
            async with connected.slots:
                yield
        finally:
            # A client that was to be closed in the meantime is closed by the last call under way.
            if not connected.is_in_use and connected not in self._clients.resources():
                await _close(connected)

    async def aclose(self) -> None:
        """Close every client, each on its loop."""
        await self._clients.aclose()

    def close_from_outside(self) -> None:
        """Close every client, from a thread that runs no event loop."""
        for connected in self._clients.resources():
            connected.waits_for_calls = False  # nobody says that their loop is going to run again
        self._clients.close_from_outside()


Clients: TypeAlias = ClientsPerLoop | GivenClient


async def _ready(client: Client) -> Client:
    if isinstance(client, RedisCluster):
        # Before it knows which node has which keys, redis-py sends the calls that are first together to any.
        await client.initialize()
    return client


async def _drop_connections(client: Client) -> None:
    if (pool := getattr(client, "connection_pool", None)) is not None:  # a cluster's client finds its nodes by itself
        await pool.disconnect(inuse_connections=False)


async def _close(connected: _Connected) -> None:
    client = connected.client
    if connected.is_in_use and connected.waits_for_calls:
        return  # redis-py before 7.2 would cut its calls off; the last of them closes it, see `slot`
    await client.aclose()
    if isinstance(client, RedisCluster):
        # Its own aclose closes nothing where an earlier one was cancelled half-way, or where it was between two states.
        for nodes in ("nodes_cache", "startup_nodes"):
            await client.nodes_manager.aclose(nodes)
    # A client behind Sentinel does not close the clients that watch the sentinels.
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    for sentinel in getattr(manager, "sentinels", ()):
        await sentinel.aclose()
