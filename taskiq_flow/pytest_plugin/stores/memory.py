"""``memory``: the in-memory adapter, on a store of the test's own."""

from typing import TYPE_CHECKING, Any

from taskiq_flow.pytest_plugin.stores.base import IsolatedStore, StorageBackend, StorageKind

if TYPE_CHECKING:
    from taskiq_flow.storage.memory import InMemoryStorageAdapter

__all__ = ["STORAGES", "MemoryStorage"]


class MemoryStorage(StorageKind):
    """Entries in this process' memory."""

    name = "memory"
    position = 10
    adapter = "taskiq_flow.storage.memory.InMemoryStorageAdapter"

    def open(self, namespace: str) -> IsolatedStore:
        """Return a store that the factory finds by its name; it lives as long as what is returned."""
        from taskiq_flow.storage.memory import InMemoryStore

        store = InMemoryStore.named(namespace)
        backend = StorageBackend(self.name, False, "in this process", "", f"memory://{namespace}")
        return IsolatedStore(self, backend, namespace, self.process.run.id, clear=store.records.clear)

    async def read_raw(self, adapter: "InMemoryStorageAdapter", key: str) -> bytes | None:
        """Return the value's text; expiry and the like are kept beside it."""
        record = adapter._records.get(key)
        return None if record is None else record.value.encode()

    async def write_raw(self, adapter: "InMemoryStorageAdapter", key: str, data: bytes) -> bool:
        """Replace the value's text; data that is no text cannot be stored."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return False
        with adapter._store.lock:
            adapter._records[key] = adapter._records[key]._replace(value=text)
        return True


STORAGES: tuple[Any, ...] = (MemoryStorage(),)
