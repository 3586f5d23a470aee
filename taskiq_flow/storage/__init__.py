"""The storage layer: adapters behind one contract, whatever the backend.

Names are loaded on first use, so that importing this package imports no driver.
"""

from typing import TYPE_CHECKING

from taskiq_flow._lazy import lazy_names

if TYPE_CHECKING:
    from taskiq_flow.cache.base import BaseCacheAdapter
    from taskiq_flow.storage.base import ABSENT, BaseStorageAdapter
    from taskiq_flow.storage.entry import StorageEntry
    from taskiq_flow.storage.factory import StorageAdapterFactory
    from taskiq_flow.storage.memory import InMemoryStorageAdapter, InMemoryStore
    from taskiq_flow.storage.redis import RedisStorageAdapter
    from taskiq_flow.storage.sql import SQLAlchemyStorageAdapter, SQLiteStorageAdapter
    from taskiq_flow.storage.sql.schema import create_table_sql, define_table, metadata

__all__ = [
    "ABSENT",
    "BaseCacheAdapter",
    "BaseStorageAdapter",
    "InMemoryStorageAdapter",
    "InMemoryStore",
    "RedisStorageAdapter",
    "SQLAlchemyStorageAdapter",
    "SQLiteStorageAdapter",
    "StorageAdapterFactory",
    "StorageEntry",
    "create_table_sql",
    "define_table",
    "metadata",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "ABSENT": "taskiq_flow.storage.base",
            "BaseCacheAdapter": "taskiq_flow.cache.base",
            "BaseStorageAdapter": "taskiq_flow.storage.base",
            "InMemoryStorageAdapter": "taskiq_flow.storage.memory",
            "InMemoryStore": "taskiq_flow.storage.memory",
            "RedisStorageAdapter": "taskiq_flow.storage.redis",
            "SQLAlchemyStorageAdapter": "taskiq_flow.storage.sql",
            "SQLiteStorageAdapter": "taskiq_flow.storage.sql",
            "StorageAdapterFactory": "taskiq_flow.storage.factory",
            "StorageEntry": "taskiq_flow.storage.entry",
            "create_table_sql": "taskiq_flow.storage.sql.schema",
            "define_table": "taskiq_flow.storage.sql.schema",
            "metadata": "taskiq_flow.storage.sql.schema",
        },
    )
