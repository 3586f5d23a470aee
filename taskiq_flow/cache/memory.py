"""``InMemoryCacheAdapter``: a cache in this process."""

from taskiq_flow.cache.storage import DEFAULT_LOCK_TIMEOUT, DEFAULT_TTL, StorageCacheAdapter
from taskiq_flow.storage.memory import InMemoryStorageAdapter

__all__ = ["InMemoryCacheAdapter"]


class InMemoryCacheAdapter(StorageCacheAdapter):
    """A cache in this process's memory, shared with no other process.

    :param default_ttl: see :class:`StorageCacheAdapter`, as for ``lock_timeout``.
    :param storage: where to keep the values, instead of a storage of its own; it is closed with this cache.
    """

    def __init__(
        self,
        default_ttl: float | None = DEFAULT_TTL,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
        *,
        storage: InMemoryStorageAdapter | None = None,
    ) -> None:
        super().__init__(storage or InMemoryStorageAdapter(), default_ttl, lock_timeout, owns_storage=True)
