"""``RedisCacheAdapter``: a cache on a Redis server."""

from taskiq_flow.cache.storage import DEFAULT_LOCK_TIMEOUT, DEFAULT_TTL, StorageCacheAdapter
from taskiq_flow.storage.redis import RedisStorageAdapter

__all__ = ["RedisCacheAdapter"]


class RedisCacheAdapter(StorageCacheAdapter):
    """A cache on a Redis or Valkey server, shared by all processes that use it.

    :param redis_url: see :class:`RedisStorageAdapter`.
    :param default_ttl: see :class:`StorageCacheAdapter`, as for ``lock_timeout``.
    :param storage: an adapter with settings of one's own, used instead of ``redis_url``; it is closed with this cache.
    """

    def __init__(
        self,
        redis_url: str = "redis://localhost:6379",
        default_ttl: float | None = DEFAULT_TTL,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
        *,
        storage: RedisStorageAdapter | None = None,
    ) -> None:
        super().__init__(storage or RedisStorageAdapter(redis_url), default_ttl, lock_timeout, owns_storage=True)
