"""The cache contract as a test suite, for any cache: ``CacheAdapterContract``."""

from taskiq_flow.pytest_plugin.contract.cache.creation import CreateOnceRules
from taskiq_flow.pytest_plugin.contract.cache.invalidation import InvalidationRules
from taskiq_flow.pytest_plugin.contract.cache.lifecycle import CacheLifecycleRules
from taskiq_flow.pytest_plugin.contract.cache.locks import CreationLockRules
from taskiq_flow.pytest_plugin.contract.cache.ttl import CacheTTLRules
from taskiq_flow.pytest_plugin.contract.cache.values import CacheValueRules

__all__ = ["CacheAdapterContract"]


class CacheAdapterContract(
    CacheValueRules,
    CacheTTLRules,
    CreateOnceRules,
    CreationLockRules,
    InvalidationRules,
    CacheLifecycleRules,
):
    """The cache contract, as tests. Subclass it, and say how to make the cache::

        from taskiq_flow.pytest_plugin import CacheAdapterContract


        class TestMemcachedAdapter(CacheAdapterContract):
            @pytest.fixture
            def cache_adapter(self):
                return MemcachedAdapter(...)

    Without a ``cache_adapter`` of its own, a subclass tests a cache over each storage that the plugin knows. The tests
    are plain functions that call ``asyncio.run``.

    **Fixtures**, to be defined in the class:

    ``cache_adapter``
        a new, empty cache of the test's own, with a default time to live of 3,600 seconds and a ``lock_timeout`` of 10.
    ``make_cache_adapter``
        a function ``make(default_ttl=…, lock_timeout=…, prefix=…)`` that returns another cache on the same store, as a
        second process would have. Each argument may be left out; another ``prefix`` (any text) makes another cache
        beside the first. Without this fixture the tests of what several caches do to each other are skipped.

    **Attributes**: ``expiry_clock``, ``lacks``, ``server_life`` and ``timeout``, as in ``StorageAdapterContract``.
    What may be lacking: ``default_ttl``, ``shared_store`` (one creates in all processes), ``prefixes``,
    ``event_loops``.
    """
