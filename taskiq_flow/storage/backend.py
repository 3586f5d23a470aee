"""``BackendAdapter``: what the adapters of this package share.

A public method checks its arguments, encodes, asks the clock once, and calls one small hook that stores or fetches;
:mod:`taskiq_flow.storage.calls` bounds it in time and translates the driver's errors. A backend is the hooks and
nothing else.
"""

import logging
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

from taskiq_flow import clock, serialization
from taskiq_flow.exceptions import (
    SerializationError,
)
from taskiq_flow.storage import rules
from taskiq_flow.storage.base import ABSENT, Absent
from taskiq_flow.storage.calls import DEFAULT_TIMEOUT, ServerCalls, without_frames
from taskiq_flow.storage.entry import StorageEntry
from taskiq_flow.storage.expiry import Piece
from taskiq_flow.storage.testing import KitSupport

__all__ = ["DEFAULT_TIMEOUT", "BackendAdapter", "Record", "decode_times", "without_frames"]

logger = logging.getLogger(__name__)

_BATCH = 1000
"""Entries that one call to a server asks for, or stores."""


class Record(NamedTuple):
    """What a backend keeps: text and integers only. Times are milliseconds since the epoch."""

    value: str
    created_at: int
    expires_at: int | None
    metadata: str

    def is_live(self, now: int) -> bool:
        """Return whether the record has not expired at ``now`` (milliseconds)."""
        return self.expires_at is None or now < self.expires_at


class BackendAdapter(ServerCalls, KitSupport):
    """The contract's rules around a backend's hooks.

    :param namespace: entries of other namespaces on the same server are never seen, counted or removed.
    :param ttl_seconds: the default time to live in seconds; None means that entries never expire by default.
    :param operation_timeout: seconds that one call to the server may take, after which it is a
        ``StorageConnectionError``.
    """

    _pages: ClassVar[bool] = False
    """Whether the hooks ``_live_keys`` and ``_purge`` make many calls to the server."""

    def __init__(self, *, namespace: str, ttl_seconds: float | None, operation_timeout: float) -> None:
        self.namespace = rules.checked_namespace(namespace)
        self.ttl_seconds = ttl_seconds
        self._default_ttl_ms = None if ttl_seconds is None else rules.ttl_ms(ttl_seconds)
        self._operation_timeout = rules.checked_timeout("operation_timeout", operation_timeout)

    # --- the contract ---------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Any | None:
        """Return a copy of the value under ``key``; see :meth:`BaseStorageAdapter.get`."""
        key = rules.checked_key(key)
        record = await self._fetch(key)
        return None if record is None else self._decode(key, record.value)

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        """Store a copy of ``value``; see :meth:`BaseStorageAdapter.set`."""
        key = rules.checked_key(key)
        record = self._new_record(key, value, ttl_seconds)
        await self._call(lambda: self._write(key, record, record.created_at), "set", key)

    async def delete(self, key: str) -> bool:
        """Remove the entry under ``key``; see :meth:`BaseStorageAdapter.delete`."""
        key = rules.checked_key(key)
        return await self._call(lambda: self._remove(key, clock.now_ms()), "delete", key)

    async def exists(self, key: str) -> bool:
        """Return whether a live entry is under ``key``; see :meth:`BaseStorageAdapter.exists`."""
        key = rules.checked_key(key)
        return await self._call(lambda: self._is_live(key, clock.now_ms()), "exists", key)

    async def keys(self, pattern: str = "*") -> list[str]:
        """Return the live keys that match ``pattern``, sorted; see :meth:`BaseStorageAdapter.keys`."""
        pattern = rules.checked_pattern(pattern)
        prefix, matches = rules.literal_prefix(pattern), rules.matcher(pattern)
        if not _may_begin_a_key(prefix):
            return []
        found = await self._call(lambda: self._live_keys(prefix, clock.now_ms()), "keys", pattern, in_pages=self._pages)
        return sorted(key for key in found if matches(key))

    async def cleanup(self, ttl_seconds: int = 3600) -> int:
        """Remove the expired entries of this namespace and return how many; see :meth:`BaseStorageAdapter.cleanup`."""
        return sum([piece.removed async for piece in self.cleanup_pieces()])

    async def cleanup_pieces(self) -> AsyncIterator[Piece]:
        """Do what :meth:`cleanup` does, a piece at a time; yield what each did.

        :raises StorageError: as the other methods do; what has been removed before is gone.
        """
        after: str | None = None
        while True:
            piece = await self._clean(after)
            yield piece
            if (after := piece.after) is None:
                return

    async def count_entries(self) -> int | None:
        """Return how many entries this namespace has, live or not, as a measure of progress; None if that takes long.

        :raises StorageError: as the other methods do.
        """
        return await self._call(self._count_entries, "count_entries")

    async def get_entry(self, key: str) -> StorageEntry | None:
        """Return the whole entry under ``key``; None if there is none, or it has expired."""
        key = rules.checked_key(key)
        record = await self._fetch(key)
        return None if record is None else self._entry_of(key, record)

    async def set_entry(self, entry: StorageEntry) -> None:
        """Store ``entry`` with its own times and metadata.

        One that has expired already is not stored, and removes what was there.

        :raises InvalidKeyError: if the entry's key is not legal.
        :raises SerializationError: if its value or metadata would not come back as they are.
        """
        key = rules.checked_key(entry.key)
        if type(entry.metadata) is not dict:
            raise SerializationError(f"the metadata of key {key!r} must be a dict, not {entry.metadata!r}")
        record = Record(
            value=serialization.dumps(entry.value, f"the value for key {key!r}, at value"),
            created_at=clock.to_ms(entry.created_at),
            expires_at=None if entry.expires_at is None else clock.to_ms(entry.expires_at),
            metadata=serialization.dumps(entry.metadata, f"the metadata for key {key!r}, at metadata"),
        )
        now = clock.now_ms()
        store = partial(self._write, key, record, now) if record.is_live(now) else partial(self._discard, key)
        await self._call(store, "set_entry", key)

    async def compare_and_set(
        self,
        key: str,
        expected: Any | Literal[Absent.ABSENT],
        value: Any | Literal[Absent.ABSENT],
        ttl_seconds: float | None = None,
    ) -> bool:
        """Store ``value`` if the one under ``key`` still is ``expected``; see `BaseStorageAdapter.compare_and_set`."""
        key = rules.checked_key(key)
        wanted = None if expected is ABSENT else serialization.dumps(expected, f"the value expected at key {key!r}")
        record = self._new_record(key, None if value is ABSENT else value, ttl_seconds)
        now = record.created_at

        async def exchange() -> bool:
            seen = await self._read(key, now)
            found = None if seen is None else serialization.dumps(self._decode(key, seen.value))
            if found != wanted:
                return False
            if seen is None and value is ABSENT:
                return True  # nothing is there, and nothing is to be: what has expired is left to `cleanup`
            return await self._exchange(key, seen, None if value is ABSENT else record, now)

        return await self._call(exchange, "compare_and_set", key)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return copies of the values under ``keys``; see :meth:`BaseStorageAdapter.get_many`."""
        checked = [rules.checked_key(key) for key in keys]
        found = await self._fetch_many(checked, "get_many")
        return {key: self._decode(key, found[key].value) for key in checked if key in found}

    async def set_many(self, entries: Mapping[str, Any], ttl_seconds: float | None = None) -> None:
        """Store a copy of each value under its key; see :meth:`BaseStorageAdapter.set_many`."""
        records = {
            (checked := rules.checked_key(key)): self._new_record(checked, value, ttl_seconds)
            for key, value in entries.items()
        }
        now = clock.now_ms()

        async def store() -> None:
            for batch in _batches(list(records)):
                await self._in_time(partial(self._write_many, {key: records[key] for key in batch}, now))

        await self._call(store, "set_many", *records, in_pages=True)

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Remove the entries under ``keys``; see :meth:`BaseStorageAdapter.delete_many`."""
        checked = list(dict.fromkeys(rules.checked_key(key) for key in keys))
        now = clock.now_ms()

        async def remove() -> int:
            return sum([await self._in_time(partial(self._remove_many, batch, now)) for batch in _batches(checked)])

        return await self._call(remove, "delete_many", *checked, in_pages=True)

    async def entries(self, pattern: str = "*") -> AsyncIterator[StorageEntry]:
        """Yield the live entries whose keys match ``pattern``; see :meth:`BaseStorageAdapter.entries`."""
        for batch in _batches(await self.keys(pattern)):
            try:
                found = await self._fetch_many(batch, "entries")
            except SerializationError:  # one of them, which the backend does not tell: one by one
                found = {}
                for key in batch:
                    with self._damage_logged():
                        found |= await self._fetch_many([key], "entries")
            for key in batch:
                if (record := found.get(key)) is not None:
                    entry = None
                    with self._damage_logged():
                        entry = self._entry_of(key, record)
                    if entry is not None:
                        yield entry

    # --- the hooks: `now` is milliseconds, keys are checked ----------------------------------------------------------

    @abstractmethod
    async def _read(self, key: str, now: int) -> Record | None:
        """Return the record under ``key`` if it is live."""

    @abstractmethod
    async def _write(self, key: str, record: Record, now: int) -> None:
        """Store ``record`` whole, in one atomic step, whatever was there."""

    @abstractmethod
    async def _remove(self, key: str, now: int) -> bool:
        """Remove the record under ``key`` if it is live; return whether it was."""

    @abstractmethod
    async def _discard(self, key: str) -> None:
        """Remove the record under ``key``, live or not."""

    @abstractmethod
    async def _exchange(self, key: str, seen: Record | None, record: Record | None, now: int) -> bool:
        """Replace what is under ``key``, or remove it (``record`` is None), in one atomic step, if that is still
        exactly what was ``seen``: a record, or nothing live (None). Return whether it was.
        """

    @abstractmethod
    async def _is_live(self, key: str, now: int) -> bool:
        """Return whether a live record is under ``key``."""

    @abstractmethod
    async def _live_keys(self, prefix: str, now: int) -> Iterable[str]:
        """Return the keys of the live records that begin with ``prefix``, in any order, each once."""

    async def _count_entries(self) -> int | None:
        """Return how many records of this namespace there are; None where the server does not know at once."""
        return None

    async def _purge(self, now: int) -> int:
        """Remove the records of this namespace that have expired; return how many."""
        raise NotImplementedError("a backend has this hook, or the one for pieces")

    async def _purge_piece(self, now: int, after: str | None) -> Piece:
        """Remove the records that have expired among those whose keys follow ``after``: as many as take no time that
        anybody would notice.
        """
        removed = await self._purge(now)
        return Piece(removed, removed, None)

    async def _read_many(self, keys: list[str], now: int) -> dict[str, Record]:
        """Return the live records under ``keys``, of which there are a thousand at most."""
        found = [(key, await self._read(key, now)) for key in keys]
        return {key: record for key, record in found if record is not None}

    async def _write_many(self, records: dict[str, Record], now: int) -> None:
        """Store each of up to a thousand records whole, in the order of ``records``."""
        for key, record in records.items():
            await self._write(key, record, now)

    async def _remove_many(self, keys: list[str], now: int) -> int:
        """Remove the live records under ``keys``, of which there are a thousand at most; return how many."""
        return sum([await self._remove(key, now) for key in keys])

    # --- shared machinery -----------------------------------------------------------------------------------------

    def _new_record(self, key: str, value: Any, ttl_seconds: float | None) -> Record:
        ttl = self._default_ttl_ms if ttl_seconds is None else rules.ttl_ms(ttl_seconds)
        text = serialization.dumps(value, f"the value for key {key!r}, at value")
        now = clock.now_ms()
        return Record(text, created_at=now, expires_at=None if ttl is None else now + ttl, metadata="{}")

    async def _clean(self, after: str | None) -> Piece:
        return await self._call(lambda: self._purge_piece(clock.now_ms(), after), "cleanup", in_pages=self._pages)

    async def _fetch(self, key: str) -> Record | None:
        return await self._call(lambda: self._read(key, clock.now_ms()), "get", key)

    async def _fetch_many(self, keys: list[str], operation: str) -> dict[str, Record]:
        now = clock.now_ms()

        async def fetch() -> dict[str, Record]:
            found: dict[str, Record] = {}
            for batch in _batches(keys):
                found |= await self._in_time(partial(self._read_many, batch, now))
            return found

        return await self._call(fetch, operation, *keys, in_pages=True)

    def _entry_of(self, key: str, record: Record) -> StorageEntry:
        value, metadata = self._decode(key, record.value), self._decode(key, record.metadata)
        if not isinstance(metadata, dict):
            raise _unreadable(key, "its metadata is no dict")
        created_at, expires_at = decode_times(key, record)
        return StorageEntry(key, value, created_at, expires_at, metadata)

    @contextmanager
    def _damage_logged(self) -> Iterator[None]:
        try:
            yield
        except SerializationError as error:
            logger.warning("%r left out a damaged entry: %s", self, error)

    def _decode(self, key: str, text: str) -> Any:
        try:
            return serialization.loads(text)
        except SerializationError as error:
            raise _unreadable(key, str(error)) from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address()}, namespace={self.namespace!r})"


def _batches(keys: list[str]) -> list[list[str]]:
    return [keys[start : start + _BATCH] for start in range(0, len(keys), _BATCH)]


def decode_times(key: str, record: Record) -> tuple[Any, Any]:
    """Return creation time and expiry of a record as datetimes.

    :raises SerializationError: if they are beyond what a datetime can hold.
    """
    try:
        return clock.from_ms(record.created_at), None if record.expires_at is None else clock.from_ms(record.expires_at)
    except OverflowError:
        raise _unreadable(key, "its times are out of range") from None


def _unreadable(key: str, why: str) -> SerializationError:
    return SerializationError(f"the entry under key {key!r} cannot be read: {why}")


def _may_begin_a_key(prefix: str) -> bool:
    """Return False for a prefix that no legal key has; a database might refuse it, and would find nothing."""
    try:
        return "\0" not in prefix and len(prefix.encode()) <= rules.MAX_KEY_BYTES
    except UnicodeEncodeError:
        return False
