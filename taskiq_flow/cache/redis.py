"""``RedisCacheAdapter``: a cache on a Redis server."""

from taskiq_flow.cache.storage import DEFAULT_LOCK_TIMEOUT, DEFAULT_TTL, StorageCacheAdapter
from taskiq_flow.storage.redis import RedisStorageAdapter

__all__ = ["RedisCacheAdapter"]


class RedisCacheAdapter(StorageCacheAdapter):
    """A cache on a Redis or Valkey server, shared by all processes that use it.

    :param redis_url: see :class:`RedisStorageAdapter`.
    :param default_ttl: see :class:`StorageCacheAdapter`, as for ``lock_timeout``.
    :param storage: an adapter, used instead of ``redis_url``.
    :param owns_storage: whether closing this cache closes the storage; None means one that was made here.
    """

    def __init__(
        self,
        redis_url: str = "redis://localhost:6379",
        default_ttl: float | None = DEFAULT_TTL,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
        *,
        storage: RedisStorageAdapter | None = None,
        owns_storage: bool | None = None,
    ) -> None:
        if owns_storage is None:
            owns_storage = storage is None
        storage = RedisStorageAdapter(redis_url) if storage is None else storage
        super().__init__(storage, default_ttl, lock_timeout, owns_storage=owns_storage)
