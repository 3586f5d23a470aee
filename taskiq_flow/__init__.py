"""taskiq-flow-kit: storage for what taskiq pipelines leave behind, and a kit to test them on every storage.

Names are loaded on first use, so that importing this package imports no driver and no taskiq.
"""

from typing import TYPE_CHECKING

from taskiq_flow._lazy import lazy_names

if TYPE_CHECKING:
    from taskiq_flow._version import __version__
    from taskiq_flow.cache import (
        BaseCacheAdapter,
        CacheStats,
        InMemoryCacheAdapter,
        RedisCacheAdapter,
        StorageCacheAdapter,
    )
    from taskiq_flow.config import TaskiqFlowConfig
    from taskiq_flow.exceptions import (
        ConfigurationError,
        ConfigurationWarning,
        InvalidKeyError,
        InvalidTTLError,
        MissingDependencyError,
        ResultIsMissingError,
        SerializationError,
        StandInError,
        StorageBackendError,
        StorageConnectionError,
        StorageError,
        TaskiqFlowError,
        UnstorableResultError,
        UnsupportedOperationError,
    )
    from taskiq_flow.history import Findings, History
    from taskiq_flow.middlewares import CacheMiddleware, LostResult, PipelineMiddleware, StorageMiddleware
    from taskiq_flow.pipeline import Pipeline
    from taskiq_flow.result_backend import StorageResultBackend
    from taskiq_flow.schedule_source import StorageScheduleSource
    from taskiq_flow.storage import (
        ABSENT,
        BaseStorageAdapter,
        InMemoryStorageAdapter,
        InMemoryStore,
        RedisStorageAdapter,
        SQLAlchemyStorageAdapter,
        SQLiteStorageAdapter,
        StorageAdapterFactory,
        StorageEntry,
    )

__all__ = [
    "ABSENT",
    "BaseCacheAdapter",
    "BaseStorageAdapter",
    "CacheMiddleware",
    "CacheStats",
    "ConfigurationError",
    "ConfigurationWarning",
    "Findings",
    "History",
    "InMemoryCacheAdapter",
    "InMemoryStorageAdapter",
    "InMemoryStore",
    "InvalidKeyError",
    "InvalidTTLError",
    "LostResult",
    "MissingDependencyError",
    "Pipeline",
    "PipelineMiddleware",
    "RedisCacheAdapter",
    "RedisStorageAdapter",
    "ResultIsMissingError",
    "SQLAlchemyStorageAdapter",
    "SQLiteStorageAdapter",
    "SerializationError",
    "StandInError",
    "StorageAdapterFactory",
    "StorageBackendError",
    "StorageCacheAdapter",
    "StorageConnectionError",
    "StorageEntry",
    "StorageError",
    "StorageMiddleware",
    "StorageResultBackend",
    "StorageScheduleSource",
    "TaskiqFlowConfig",
    "TaskiqFlowError",
    "UnstorableResultError",
    "UnsupportedOperationError",
    "__version__",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "ABSENT": "taskiq_flow.storage",
            "BaseCacheAdapter": "taskiq_flow.cache",
            "BaseStorageAdapter": "taskiq_flow.storage",
            "CacheMiddleware": "taskiq_flow.middlewares",
            "CacheStats": "taskiq_flow.cache",
            "ConfigurationError": "taskiq_flow.exceptions",
            "ConfigurationWarning": "taskiq_flow.exceptions",
            "Findings": "taskiq_flow.history",
            "History": "taskiq_flow.history",
            "InMemoryCacheAdapter": "taskiq_flow.cache",
            "InMemoryStorageAdapter": "taskiq_flow.storage",
            "InMemoryStore": "taskiq_flow.storage",
            "InvalidKeyError": "taskiq_flow.exceptions",
            "InvalidTTLError": "taskiq_flow.exceptions",
            "LostResult": "taskiq_flow.middlewares",
            "MissingDependencyError": "taskiq_flow.exceptions",
            "Pipeline": "taskiq_flow.pipeline",
            "PipelineMiddleware": "taskiq_flow.middlewares",
            "RedisCacheAdapter": "taskiq_flow.cache",
            "RedisStorageAdapter": "taskiq_flow.storage",
            "ResultIsMissingError": "taskiq_flow.exceptions",
            "SQLAlchemyStorageAdapter": "taskiq_flow.storage",
            "SQLiteStorageAdapter": "taskiq_flow.storage",
            "SerializationError": "taskiq_flow.exceptions",
            "StandInError": "taskiq_flow.exceptions",
            "StorageAdapterFactory": "taskiq_flow.storage",
            "StorageBackendError": "taskiq_flow.exceptions",
            "StorageCacheAdapter": "taskiq_flow.cache",
            "StorageConnectionError": "taskiq_flow.exceptions",
            "StorageEntry": "taskiq_flow.storage",
            "StorageError": "taskiq_flow.exceptions",
            "StorageMiddleware": "taskiq_flow.middlewares",
            "StorageResultBackend": "taskiq_flow.result_backend",
            "StorageScheduleSource": "taskiq_flow.schedule_source",
            "TaskiqFlowConfig": "taskiq_flow.config",
            "TaskiqFlowError": "taskiq_flow.exceptions",
            "UnstorableResultError": "taskiq_flow.exceptions",
            "UnsupportedOperationError": "taskiq_flow.exceptions",
            "__version__": "taskiq_flow._version",
        },
    )
