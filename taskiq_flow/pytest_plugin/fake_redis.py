"""The scheme ``fakeredis://NAME``: with it the factory reaches the fake server of a test, as it reaches a real one."""

from typing import TYPE_CHECKING

import fakeredis

from taskiq_flow.storage.redis.adapter import QUIET, RedisStorageAdapter

if TYPE_CHECKING:
    from taskiq_flow.config import TaskiqFlowConfig
    from taskiq_flow.storage.base import BaseStorageAdapter
    from taskiq_flow.storage.factory import StorageAdapterFactory

__all__ = ["forget_server", "register_scheme", "server"]

_servers: dict[str, fakeredis.FakeServer] = {}


def server(name: str) -> fakeredis.FakeServer:
    """Return the fake server of that name; each test has its own."""
    if name not in _servers:
        _servers[name] = fakeredis.FakeServer()
    return _servers[name]


def forget_server(name: str) -> None:
    """Drop a fake server with all that it holds."""
    _servers.pop(name, None)


def register_scheme(factory: "type[StorageAdapterFactory]") -> None:
    """Teach the factory the scheme; doing so again changes nothing."""
    factory.register_scheme("fakeredis", _build)


def _build(url: str, config: "TaskiqFlowConfig") -> "BaseStorageAdapter":
    fake = server(url.partition("://")[2])
    return RedisStorageAdapter(
        ttl_seconds=config.storage_ttl_seconds,
        namespace=config.storage_namespace,
        client_factory=lambda: fakeredis.FakeAsyncRedis(server=fake, **QUIET),
        address=url,
        connect_timeout=config.storage_connect_timeout,
        operation_timeout=config.storage_operation_timeout,
    )
