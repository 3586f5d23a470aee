"""Middlewares for taskiq brokers: one keeps results in a storage, one caches them, one runs pipelines.

Names are loaded on first use.
"""

from typing import TYPE_CHECKING

from taskiq_flow._lazy import lazy_names

if TYPE_CHECKING:
    from taskiq_flow.middlewares._losses import LostResult
    from taskiq_flow.middlewares.cache import CacheMiddleware
    from taskiq_flow.middlewares.pipeline import PipelineMiddleware
    from taskiq_flow.middlewares.storage import StorageMiddleware

__all__ = ["CacheMiddleware", "LostResult", "PipelineMiddleware", "StorageMiddleware"]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "CacheMiddleware": "taskiq_flow.middlewares.cache",
            "LostResult": "taskiq_flow.middlewares._losses",
            "PipelineMiddleware": "taskiq_flow.middlewares.pipeline",
            "StorageMiddleware": "taskiq_flow.middlewares.storage",
        },
    )
