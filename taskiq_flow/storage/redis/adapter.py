"""``RedisStorageAdapter``: entries on a Redis or Valkey server, standalone, behind Sentinel, or a cluster.

An entry is one string, so that ``SET`` writes it whole and a person can read it with ``redis-cli``::

    taskiq_flow:pipeline:run42:status
    {"expires_at": 1767225600000, "created_at": 1767222000000, "metadata": {}, "value": {"phase": "running"}}

The deadline stands first: ``keys``, ``exists`` and ``cleanup`` fetch only those few bytes (``GETRANGE``).
"""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from inspect import signature
from traceback import walk_tb
from typing import Any, TypeAlias
from urllib.parse import quote

import anyio

from taskiq_flow.exceptions import ConfigurationError, MissingDependencyError, SerializationError, StorageError
from taskiq_flow.storage import rules
from taskiq_flow.storage.backend import DEFAULT_TIMEOUT, BackendAdapter, Record
from taskiq_flow.storage.loops import PerLoop
from taskiq_flow.storage.testing import server_ttl_grace
from taskiq_flow.storage.urls import masked

try:
    from redis import exceptions as redis_errors
    from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import MasterNotFoundError
    from redis.backoff import NoBackoff
    from redis.client import NEVER_DECODE
except ImportError as error:
    raise MissingDependencyError.for_extra("RedisStorageAdapter", "redis", "redis") from error


__all__ = ["QUIET", "RedisStorageAdapter", "client_options", "cluster_client_options"]

# redis-py types every command as "awaitable or not", for its synchronous and asynchronous clients at once.
Client: TypeAlias = Any

_CLUSTER_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
_VALKEY_SCHEMES = {"valkey": "redis", "valkeys": "rediss"}
_PLAIN_SCHEMES = ("redis", "rediss", "unix")

QUIET: dict[str, Any] = {"protocol": 2}
"""Options with which a connection that opens says what it must, and nothing else: Redis's older protocol, which has all
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

_UNREACHABLE = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.RedisClusterException,
    redis_errors.ClusterDownError,
    OSError,
)

_REMOVE_IF_UNCHANGED = (
    "if redis.call('GETRANGE', KEYS[1], 0, ARGV[2]) == ARGV[1] then return redis.call('UNLINK', KEYS[1]) end return 0"
)

_EXCHANGE_IF_UNCHANGED = (
    "if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end "
    "if ARGV[2] == '' then return redis.call('UNLINK', KEYS[1]) end "
    "if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2]) "
    "else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end return 1"
)

_BATCH = 1000
_HEADER_BYTES = 48
_HEADER = re.compile(r'\{"expires_at": (null|-?\d{1,17}), "created_at": (-?\d{1,17}), "metadata": ')
_DEADLINE = re.compile(rb'\{"expires_at": (null|-?\d{1,17}), ')
_VALUE = ', "value": '


@dataclass(eq=False)
class _Connected:
    """A client of one event loop, and the turns that calls take at it."""

    client: Client
    turns: anyio.Semaphore
    spares_calls: bool = True
    """Whether calls that are under way when it is to be closed may end first."""

    @property
    def is_in_use(self) -> bool:
        """Whether a call is under way."""
        return self.turns.value != self.turns.max_value


class RedisStorageAdapter(BackendAdapter):
    """Entries on a Redis or Valkey server, with its native time to live set as well.

    :param redis_url: ``redis://``, ``rediss://`` (TLS), ``unix://``, ``valkey://``, ``redis+cluster://`` …; redis-py's
        query parameters are understood.
    :param ttl_seconds: default time to live in seconds; None for ever.
    :param namespace: the first part of every key on the server, see :class:`BackendAdapter`.
    :param client: a client of one's own, used instead of ``redis_url``; it is not closed by this adapter, and bound to
        the event loop that it was first used on.
    :param client_factory: makes a client for each event loop, used instead of ``redis_url``; those are closed.
    :param address: what messages call the server of ``client`` or ``client_factory``.
    :param connect_timeout: seconds to wait for a connection.
    :param operation_timeout: seconds one call may take in all.
    :param max_connections: how many connections each event loop may have open, to each node of a cluster; further calls
        wait for one.
    :raises ConfigurationError: the URL's scheme is not one of Redis.
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
        self._prefix = quote(self.namespace, safe="") + ":"  # no colon inside, so that no namespace begins another
        self._handed_in: Client | None = client
        if client is not None or client_factory is not None:
            self._server = address or "a client that was passed in"
        else:
            self._server = masked(redis_url)
            client_factory = _factory_for(redis_url, connect_timeout, max_connections)
        self._clients: PerLoop[_Connected] | None = None
        if client_factory is not None:
            make, turns = client_factory, partial(anyio.Semaphore, max_connections, max_value=max_connections)
            self._clients = PerLoop(lambda: _Connected(make(), turns()), _close)

    async def aclose(self) -> None:
        """Close the connections that this adapter opened; a client that was passed in stays open."""
        if self._clients is not None:
            await self._clients.aclose()

    def close_from_outside(self) -> None:
        """Close the connections, from a thread that runs no event loop: for test kits, between tests."""
        if self._clients is not None:
            for connected in self._clients.resources():
                connected.spares_calls = False  # nobody says that their loop is going to run again
            self._clients.close_from_outside()

    # --- hooks ----------------------------------------------------------------------------------------------------

    async def _read(self, key: str, now: int) -> Record | None:
        client = await self._client()
        text = await client.get(self._name(key))
        if text is None:
            return None
        record = _unpack(key, text)
        return record if record.is_live(now) else None

    async def _write(self, key: str, record: Record, now: int) -> None:
        client = await self._client()
        await client.set(self._name(key), _pack(record), px=_native_ttl(record, now))

    async def _remove(self, key: str, now: int) -> bool:
        client = await self._client()
        if not await self._is_live(key, now):
            return False
        return bool(await client.delete(self._name(key)))

    async def _discard(self, key: str) -> None:
        client = await self._client()
        await client.delete(self._name(key))

    async def _exchange(self, key: str, seen: Record | None, record: Record | None, now: int) -> bool:
        client, name = await self._client(), self._name(key)
        packed, life = (None, None) if record is None else (_pack(record), _native_ttl(record, now))
        if isinstance(client, RedisCluster):
            text = await client.get(name)
            if not _is_still(text, seen, now):
                return False
            return bool(await _run(client, _EXCHANGE_IF_UNCHANGED, name, text or b"", packed or b"", life or b""))
        async with _pipeline(client, transaction=True) as pipe:
            try:
                await pipe.watch(name)
                if not _is_still(await pipe.get(name), seen, now):
                    return False
                pipe.multi()
                if packed is None:
                    pipe.unlink(name)
                else:
                    pipe.set(name, packed, px=life)
                await pipe.execute()
            except redis_errors.WatchError as error:
                if isinstance(lost := error.__context__, _UNREACHABLE):
                    raise lost from None  # redis-py's word for that, too; the exchange may have taken place
                return False
        return True

    async def _is_live(self, key: str, now: int) -> bool:
        client = await self._client()
        return await self._alive(client, [self._name(key)], now) == [True]

    async def _live_keys(self, prefix: str, now: int) -> Iterable[str]:
        client = await self._client()
        found: set[str] = set()
        async for names in self._names(client, prefix):
            alive = await self._alive(client, names, now)
            found.update(self._keys_of(name for name, lives in zip(names, alive, strict=True) if lives))
        return found

    async def _purge(self, now: int) -> int:
        client = await self._client()
        removed = 0
        async for names in self._names(client):
            alive = await self._alive(client, names, now)
            for name in [name for name, lives in zip(names, alive, strict=True) if lives is False]:
                removed += await self._remove_if_still_expired(client, name, now)
        return removed

    def _address(self) -> str:
        return self._server

    def _translated(self, error: Exception, doing: str) -> StorageError | None:
        if isinstance(error, MasterNotFoundError):
            # redis-py shows its clients in this message, and older versions the passwords in them.
            error.args = (str(error).partition(" : ")[0],)
        if isinstance(error, _UNREACHABLE):
            return self._unreachable(doing, str(error) or type(error).__name__)  # some say nothing
        if isinstance(error, redis_errors.RedisError):
            if str(error).startswith("WRONGTYPE"):
                return SerializationError(f"the entry under {doing} is not one of ours: {error}")
            return self._refused(doing, error)
        if isinstance(error, UnicodeDecodeError):  # a client that was passed in with decode_responses=True
            return SerializationError(f"the entry under {doing} is not one of ours: {error}")
        if _is_of_a_lost_transport(error):
            return self._unreachable(doing, "the connection was lost")
        return None

    # --- how entries are found ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _bounded(self, name: str, *arguments: str) -> AsyncIterator[None]:
        """Wait for a turn, too: where all connections are in use, redis-py's clusters and sentinels refuse."""
        async with super()._bounded(name, *arguments):
            if self._clients is None:
                yield
                return
            connected = await self._clients.get()
            try:
                async with connected.turns:
                    yield
            finally:
                # A client that was to be closed meanwhile is closed by the last call under way.
                if not connected.is_in_use and connected not in self._clients.resources():
                    await _close(connected)

    async def _client(self) -> Client:
        client = self._handed_in if self._clients is None else (await self._clients.get()).client
        if isinstance(client, RedisCluster):
            # Before it knows which node has which keys, redis-py sends the calls that are first together to any.
            await client.initialize()
        return client

    def _name(self, key: str) -> str:
        return self._prefix + key

    def _keys_of(self, names: Iterable[bytes]) -> Iterator[str]:
        for name in names:
            with suppress(UnicodeDecodeError):  # no legal key: somebody else's
                yield name[len(self._prefix) :].decode()

    async def _names(self, client: Client, prefix: str = "") -> AsyncIterator[list[bytes]]:
        """Yield the server's names of this namespace's entries, live or not, in batches."""
        pattern = self._prefix + re.sub(r"([*?\[\]^\\])", r"\\\1", prefix) + "*"
        batch: set[bytes] = set()
        async for name in client.scan_iter(match=pattern, count=_BATCH):
            batch.add(name.encode() if isinstance(name, str) else name)
            if len(batch) == _BATCH:
                yield list(batch)
                batch.clear()
        if batch:
            yield list(batch)

    async def _alive(self, client: Client, names: list[Any], now: int) -> list[bool | None]:
        """Return for each name whether a live entry is there: None where there is nothing any more.

        What is damaged or foreign counts as live: it is there, and only ``get`` can say what is wrong with it.
        """
        async with _pipeline(client, transaction=False) as pipe:
            for name in names:
                # Undecoded even by a client that decodes: what is foreign may be no text at all.
                pipe.execute_command("GETRANGE", name, 0, _HEADER_BYTES, **{NEVER_DECODE: True})
            heads = await pipe.execute(raise_on_error=False)
        for head in heads:
            if isinstance(head, Exception) and not str(head).startswith("WRONGTYPE"):
                raise head
        return [_is_live_head(head, now) for head in heads]

    async def _remove_if_still_expired(self, client: Client, name: bytes, now: int) -> int:
        """Remove an expired entry unless somebody stores a new one meanwhile; return how many were removed."""
        if isinstance(client, RedisCluster):  # redis-py's asynchronous clusters cannot WATCH
            head = await client.getrange(name, 0, _HEADER_BYTES)
            if _is_live_head(head, now) is not False:
                return 0
            return int(await _run(client, _REMOVE_IF_UNCHANGED, name, head, _HEADER_BYTES))
        async with _pipeline(client, transaction=True) as pipe:
            try:
                await pipe.watch(name)
                if _is_live_head(await pipe.getrange(name, 0, _HEADER_BYTES), now) is not False:
                    return 0
                pipe.multi()
                pipe.unlink(name)
                (removed,) = await pipe.execute()
            except redis_errors.WatchError:
                return 0
        return int(removed)


def client_options(connect_timeout: float) -> dict[str, Any]:
    """Return the redis-py options of every client that this package makes: a connection that a restarted server has
    dropped is opened anew, once, without the caller noticing.

    How long an operation may take is the adapter's business alone (``BackendAdapter._operation``): redis-py's own
    time-out uses ``asyncio.wait_for``, which before Python 3.12 loses a cancellation that comes at the wrong moment.
    """
    return {
        "socket_connect_timeout": connect_timeout,
        "socket_timeout": None,
        "retry": Retry(NoBackoff(), 1, supported_errors=(redis_errors.ConnectionError,)),
        "retry_on_error": [redis_errors.ConnectionError],
        **QUIET,
    }


def cluster_client_options(connect_timeout: float) -> dict[str, Any]:
    """Return those of a cluster: it does its own retries, and is told of a moved slot by whoever had it.

    redis-py would, at each fifth slot that has moved, close the connections of all other calls as well, and then send
    again what they had sent already.
    """
    options = {name: option for name, option in client_options(connect_timeout).items() if name.startswith("socket_")}
    known = signature(RedisCluster).parameters  # from redis-py 7.2 to 7.4.0, clusters cannot do what clients can
    return {**options, **{name: option for name, option in QUIET.items() if name in known}, "reinitialize_steps": 0}


def _factory_for(url: str, connect_timeout: float, max_connections: int) -> Callable[[], Client]:
    """Return what makes clients for a URL.

    :raises ConfigurationError: the scheme is none of Redis, or redis-py cannot use the rest.
    """
    scheme, separator, rest = url.partition("://")
    plain_url = f"{ {**_CLUSTER_SCHEMES, **_VALKEY_SCHEMES}.get(scheme, scheme) }://{rest}"
    if not separator or plain_url.partition("://")[0] not in _PLAIN_SCHEMES:
        known = ", ".join(f"{known}://" for known in (*_PLAIN_SCHEMES, *_VALKEY_SCHEMES, *_CLUSTER_SCHEMES))
        raise ConfigurationError(f"{masked(url)!r} is no URL of a Redis server; known schemes: {known}")
    _try_out(url, plain_url)
    options = (cluster_client_options if scheme in _CLUSTER_SCHEMES else client_options)(connect_timeout)
    if "lib_" in plain_url.partition("?")[2]:  # lib_name and lib_version, which redis-py has another parameter for
        options.pop("driver_info", None)
    if scheme in _CLUSTER_SCHEMES:
        return lambda: RedisCluster.from_url(plain_url, max_connections=max_connections, **options)

    def make() -> Client:
        pool = BlockingConnectionPool.from_url(plain_url, max_connections=max_connections, timeout=None, **options)
        return Redis.from_pool(pool)

    return make


@lru_cache
def _try_out(url: str, plain_url: str) -> None:
    """Refuse a URL of which redis-py would say only at the first call that it cannot use it; connects to nothing."""
    # Without redis-py's message, which may repeat a part of the password.
    problem = "a port or query value"
    try:
        pool: Any = BlockingConnectionPool.from_url(plain_url)
        pool.connection_class(**pool.connection_kwargs)
        if 0 <= int(pool.connection_kwargs.get("port", 0)) < 65536:  # a text where it is in the query
            return
    except TypeError:
        problem = "an unknown query parameter"
    except ValueError:
        pass
    raise ConfigurationError(
        f"the Redis URL {masked(url)!r} has {problem} that cannot be used; "
        "a password with any of / ? # @ must be quoted (urllib.parse.quote)"
    )


async def _close(connected: _Connected) -> None:
    client = connected.client
    if connected.is_in_use and connected.spares_calls:
        return  # redis-py before 7.2 would cut its calls off; the last of them closes it, see `_operation`
    await client.aclose()
    if isinstance(client, RedisCluster):
        # Its own aclose closes nothing where an earlier one was cancelled half-way, or where it was between two states.
        for nodes in ("nodes_cache", "startup_nodes"):
            await client.nodes_manager.aclose(nodes)
    # A client behind Sentinel leaves the clients that watch the sentinels to whoever made them.
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    for sentinel in getattr(manager, "sentinels", ()):
        await sentinel.aclose()


@asynccontextmanager
async def _pipeline(client: Client, *, transaction: bool) -> AsyncIterator[Any]:
    """A pipeline of redis-py's, whose connection goes back to the pool however it ends: before 8.1, one that is
    cancelled between WATCH and EXEC keeps it.
    """
    pipe = client.pipeline(transaction=transaction)
    try:
        async with pipe:
            yield pipe
    finally:
        connection = getattr(pipe, "connection", None)  # those of clusters have several, and give them back
        if connection is not None:
            pipe.connection = None
            with anyio.CancelScope(shield=True):  # neither waits for the server
                await connection.disconnect(nowait=True)
                await client.connection_pool.release(connection)


async def _run(client: Client, script: str, name: str | bytes, *arguments: Any) -> Any:
    """Run a script on the node that has ``name``, once: what may have been done already must not be tried again."""
    node = client.get_node_from_key(name)
    return await client.execute_command("EVAL", script, 1, name, *arguments, target_nodes=node)


def _is_of_a_lost_transport(error: Exception) -> bool:
    """Return whether asyncio itself failed to write: in older Pythons it uses None where the connection is lost.

    See https://github.com/python/cpython/issues/136234 (seen on 3.13.0); redis-py does not know this error.
    """
    if not isinstance(error, (TypeError, AttributeError)):
        return False
    return any(frame.f_code.co_name == "writelines" for frame, _ in walk_tb(error.__traceback__))


def _native_ttl(record: Record, now: int) -> int | None:
    """Return the milliseconds after which the server itself removes the record."""
    if record.expires_at is None:
        return None
    return record.expires_at - now + server_ttl_grace()


def _pack(record: Record) -> str:
    expires_at = "null" if record.expires_at is None else record.expires_at
    return (
        f'{{"expires_at": {expires_at}, "created_at": {record.created_at}, '
        f'"metadata": {record.metadata}{_VALUE}{record.value}}}'
    )


def _unpack(key: str, stored: str | bytes) -> Record:
    try:
        text = stored if isinstance(stored, str) else stored.decode()
        if not (header := _HEADER.match(text)):
            raise ValueError("it does not begin like one")
        _, end = json.JSONDecoder().raw_decode(text, header.end())
        if not text.startswith(_VALUE, end) or not text.endswith("}"):
            raise ValueError("it is cut off or mixed up")
    except (ValueError, RecursionError) as error:
        reason = f"the entry under key {key!r} cannot be read: it is not one of ours, or damaged: {error}"
        raise SerializationError(reason) from None
    expires_at = None if header[1] == "null" else int(header[1])
    return Record(text[end + len(_VALUE) : -1], int(header[2]), expires_at, text[header.end() : end])


def _is_still(text: str | bytes | None, seen: Record | None, now: int) -> bool:
    """Return whether ``text`` is the record that was ``seen``; where that is None, whether it is nothing live."""
    if seen is None:
        return not _is_live_head(text, now)
    return text in {_pack(seen), _pack(seen).encode()}


def _is_live_head(head: Any, now: int) -> bool | None:
    """Return whether the record that begins with ``head`` is live; None where there is none. See ``_alive``."""
    if isinstance(head, Exception):
        return True
    if not head:
        return None
    deadline = _DEADLINE.match(head.encode() if isinstance(head, str) else head)
    return deadline is None or deadline[1] == b"null" or now < int(deadline[1])
