"""Entries in a table of any database that SQLAlchemy reaches: :class:`SQLAlchemyStorageAdapter` and its parts."""

from taskiq_flow.storage.sql.adapter import SQLAlchemyStorageAdapter, SQLiteStorageAdapter

__all__ = ["SQLAlchemyStorageAdapter", "SQLiteStorageAdapter"]
