"""The types of fixtures that are functions, for annotations."""

from typing import Protocol

from taskiq_flow.cache import StorageCacheAdapter
from taskiq_flow.storage.base import BaseStorageAdapter

__all__ = ["MakeCacheAdapter", "MakeStorageAdapter"]


class MakeStorageAdapter(Protocol):
    """The fixture ``make_storage_adapter``."""

    def __call__(self, ttl_seconds: float | None = None, namespace: str | None = None) -> BaseStorageAdapter:
        """Return another adapter on the test's store; it is closed when the test is over.

        :param ttl_seconds: the default time to live, in seconds; None for ever.
        :param namespace: the name of a namespace beside the test's own; None for that one.
        """


class MakeCacheAdapter(Protocol):
    """The fixture ``make_cache_adapter``."""

    def __call__(
        self, default_ttl: float | None = 3600, lock_timeout: float = 10, *, prefix: str = "cache:"
    ) -> StorageCacheAdapter:
        """Return another cache on the test's store; it is closed when the test is over.

        :param default_ttl: seconds that values live where nothing else is said; None for the storage's own default.
        :param lock_timeout: seconds after which a creator that is not heard of is taken for dead.
        :param prefix: another prefix makes another cache beside the first.
        """
