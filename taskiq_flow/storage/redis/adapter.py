"""``RedisStorageAdapter``: entries on a Redis or Valkey server, standalone, behind Sentinel, or a cluster.

How an entry lies there is :mod:`taskiq_flow.storage.redis.codec`'s business.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from redis.client import NEVER_DECODE

from taskiq_flow.storage import rules
from taskiq_flow.storage.backend import DEFAULT_TIMEOUT, BackendAdapter, Record
from taskiq_flow.storage.failures import Diagnosis
from taskiq_flow.storage.redis import codec, transactions
from taskiq_flow.storage.redis.clients import Client, Clients, ClientsPerLoop, GivenClient
from taskiq_flow.storage.redis.errors import diagnose
from taskiq_flow.storage.redis.urls import factory_for, server_of_url
from taskiq_flow.storage.testing import server_ttl_grace
from taskiq_flow.storage.urls import masked

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

__all__ = ["RedisStorageAdapter"]

_BATCH = 1000


class RedisStorageAdapter(BackendAdapter):
    """Entries on a Redis or Valkey server, with its native time to live set as well.

    :param redis_url: ``redis://``, ``rediss://`` (TLS), ``unix://``, ``valkey://``, ``redis+cluster://``,
        ``redis+sentinel://host:port,host:port/service/database`` …; redis-py's query parameters are understood.
    :param ttl_seconds: default time to live in seconds; None for no expiry.
    :param namespace: the first part of every key on the server, see :class:`BackendAdapter`.
    :param client: a client to use instead of ``redis_url``; it is not closed by this adapter, and bound to the event
        loop that it was first used on.
    :param client_factory: makes a client for each event loop, used instead of ``redis_url``; those are closed.
    :param address: what messages call the server of ``client`` or ``client_factory``.
    :param connect_timeout: seconds to wait for a connection.
    :param operation_timeout: seconds one call may take in all.
    :param max_connections: how many connections each event loop may have open, to each node of a cluster; further calls
        wait for one.
    :raises ConfigurationError: if the URL cannot be used.
    """

    backend = "Redis"

    def __init__(
        self,
        redis_url: str = "redis://localhost:6379",
        ttl_seconds: float | None = None,
        *,
        namespace: str = rules.DEFAULT_NAMESPACE,
        client: "Redis | RedisCluster | None" = None,
        client_factory: "Callable[[], Redis | RedisCluster] | None" = None,
        address: str | None = None,
        connect_timeout: float = 5.0,
        operation_timeout: float = DEFAULT_TIMEOUT,
        max_connections: int = 50,
    ) -> None:
        super().__init__(namespace=namespace, ttl_seconds=ttl_seconds, operation_timeout=operation_timeout)
        rules.checked_timeout("connect_timeout", connect_timeout)
        rules.checked_max_connections(max_connections)
        self._clients: Clients
        if client_factory is not None or client is not None:
            self._server = address or "a client that was passed in"
            self._host = None if address is None else f"redis {address}"
        else:
            self._server, self._secret_url = masked(redis_url.strip()), redis_url
            self._host = server_of_url(redis_url)
            client_factory = factory_for(redis_url, connect_timeout, max_connections)
        if client_factory is not None:
            self._clients = ClientsPerLoop(client_factory, max_connections)
        else:
            self._clients = GivenClient(client)

    async def aclose(self) -> None:
        """Close the connections that this adapter opened; a client that was passed in stays open."""
        await self._clients.aclose()

    def close_from_outside(self) -> None:
        """Close the connections, from a thread that runs no event loop: for test kits, between tests."""
        self._clients.close_from_outside()

    # --- hooks --------------------------------------------------------------------------------------------------------

    async def _read(self, key: str, now: int) -> Record | None:
        client = await self._client()
        text = await client.get(self._name(key))
        if text is None:
            return None
        record = codec.unpack(key, text)
        return record if record.is_live(now) else None

    async def _write(self, key: str, record: Record, now: int) -> None:
        client = await self._client()
        await client.set(self._name(key), codec.pack(record), px=_native_ttl(record, now))

    async def _remove(self, key: str, now: int) -> bool:
        client = await self._client()
        if not await self._is_live(key, now):
            return False
        return bool(await client.delete(self._name(key)))

    async def _discard(self, key: str) -> None:
        client = await self._client()
        await client.delete(self._name(key))

    async def _exchange(self, key: str, seen: Record | None, record: Record | None, now: int) -> bool:
        client = await self._client()
        packed, ttl = (None, None) if record is None else (codec.pack(record), _native_ttl(record, now))
        return await transactions.exchange(client, self._name(key), seen, packed, ttl_ms=ttl, now=now)

    async def _is_live(self, key: str, now: int) -> bool:
        client = await self._client()
        return await self._alive(client, [self._name(key)], now) == [True]

    async def _live_keys(self, prefix: str, now: int) -> Iterable[str]:
        client = await self._client()
        found: set[str] = set()
        async for names in self._names(client, prefix):
            alive = await self._alive(client, names, now)
            keys = (codec.key_of(name, self.namespace) for name, live in zip(names, alive, strict=True) if live)
            found.update(key for key in keys if key)
        return found

    async def _purge(self, now: int) -> int:
        client = await self._client()
        removed = 0
        async for names in self._names(client):
            alive = await self._alive(client, names, now)
            for name in [name for name, live in zip(names, alive, strict=True) if live is False]:
                removed += await transactions.remove_expired(client, name, now)
        return removed

    def _address(self) -> str:
        return self._server

    def _diagnose(self, error: Exception) -> Diagnosis | None:
        return diagnose(error)

    async def _drop_connections(self) -> None:
        await self._clients.drop_connections()

    def _server_name(self) -> str | None:
        return self._host

    def _slot(self) -> AbstractAsyncContextManager[None]:
        return self._clients.slot()

    # --- how entries are found ----------------------------------------------------------------------------------------

    async def _client(self) -> Client:
        return await self._clients.get()

    def _name(self, key: str) -> str:
        return codec.entry_name(self.namespace, key)

    async def _names(self, client: Client, prefix: str = "") -> AsyncIterator[list[bytes]]:
        """Yield the server's names of this namespace's entries, live or not, in batches."""
        batch: set[bytes] = set()
        async for name in client.scan_iter(match=codec.namespace_pattern(self.namespace, prefix), count=_BATCH):
            batch.add(name.encode() if isinstance(name, str) else name)
            if len(batch) == _BATCH:
                yield list(batch)
                batch.clear()
        if batch:
            yield list(batch)

    async def _alive(self, client: Client, names: list[Any], now: int) -> list[bool | None]:
        """Return for each name whether a live entry is there: None where there is nothing any more."""
        async with transactions.pipeline(client, transaction=False) as pipe:
            for name in names:
                # Undecoded even by a client that decodes: what is foreign may be no text at all.
                pipe.execute_command("GETRANGE", name, 0, codec.HEADER_BYTES, **{NEVER_DECODE: True})
            headers = await pipe.execute(raise_on_error=False)
        for header in headers:
            if isinstance(header, Exception) and not str(header).startswith("WRONGTYPE"):
                raise header
        return [codec.is_live_header(header, now) for header in headers]


def _native_ttl(record: Record, now: int) -> int | None:
    """Return the milliseconds after which the server itself removes the record."""
    if record.expires_at is None:
        return None
    return record.expires_at - now + server_ttl_grace()
