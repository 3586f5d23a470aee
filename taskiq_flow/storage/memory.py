"""``InMemoryStorageAdapter``: entries in a dict of this process, for development and tests.

It keeps the text that a database would keep, so that a value which could not be stored there is refused here too, and
changing an object that was stored changes nothing.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable
from typing import ClassVar
from weakref import WeakValueDictionary

import anyio
import anyio.lowlevel

from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.storage import rules
from taskiq_flow.storage.backend import DEFAULT_TIMEOUT, BackendAdapter, Record
from taskiq_flow.storage.expiry import Deadlines

__all__ = ["InMemoryStorageAdapter", "InMemoryStore"]

_PIECE = 5000
"""How many entries ``cleanup()`` looks at before it lets others get their turn."""


class InMemoryStore:
    """What in-memory adapters store in: hand the same one to several adapters, as if they shared a server."""

    _named: ClassVar[WeakValueDictionary[str, "InMemoryStore"]] = WeakValueDictionary()
    _naming: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.lock = threading.Lock()
        self.records: defaultdict[str, dict[str, Record]] = defaultdict(dict)
        self.deadlines: defaultdict[str, Deadlines] = defaultdict(Deadlines)

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
    :param max_entries: how many entries may be there; above that, the one goes that was read or written longest ago.
        None for no limit.
    :raises ConfigurationError: if ``max_entries`` is not a number above 0.
    """

    backend = "memory"

    def __init__(
        self,
        ttl_seconds: float | None = None,
        *,
        namespace: str = rules.DEFAULT_NAMESPACE,
        store: InMemoryStore | None = None,
        max_entries: int | None = None,
    ) -> None:
        super().__init__(namespace=namespace, ttl_seconds=ttl_seconds, operation_timeout=DEFAULT_TIMEOUT)
        if max_entries is not None and (type(max_entries) is not int or max_entries < 1):
            raise ConfigurationError(f"max_entries must be a number above 0, or None, not {max_entries!r}")
        self._store = store or InMemoryStore()
        self._max_entries = max_entries

    # A threading.Lock, held for dictionary work only and never across an await: adapters on one store may be used from
    # the event loops of several threads, which an asyncio.Lock does not allow.

    async def _read(self, key: str, now: int) -> Record | None:
        with self._store.lock:
            record = self._records.get(key)
            if record is not None and self._max_entries is not None:
                self._records[key] = self._records.pop(key)
        return record if record is not None and record.is_live(now) else None

    async def _write(self, key: str, record: Record, now: int) -> None:
        with self._store.lock:
            self._put(key, record, now)

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
                self._put(key, record, now)
            return True

    async def _is_live(self, key: str, now: int) -> bool:
        return await self._read(key, now) is not None

    async def _live_keys(self, prefix: str, now: int) -> Iterable[str]:
        with self._store.lock:
            return [key for key, record in self._records.items() if key.startswith(prefix) and record.is_live(now)]

    async def _purge(self, now: int) -> int:
        removed, keys = 0, list(self._records)
        for begin in range(0, len(keys), _PIECE):
            with self._store.lock:
                for key in keys[begin : begin + _PIECE]:
                    if (record := self._records.get(key)) is not None and not record.is_live(now):
                        del self._records[key]
                        removed += 1
            await anyio.lowlevel.checkpoint()  # others get their turn
        return removed

    def _put(self, key: str, record: Record, now: int) -> None:
        """Store a record, and remove a few that have expired, and what is above ``max_entries``."""
        records, deadlines = self._records, self._store.deadlines[self.namespace]
        records.pop(key, None)  # a new entry comes last
        records[key] = record
        deadlines.note(key, record.expires_at, records)
        for passed in deadlines.passed(now, records):
            del records[passed]
        while self._max_entries is not None and len(records) > self._max_entries:
            del records[next(iter(records))]

    @property
    def _records(self) -> dict[str, Record]:
        return self._store.records[self.namespace]

    def _address(self) -> str:
        return f"memory://{self._store.name}"
