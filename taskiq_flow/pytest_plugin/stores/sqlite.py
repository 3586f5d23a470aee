"""``sqlite``: the SQL adapter on a file."""

from typing import TYPE_CHECKING, Any

from taskiq_flow.pytest_plugin.stores._cleaning import PeriodicCleaning
from taskiq_flow.pytest_plugin.stores.base import IsolatedStore, Process, StorageBackend
from taskiq_flow.pytest_plugin.stores.sql import SQLCleaner, SQLStorage

if TYPE_CHECKING:
    import sqlite3

__all__ = ["STORAGES", "SQLiteStorage"]


class SQLiteStorage(SQLStorage):
    """One file for each process, one namespace for each test: to make a database costs more than most tests."""

    name = "sqlite"
    position = 30

    def begin(self, process: Process) -> None:
        """Note where the process' file is to be."""
        # Of a process that was forked, the parent's connection must neither be used nor closed here.
        self._parents_connection = getattr(self, "_connection", None)
        self._connection: sqlite3.Connection | None = None
        super().begin(process)
        self._url = f"sqlite+aiosqlite:///{process.run.database_folder / process.worker}.db"
        self._cleaning = PeriodicCleaning(process, lambda: SQLCleaner(self._url, process.run.id))

    def open(self, namespace: str) -> IsolatedStore:
        """Return a store in the process' file."""
        import sqlite3

        if self._connection is None:
            # Whoever is the last to close a database in this mode tidies it up, which costs more than most tests, too:
            # so this connection stays open.
            self._connection = sqlite3.connect(self.process.run.database_folder / f"{self.process.worker}.db")
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("SELECT name FROM sqlite_master").fetchall()
        backend = StorageBackend(self.name, False, "a file", f"SQLite {sqlite3.sqlite_version}", self._url)
        return IsolatedStore(self, backend, namespace, self.process.run.id, clear=self._cleaning.test_is_over)

    def close(self) -> None:
        """Close the file, which goes with the run's folder."""
        self._cleaning.close()
        if self._connection is not None:
            self._connection.close()


STORAGES: tuple[Any, ...] = (SQLiteStorage(),)
