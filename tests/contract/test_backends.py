"""The contract suite on every storage of this package."""

from taskiq_flow.pytest_plugin import StorageAdapterContract


class TestEveryStorage(StorageAdapterContract):
    """The plugin's own fixtures: memory, fakeredis, SQLite, and real Redis and PostgreSQL."""
