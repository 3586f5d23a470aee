"""``InMemoryCacheAdapter``: a cache in this process."""

from taskiq_flow.cache.storage import DEFAULT_LOCK_TIMEOUT, DEFAULT_TTL, StorageCacheAdapter
from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.storage.memory import InMemoryStorageAdapter

__all__ = ["InMemoryCacheAdapter"]


class InMemoryCacheAdapter(StorageCacheAdapter):
    """A cache in this process's memory, shared with no other process.

    :param default_ttl: see :class:`StorageCacheAdapter`, as for ``lock_timeout``.
    :param storage: where to keep the values, instead of a storage of its own.
    :param max_entries: how many values may be there; above that, the one goes that was read or written longest ago.
        None for no limit.
    :param owns_storage: whether closing this cache closes the storage; None means one that was made here.
    """

    def __init__(
        self,
        default_ttl: float | None = DEFAULT_TTL,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
        *,
        storage: InMemoryStorageAdapter | None = None,
        max_entries: int | None = None,
        owns_storage: bool | None = None,
    ) -> None:
        if owns_storage is None:
            owns_storage = storage is None
        if storage is None:
            storage = InMemoryStorageAdapter(max_entries=max_entries)
        elif max_entries is not None:
            raise ConfigurationError("max_entries is for a storage of the cache's own: give it to the storage instead")
        super().__init__(storage, default_ttl, lock_timeout, owns_storage=owns_storage)
