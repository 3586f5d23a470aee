"""The pytest plugin: fixtures that run a test, unchanged, on every storage.

=======================  ==========================================================================================
``storage_adapter``      an adapter on a store of this test's own: the test runs once for each storage
``storage_backend``      which storage that is: name, whether real, where it came from, version, URL
``make_storage_adapter`` makes another adapter on the same store, as a second worker would
``storage_config``       settings with which the application's own code reaches that store through the factory
``cache_adapter``        a cache on the test's store
``make_cache_adapter``   makes another cache on the same store, as a second worker would have
``flow_broker``          an in-memory taskiq broker with storage and pipelines on ``storage_adapter``
``storage_faults``       lets the test's storage fail, wait, hang, lose connections and records
``frozen_clock``         stops the time by which entries expire: ``now()``, ``tick()``, ``move_to()``
=======================  ==========================================================================================

What tests annotate these with is exported here: :class:`StorageBackend`, :class:`FlowBroker`, :class:`StorageFaults`,
:class:`FrozenClock`, :class:`MakeStorageAdapter`, :class:`MakeCacheAdapter`; and :class:`StuckTasksError`,
:class:`StorageAdapterContract` and :class:`CacheAdapterContract`. :func:`without_storage` names a test for snapshots.

Loaded in every pytest of everybody who has it installed: it imports no taskiq, no driver, nothing heavy.
"""

from typing import TYPE_CHECKING

import pytest

from taskiq_flow._lazy import lazy_names

if TYPE_CHECKING:
    from taskiq_flow.clock import FrozenClock as FrozenClock
    from taskiq_flow.pytest_plugin.broker import FlowBroker as FlowBroker
    from taskiq_flow.pytest_plugin.broker.deliveries import StuckTasksError as StuckTasksError
    from taskiq_flow.pytest_plugin.contract import CacheAdapterContract as CacheAdapterContract
    from taskiq_flow.pytest_plugin.contract import StorageAdapterContract as StorageAdapterContract
    from taskiq_flow.pytest_plugin.faults import StorageFaults as StorageFaults
    from taskiq_flow.pytest_plugin.markers import without_storage as without_storage
    from taskiq_flow.pytest_plugin.protocols import MakeCacheAdapter as MakeCacheAdapter
    from taskiq_flow.pytest_plugin.protocols import MakeStorageAdapter as MakeStorageAdapter
    from taskiq_flow.pytest_plugin.stores.base import StorageBackend as StorageBackend
    from taskiq_flow.pytest_plugin.stores.base import StorageKind as StorageKind

__all__ = [
    "CacheAdapterContract",
    "FlowBroker",
    "FrozenClock",
    "MakeCacheAdapter",
    "MakeStorageAdapter",
    "StorageAdapterContract",
    "StorageBackend",
    "StorageFaults",
    "StorageKind",
    "StuckTasksError",
    "without_storage",
]

pytest.register_assert_rewrite("taskiq_flow.pytest_plugin.contract")

pytest_plugins = ("taskiq_flow.pytest_plugin.hooks", "taskiq_flow.pytest_plugin.fixtures")

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "CacheAdapterContract": "taskiq_flow.pytest_plugin.contract",
            "FlowBroker": "taskiq_flow.pytest_plugin.broker",
            "FrozenClock": "taskiq_flow.clock",
            "MakeCacheAdapter": "taskiq_flow.pytest_plugin.protocols",
            "MakeStorageAdapter": "taskiq_flow.pytest_plugin.protocols",
            "StorageAdapterContract": "taskiq_flow.pytest_plugin.contract",
            "StorageBackend": "taskiq_flow.pytest_plugin.stores.base",
            "StorageFaults": "taskiq_flow.pytest_plugin.faults",
            "StorageKind": "taskiq_flow.pytest_plugin.stores.base",
            "without_storage": "taskiq_flow.pytest_plugin.markers",
            "StuckTasksError": "taskiq_flow.pytest_plugin.broker.deliveries",
        },
    )
