"""``fakeredis``: the Redis adapter on a fake server of the test's own."""

from typing import TYPE_CHECKING, Any

from taskiq_flow.pytest_plugin.stores.base import IsolatedStore, StorageBackend, StorageUnavailable, install_hint
from taskiq_flow.pytest_plugin.stores.redis import RedisProtocolStorage

if TYPE_CHECKING:
    from fakeredis import FakeServer

    from taskiq_flow.config import TaskiqFlowConfig
    from taskiq_flow.storage.base import BaseStorageAdapter

__all__ = ["STORAGES", "FakeRedisStorage", "server"]

_SCHEME = "fakeredis"

_servers: "dict[str, FakeServer]" = {}
"""The fake servers of the tests that are running, by namespace."""


class FakeRedisStorage(RedisProtocolStorage):
    """A fake Redis server in this process."""

    name = "fakeredis"
    position = 20

    def open(self, namespace: str) -> IsolatedStore:
        """Return a store on a new fake server, which the factory reaches by the scheme ``fakeredis://``."""
        try:
            import fakeredis
        except ImportError:
            raise StorageUnavailable(f"fakeredis is not installed: {install_hint('pytest')}") from None
        from taskiq_flow.storage.factory import StorageAdapterFactory

        StorageAdapterFactory.register_scheme(_SCHEME, _build)
        version = f"fakeredis {getattr(fakeredis, '__version__', '')}".strip()
        backend = StorageBackend(self.name, False, "in this process", version, f"{_SCHEME}://{namespace}")
        return IsolatedStore(self, backend, namespace, self.process.run.id, clear=lambda: _forget_server(namespace))


def server(url: str) -> "FakeServer":
    """Return the fake server at a URL of this scheme, made now if need be."""
    import fakeredis

    name = url.partition("://")[2]
    if name not in _servers:
        _servers[name] = fakeredis.FakeServer()
    return _servers[name]


def _forget_server(name: str) -> None:
    _servers.pop(name, None)


def _build(url: str, config: "TaskiqFlowConfig") -> "BaseStorageAdapter":
    import fakeredis

    from taskiq_flow.storage.redis import RedisStorageAdapter
    from taskiq_flow.storage.redis.clients import QUIET

    fake = server(url)
    return RedisStorageAdapter(
        ttl_seconds=config.storage_ttl_seconds,
        namespace=config.storage_namespace,
        client_factory=lambda: fakeredis.FakeAsyncRedis(server=fake, **QUIET),
        address=url,
        connect_timeout=config.storage_connect_timeout,
        operation_timeout=config.storage_operation_timeout,
    )


STORAGES: tuple[Any, ...] = (FakeRedisStorage(),)
