"""Broken adapters, each in one way, which its docstring states: the contract suite must catch every one.

A module a theme; :data:`RULES` says which rules are there to catch its adapters. Most are the in-memory adapter with
one method or hook replaced; those that talk to a server are the Redis adapter.
"""

from types import ModuleType

from taskiq_flow.cache import StorageCacheAdapter
from taskiq_flow.pytest_plugin.contract.compare_and_set import CompareAndSetRules
from taskiq_flow.pytest_plugin.contract.concurrency import ConcurrencyRules
from taskiq_flow.pytest_plugin.contract.entries import EntryRules
from taskiq_flow.pytest_plugin.contract.errors import ErrorRules
from taskiq_flow.pytest_plugin.contract.keys import KeyRules, NamespaceRules
from taskiq_flow.pytest_plugin.contract.lifecycle import LifecycleRules
from taskiq_flow.pytest_plugin.contract.patterns import PatternRules
from taskiq_flow.pytest_plugin.contract.suite import Suite
from taskiq_flow.pytest_plugin.contract.ttl import CleanupRules, TTLRules
from taskiq_flow.pytest_plugin.contract.values import DamageRules, ValueRules
from taskiq_flow.storage.backend import BackendAdapter
from tests.contract.broken import (
    cache_creation,
    caches,
    cleanup,
    compare_and_set,
    concurrency,
    damage,
    entries,
    keys,
    lifecycle,
    namespaces,
    patterns,
    servers,
    ttl,
    values,
)

__all__ = ["CACHE_RULES", "RULES", "adapters", "broken_caches"]

RULES: dict[ModuleType, tuple[type[Suite], ...]] = {
    ttl: (TTLRules,),
    cleanup: (CleanupRules, NamespaceRules),
    namespaces: (NamespaceRules,),
    keys: (KeyRules,),
    patterns: (PatternRules,),
    values: (ValueRules,),
    damage: (DamageRules,),
    entries: (EntryRules,),
    compare_and_set: (CompareAndSetRules,),
    concurrency: (ConcurrencyRules, LifecycleRules),
    lifecycle: (LifecycleRules,),
    servers: (ErrorRules,),
}


CACHE_RULES = cache_creation.RULES | caches.RULES


def adapters(module: ModuleType) -> dict[str, type[BackendAdapter]]:
    """Return a module's broken adapters by name; what begins with an underscore is only their base."""
    return {
        name: kind
        for name, kind in vars(module).items()
        if isinstance(kind, type) and kind.__module__ == module.__name__ and not name.startswith("_")
    }


def broken_caches() -> dict[str, type[StorageCacheAdapter]]:
    """Return the broken caches, which the cache contract must catch, by name."""
    found = adapters(cache_creation) | adapters(caches)
    return {f"Cache{name}": kind for name, kind in found.items() if issubclass(kind, StorageCacheAdapter)}
