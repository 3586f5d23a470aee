"""The import path ``taskiq_flow.storage.sqlalchemy``; the adapter is in :mod:`taskiq_flow.storage.sql`."""

from taskiq_flow.storage.sql import SQLAlchemyStorageAdapter, SQLiteStorageAdapter

__all__ = ["SQLAlchemyStorageAdapter", "SQLiteStorageAdapter"]
