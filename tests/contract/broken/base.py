"""The adapter that most of the broken ones are made of."""

from taskiq_flow.storage import InMemoryStorageAdapter, InMemoryStore
from taskiq_flow.storage.backend import Record


class Memory(InMemoryStorageAdapter):
    """The in-memory adapter, with its store at hand; nothing is broken here."""

    @property
    def store(self) -> InMemoryStore:
        return self._store

    def record(self, key: str) -> Record | None:
        return self._records.get(key)
