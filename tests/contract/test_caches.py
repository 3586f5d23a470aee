"""The cache contract on every storage, and on every way in which caches can be made."""

import pytest

from taskiq_flow.cache import BaseCacheAdapter, InMemoryCacheAdapter
from taskiq_flow.pytest_plugin import CacheAdapterContract


class TestEveryStorage(CacheAdapterContract):
    """The plugin's own fixtures: a cache over each storage."""


class TestInMemoryCache(CacheAdapterContract):
    @pytest.fixture
    def cache_adapter(self) -> BaseCacheAdapter:
        return InMemoryCacheAdapter()
