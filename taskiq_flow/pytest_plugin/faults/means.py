"""What can be done to a storage by its own means, for one test and nobody else on it."""

from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from taskiq_flow.pytest_plugin.servers.sql import own_engine

if TYPE_CHECKING:
    from taskiq_flow.pytest_plugin.backends import StorageBackend

__all__ = ["Means", "means_for"]

_CUT_OFF = '{"value": {"cut off": '
"""A record whose end is missing, in the form of none of our adapters."""


class Means(Protocol):
    """What one test can do to its storage."""

    url: str
    """Where the test's adapters connect to: the server knows their connections by the test's name."""

    async def corrupt(self, namespace: str, key: str) -> bool:
        """Replace a record by one that cannot be read; return whether there was one."""

    async def cut(self) -> int:
        """Cut the test's connections, and return how many there were."""


def means_for(backend: "StorageBackend", table: str, name: str) -> Means:
    """Return what a test of that name can do to its place on a backend."""
    if backend.name == "memory":
        return _Memory(backend.url)
    if backend.name == "fakeredis":
        return _FakeRedis(backend.url)
    if backend.name in {"redis", "valkey"}:
        return _Redis(backend.url, name)
    return _SQL(backend.url, table, name)


class _Memory:
    def __init__(self, url: str) -> None:
        self.url = url

    async def corrupt(self, namespace: str, key: str) -> bool:
        from taskiq_flow.storage.memory import InMemoryStore

        store = InMemoryStore.named(self.url.partition("://")[2])
        with store.lock:
            record = store.records[namespace].get(key)
            if record is not None:
                store.records[namespace][key] = record._replace(value=_CUT_OFF)
        return record is not None

    async def cut(self) -> int:
        return 0


class _Redis:
    def __init__(self, url: str, name: str) -> None:
        self.url = _with_arguments(url, client_name=name)
        self._url = url
        self._name = name

    def _client(self) -> Any:
        from redis.asyncio import Redis

        return Redis.from_url(self._url)

    async def corrupt(self, namespace: str, key: str) -> bool:
        async with self._client() as client:
            name = f"{quote(namespace, safe='')}:{key}"
            return bool(await client.set(name, _CUT_OFF, xx=True, keepttl=True))

    async def cut(self) -> int:
        async with self._client() as client:
            ours = [each["id"] for each in await client.client_list() if each["name"] == self._name]
            return sum([await client.client_kill_filter(_id=number) for number in ours])


class _FakeRedis(_Redis):
    def __init__(self, url: str) -> None:
        super().__init__(url, "")
        self.url = url

    def _client(self) -> Any:
        import fakeredis

        from taskiq_flow.pytest_plugin.fake_redis import server

        return fakeredis.FakeAsyncRedis(server=server(self.url.partition("://")[2]))

    async def cut(self) -> int:
        return 0


_OURS = {
    "postgresql": (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = :name AND pid <> pg_backend_pid()"
    ),
    # MySQL has no name for a connection that others can see, but says who holds a lock.
    "mysql": "SELECT id FROM information_schema.processlist WHERE IS_USED_LOCK(CONCAT(:name, ':', id)) = id",
}


class _SQL:
    def __init__(self, url: str, table: str, name: str) -> None:
        self._dialect = urlsplit(url).scheme.partition("+")[0]
        self._url = url
        self._table = table
        self._name = name
        self.url = url
        if self._dialect == "postgresql":
            self.url = _with_arguments(url, application_name=name)
        elif self._dialect in {"mysql", "mariadb"}:
            self._dialect = "mysql"
            self.url = _with_arguments(url, init_command=f"DO GET_LOCK(CONCAT('{name}:', CONNECTION_ID()), 0)")

    async def corrupt(self, namespace: str, key: str) -> bool:
        bounds: dict[str, Any] = {"namespace": namespace, "key": key}
        if self._dialect == "mysql":  # its columns hold bytes
            bounds = {name: bound.encode() for name, bound in bounds.items()}
        column = "`key`" if self._dialect == "mysql" else '"key"'
        statement = f"UPDATE {self._table} SET value = :value WHERE namespace = :namespace AND {column} = :key"
        _, count = await self._execute(statement, value=_CUT_OFF, **bounds)
        return count > 0

    async def cut(self) -> int:
        if self._dialect not in _OURS:
            return 0  # a file
        found, _ = await self._execute(_OURS[self._dialect], name=self._name)
        if self._dialect == "mysql":
            for number in found:
                await self._execute(f"KILL {int(number)}")
        return len(found)

    async def _execute(self, statement: str, **arguments: Any) -> tuple[list[Any], int]:
        """Return the first column of what a statement gives, and how many rows it changed."""
        from sqlalchemy import text
        from sqlalchemy.pool import NullPool

        engine = own_engine(self._url, poolclass=NullPool)
        async with engine.connect() as connection:
            result = await connection.execute(text(statement), arguments)
            return (list(result.scalars()), 0) if result.returns_rows else ([], result.rowcount)


def _with_arguments(url: str, **arguments: str) -> str:
    """Return the URL with these arguments, instead of its own of the same names."""
    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in arguments]
    return parts._replace(query=urlencode([*kept, *arguments.items()], quote_via=quote)).geturl()
