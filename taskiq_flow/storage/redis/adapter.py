"""``RedisStorageAdapter``: entries on a Redis or Valkey server, standalone, behind Sentinel, or a cluster.

How an entry lies there is :mod:`taskiq_flow.storage.redis.codec`'s business. While the clock is the system's, the
server's own time to live decides what is live; while a test has frozen it, the deadline in the record.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.client import NEVER_DECODE

from taskiq_flow import clock
from taskiq_flow.storage import rules
from taskiq_flow.storage.backend import DEFAULT_TIMEOUT, BackendAdapter, Record
from taskiq_flow.storage.failures import Diagnosis
from taskiq_flow.storage.redis import codec, transactions
from taskiq_flow.storage.redis.clients import Client, Clients, ClientsPerLoop, GivenClient
from taskiq_flow.storage.redis.errors import diagnose
from taskiq_flow.storage.redis.scans import nodes_of, scan
from taskiq_flow.storage.redis.urls import factory_for, server_of_client, server_of_url
from taskiq_flow.storage.testing import server_ttl_grace
from taskiq_flow.storage.urls import masked

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

__all__ = ["RedisStorageAdapter"]

logger = logging.getLogger(__name__)


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
    _pages = True

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
            self._host = server_of_client(client) or server_of_url(address or "")
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
        return record if not clock.is_frozen() or record.is_live(now) else None

    async def _write(self, key: str, record: Record, now: int) -> None:
        client = await self._client()
        await client.set(self._name(key), codec.pack(record), px=_native_ttl(record, now))

    async def _remove(self, key: str, now: int) -> bool:
        client = await self._client()
        if clock.is_frozen() and not await self._is_live(key, now):
            return False
        return bool(await client.delete(self._name(key)))

    async def _discard(self, key: str) -> None:
        client = await self._client()
        await client.delete(self._name(key))

    async def _exchange(self, key: str, seen: Record | None, record: Record | None, now: int) -> bool:
        client = await self._client()
        packed, ttl = (None, None) if record is None else (codec.pack(record), _native_ttl(record, now))
        judged_at = now if clock.is_frozen() else None
        return await transactions.exchange(client, self._name(key), seen, packed, ttl_ms=ttl, now=judged_at)

    async def _is_live(self, key: str, now: int) -> bool:
        client = await self._client()
        if not clock.is_frozen():
            return bool(await client.exists(self._name(key)))
        return await self._alive(client, [self._name(key)], now) == [True]

    async def _live_keys(self, prefix: str, now: int) -> Iterable[str]:
        found: set[str] = set()
        foreign = 0
        async for names in self._pages_of_names(prefix):
            live = await self._in_time(partial(self._only_live, names, now)) if clock.is_frozen() else names
            keys = [codec.key_of(name, self.namespace) for name in live]
            found.update(key for key in keys if key)
            foreign += keys.count(None)
        if foreign:
            logger.warning("%r left out %d names that are not UTF-8 text", self, foreign)
        return found

    async def _purge(self, now: int) -> int:
        if not clock.is_frozen():
            await self._in_time(self._reach)  # what has expired has gone by itself
            return 0
        removed = 0
        async for names in self._pages_of_names():
            for name in await self._in_time(partial(self._only_expired, names, now)):
                removed += await self._in_time(partial(self._remove_expired, name, now))
        return removed

    async def _read_many(self, keys: list[str], now: int) -> dict[str, Record]:
        async with transactions.pipeline(await self._client(), transaction=False) as pipe:
            for key in keys:
                pipe.get(self._name(key))
            texts = await pipe.execute()
        records = {key: codec.unpack(key, text) for key, text in zip(keys, texts, strict=True) if text is not None}
        if clock.is_frozen():
            records = {key: record for key, record in records.items() if record.is_live(now)}
        return records

    async def _write_many(self, records: dict[str, Record], now: int) -> None:
        async with transactions.pipeline(await self._client(), transaction=False) as pipe:
            for key, record in records.items():
                pipe.set(self._name(key), codec.pack(record), px=_native_ttl(record, now))
            await pipe.execute()

    async def _remove_many(self, keys: list[str], now: int) -> int:
        client = await self._client()
        names: list[Any] = [self._name(key) for key in keys]
        if clock.is_frozen():
            alive = await self._alive(client, names, now)
            names = [name for name, lives in zip(names, alive, strict=True) if lives]
        if not names:
            return 0
        async with transactions.pipeline(client, transaction=False) as pipe:
            for name in names:
                pipe.delete(name)
            return sum(await pipe.execute())

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

    async def _reach(self) -> None:
        await (await self._client()).ping()

    async def _pages_of_names(self, prefix: str = "") -> AsyncIterator[list[bytes]]:
        """Yield the server's names of this namespace's entries, live or not; some may come twice."""
        pattern = codec.namespace_pattern(self.namespace, prefix)
        client = await self._in_time(self._client)
        for node in nodes_of(client):
            cursor: int | None = 0
            while cursor is not None:
                cursor, names = await self._in_time(partial(scan, client, node, cursor, pattern))
                if names:
                    yield names

    async def _only_live(self, names: list[bytes], now: int) -> list[bytes]:
        alive = await self._alive(await self._client(), names, now)
        return [name for name, lives in zip(names, alive, strict=True) if lives]

    async def _only_expired(self, names: list[bytes], now: int) -> list[bytes]:
        alive = await self._alive(await self._client(), names, now)
        return [name for name, lives in zip(names, alive, strict=True) if lives is False]

    async def _remove_expired(self, name: bytes, now: int) -> int:
        return await transactions.remove_expired(await self._client(), name, now)

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
