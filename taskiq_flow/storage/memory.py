"""``InMemoryStorageAdapter``: entries in a dict of this process, for development and tests.

It keeps the text that a database would keep, so that a value which could not be stored there is refused here too, and
changing an object that was stored changes nothing.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable
from typing import ClassVar
from weakref import WeakValueDictionary

from taskiq_flow.storage import rules
from taskiq_flow.storage.backend import DEFAULT_TIMEOUT, BackendAdapter, Record

__all__ = ["InMemoryStorageAdapter", "InMemoryStore"]


class InMemoryStore:
    """What in-memory adapters store in: hand the same one to several adapters, as if they shared a server."""

    _named: ClassVar[WeakValueDictionary[str, "InMemoryStore"]] = WeakValueDictionary()
    _naming: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.lock = threading.Lock()
        self.records: defaultdict[str, dict[str, Record]] = defaultdict(dict)

    @classmethod
    def named(cls, name: str) -> "InMemoryStore":
        """Return this process's store of that name; it lives as long as something refers to it."""
        with cls._naming:
            store = cls._named.get(name)
            if store is None:
                store = cls._named[name] = cls(name)
            return store


class InMemoryStorageAdapter(BackendAdapter):
    """Entries in this process's memory, gone when it ends, shared with no other process.

    :param ttl_seconds: default time to live in seconds; None for no expiry.
    :param namespace: see :class:`BackendAdapter`.
    :param store: where to keep the entries; by default one that no other adapter has.
    """

    backend = "memory"

    def __init__(
        self,
        ttl_seconds: float | None = None,
        *,
        namespace: str = rules.DEFAULT_NAMESPACE,
        store: InMemoryStore | None = None,
    ) -> None:
        super().__init__(namespace=namespace, ttl_seconds=ttl_seconds, operation_timeout=DEFAULT_TIMEOUT)
        self._store = store or InMemoryStore()

    # A threading.Lock, held for dictionary work only and never across an await: adapters on one store may be used from
    # the event loops of several threads, which an asyncio.Lock does not allow.

    async def _read(self, key: str, now: int) -> Record | None:
        with self._store.lock:
            record = self._records.get(key)
        return record if record is not None and record.is_live(now) else None

    async def _write(self, key: str, record: Record, now: int) -> None:
        with self._store.lock:
            self._records[key] = record

    async def _remove(self, key: str, now: int) -> bool:
        with self._store.lock:
            record = self._records.get(key)
            if record is None or not record.is_live(now):
                return False
            del self._records[key]
            return True

    async def _discard(self, key: str) -> None:
        with self._store.lock:
            self._records.pop(key, None)

    async def _exchange(self, key: str, seen: Record | None, record: Record | None, now: int) -> bool:
        with self._store.lock:
            found = self._records.get(key)
            if (found if found is not None and found.is_live(now) else None) != seen:
                return False
            self._records.pop(key, None)
            if record is not None:
                self._records[key] = record
            return True

    async def _is_live(self, key: str, now: int) -> bool:
        return await self._read(key, now) is not None

    async def _live_keys(self, prefix: str, now: int) -> Iterable[str]:
        with self._store.lock:
            return [key for key, record in self._records.items() if key.startswith(prefix) and record.is_live(now)]

    async def _purge(self, now: int) -> int:
        with self._store.lock:
            expired = [key for key, record in self._records.items() if not record.is_live(now)]
            for key in expired:
                del self._records[key]
        return len(expired)

    @property
    def _records(self) -> dict[str, Record]:
        return self._store.records[self.namespace]

    def _address(self) -> str:
        return f"memory://{self._store.name}"
