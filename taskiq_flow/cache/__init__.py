"""Caches: values that may be made again, each made once however many ask for it at the same time.

Names are loaded on first use, so that importing this package imports no driver.
"""

from typing import TYPE_CHECKING

from taskiq_flow._lazy import lazy_names

if TYPE_CHECKING:
    from taskiq_flow.cache.base import BaseCacheAdapter, CacheStats
    from taskiq_flow.cache.memory import InMemoryCacheAdapter
    from taskiq_flow.cache.redis import RedisCacheAdapter
    from taskiq_flow.cache.storage import StorageCacheAdapter

__all__ = ["BaseCacheAdapter", "CacheStats", "InMemoryCacheAdapter", "RedisCacheAdapter", "StorageCacheAdapter"]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "BaseCacheAdapter": "taskiq_flow.cache.base",
            "CacheStats": "taskiq_flow.cache.base",
            "InMemoryCacheAdapter": "taskiq_flow.cache.memory",
            "RedisCacheAdapter": "taskiq_flow.cache.redis",
            "StorageCacheAdapter": "taskiq_flow.cache.storage",
        },
    )
