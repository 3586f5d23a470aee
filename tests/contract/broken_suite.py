"""The contract suite on every broken adapter: a test file that is run by :mod:`tests.contract.table`, and must fail.

``FLOW_BROKEN=all`` tries every rule on every adapter, not only those that are there to catch it.
"""

import os
from typing import Any

import pytest

from taskiq_flow.cache import StorageCacheAdapter
from taskiq_flow.pytest_plugin import CacheAdapterContract, StorageAdapterContract
from taskiq_flow.pytest_plugin.contract.cache.suite import CacheSuite
from taskiq_flow.pytest_plugin.contract.suite import Suite
from taskiq_flow.storage import BaseStorageAdapter, InMemoryStorageAdapter, InMemoryStore, RedisStorageAdapter
from tests.contract.broken import CACHE_RULES, RULES, adapters, broken_caches
from tests.contract.broken.base import Memory


class _OnMemory(Suite):
    timeout = 0.5

    kind: type[Any] = Memory

    @pytest.fixture
    def store(self) -> InMemoryStore:
        return InMemoryStore()

    @pytest.fixture
    def make_storage_adapter(self, store: InMemoryStore) -> Any:
        def make(ttl_seconds: float | None = None, namespace: str = "own") -> BaseStorageAdapter:
            adapter: BaseStorageAdapter = self.kind(ttl_seconds, namespace=namespace, store=store)
            return adapter

        return make

    @pytest.fixture
    def storage_adapter(self, make_storage_adapter: Any) -> Any:
        return make_storage_adapter()


class _OnServer(Suite):
    timeout = 1.0

    kind: type[Any] = RedisStorageAdapter

    @pytest.fixture
    def storage_adapter(self) -> Any:
        return self.kind("redis://127.0.0.1:1/0")


class _OnCache(CacheSuite):
    timeout = 0.4
    settle_seconds = 0.01

    kind: type[StorageCacheAdapter] = StorageCacheAdapter

    @pytest.fixture
    def make_cache_adapter(self) -> Any:
        store = InMemoryStore()
        return lambda **settings: self.kind(InMemoryStorageAdapter(store=store), **settings)

    @pytest.fixture
    def cache_adapter(self, make_cache_adapter: Any) -> Any:
        return make_cache_adapter()


class TestNothingBroken(_OnMemory, StorageAdapterContract):
    """Without anything broken, nothing is caught."""

    timeout = 30.0


for _module, _rules in RULES.items():
    for _name, _kind in adapters(_module).items():
        _base = _OnServer if issubclass(_kind, RedisStorageAdapter) else _OnMemory
        _tried = (StorageAdapterContract,) if os.environ.get("FLOW_BROKEN") == "all" else _rules
        _own = {"kind": _kind, "lacks": getattr(_kind, "lacks", {}), "__module__": __name__, "__doc__": _kind.__doc__}
        globals()[f"Test{_name}"] = type(f"Test{_name}", (_base, *_tried), _own)


class TestCacheNothingBroken(_OnCache, CacheAdapterContract):
    """Without anything broken, nothing is caught."""

    timeout = 30.0


for _name, _cache in broken_caches().items():
    _tried_on_it = tuple(group for group, kinds in CACHE_RULES.items() if _cache in kinds)
    _own = {"kind": _cache, "__module__": __name__, "__doc__": _cache.__doc__}
    globals()[f"Test{_name}"] = type(f"Test{_name}", (_OnCache, *(_tried_on_it or (CacheAdapterContract,))), _own)
