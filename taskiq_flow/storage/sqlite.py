"""The import path ``taskiq_flow.storage.sqlite``; the adapter is in :mod:`taskiq_flow.storage.sql`."""

from taskiq_flow.storage.sql import SQLiteStorageAdapter

__all__ = ["SQLiteStorageAdapter"]
