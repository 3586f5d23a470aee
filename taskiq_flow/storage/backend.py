"""``BackendAdapter``: what the adapters of this package share.

A public method checks its arguments, encodes, asks the clock once, and calls one small hook that stores or fetches;
errors of drivers and time-outs are translated here, in one place. A backend is the hooks and nothing else.
"""

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

from taskiq_flow import clock, serialization
from taskiq_flow.exceptions import (
    SerializationError,
    StorageBackendError,
    StorageConnectionError,
    StorageError,
    TaskiqFlowError,
)
from taskiq_flow.storage import rules
from taskiq_flow.storage.base import ABSENT, Absent, BaseStorageAdapter
from taskiq_flow.storage.cancellation import within
from taskiq_flow.storage.entry import StorageEntry
from taskiq_flow.storage.testing import Call, Interceptor, KitSupport, interceptor

__all__ = ["DEFAULT_TIMEOUT", "BackendAdapter", "Record", "decode_times", "without_frames"]

DEFAULT_TIMEOUT = 30.0
"""Seconds that one operation may take in all; connecting has a time-out of its own."""


class Record(NamedTuple):
    """What a backend keeps: text and integers only. Times are milliseconds since the epoch."""

    value: str
    created_at: int
    expires_at: int | None
    metadata: str

    def is_live(self, now: int) -> bool:
        """Return whether the record has not expired at ``now`` (milliseconds)."""
        return self.expires_at is None or now < self.expires_at


class BackendAdapter(BaseStorageAdapter, KitSupport):
    """The contract's rules around a backend's hooks.

    :param namespace: entries of other namespaces on the same server are never seen, counted or removed.
    :param ttl_seconds: the default time to live in seconds; None means that entries never expire by default.
    :param operation_timeout: seconds after which a call gives up with ``StorageConnectionError``.
    """

    backend: str
    """What messages call this backend."""

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
        async with self._operation("set", key):
            await self._write(key, record, record.created_at)

    async def delete(self, key: str) -> bool:
        """Remove the entry under ``key``; see :meth:`BaseStorageAdapter.delete`."""
        key = rules.checked_key(key)
        async with self._operation("delete", key):
            return await self._remove(key, clock.now_ms())

    async def exists(self, key: str) -> bool:
        """Return whether a live entry is under ``key``; see :meth:`BaseStorageAdapter.exists`."""
        key = rules.checked_key(key)
        async with self._operation("exists", key):
            return await self._is_live(key, clock.now_ms())

    async def keys(self, pattern: str = "*") -> list[str]:
        """Return the live keys that match ``pattern``, sorted; see :meth:`BaseStorageAdapter.keys`."""
        if not isinstance(pattern, str):
            raise TypeError(f"a key pattern must be a str, not {type(pattern).__name__}: {pattern!r}")
        prefix, matches = rules.literal_prefix(pattern), rules.matcher(pattern)
        if not _may_begin_a_key(prefix):
            return []
        async with self._operation("keys", pattern):
            found = await self._live_keys(prefix, clock.now_ms())
        return sorted(key for key in found if matches(key))

    async def cleanup(self, ttl_seconds: int = 3600) -> int:
        """Remove the expired entries of this namespace and return how many; see :meth:`BaseStorageAdapter.cleanup`."""
        async with self._operation("cleanup"):
            return await self._purge(clock.now_ms())

    async def get_entry(self, key: str) -> StorageEntry | None:
        """Return the whole entry under ``key``; None if there is none, or it has expired."""
        key = rules.checked_key(key)
        record = await self._fetch(key)
        if record is None:
            return None
        value, metadata = self._decode(key, record.value), self._decode(key, record.metadata)
        if not isinstance(metadata, dict):
            raise _unreadable(key, "its metadata is no dict")
        created_at, expires_at = decode_times(key, record)
        return StorageEntry(key, value, created_at, expires_at, metadata)

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
        async with self._operation("set_entry", key):
            if record.is_live(now):
                await self._write(key, record, now)
            else:
                await self._discard(key)

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
        async with self._operation("compare_and_set", key):
            seen = await self._read(key, now)
            found = None if seen is None else serialization.dumps(self._decode(key, seen.value))
            if found != wanted:
                return False
            if seen is None and value is ABSENT:
                return True  # nothing is there, and nothing is to be: what has expired is left to `cleanup`
            return await self._exchange(key, seen, None if value is ABSENT else record, now)

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

    @abstractmethod
    async def _purge(self, now: int) -> int:
        """Remove the records of this namespace that have expired; return how many."""

    @abstractmethod
    def _address(self) -> str:
        """Return where this adapter stores, for people, without secrets."""

    def _translated(self, error: Exception, doing: str) -> StorageError | None:
        """Return this package's error for a driver's, not yet raised; None if it is not a driver's."""
        return None

    # --- shared machinery -----------------------------------------------------------------------------------------

    def _new_record(self, key: str, value: Any, ttl_seconds: float | None) -> Record:
        ttl = self._default_ttl_ms if ttl_seconds is None else rules.ttl_ms(ttl_seconds)
        text = serialization.dumps(value, f"the value for key {key!r}, at value")
        now = clock.now_ms()
        return Record(text, created_at=now, expires_at=None if ttl is None else now + ttl, metadata="{}")

    async def _fetch(self, key: str) -> Record | None:
        async with self._operation("get", key):
            return await self._read(key, clock.now_ms())

    def _decode(self, key: str, text: str) -> Any:
        try:
            return serialization.loads(text)
        except SerializationError as error:
            raise _unreadable(key, str(error)) from None

    def _operation(self, name: str, *arguments: str) -> AbstractAsyncContextManager[None]:
        """Bound an operation in time, and translate the driver's errors."""
        bounded = self._bounded(name, *arguments)
        if (surround := interceptor()) is None:
            return bounded
        return self._intercepted(surround, name, arguments, bounded)

    @asynccontextmanager
    async def _intercepted(
        self, surround: Interceptor, name: str, arguments: tuple[str, ...], bounded: AbstractAsyncContextManager[None]
    ) -> AsyncIterator[None]:
        doing = _doing(name, arguments)
        call = Call(self, name, arguments, self._operation_timeout, partial(self._unreachable, doing))
        async with surround(call), bounded:
            yield

    @asynccontextmanager
    async def _bounded(self, name: str, *arguments: str) -> AsyncIterator[None]:
        try:
            with within(self._operation_timeout) as in_time:
                yield
            if in_time.cancelled_caught:
                raise TimeoutError
        except TaskiqFlowError:
            raise
        except Exception as error:
            doing = _doing(name, arguments)
            # The time-out has no message, and is an OSError, which adapters translate by its message.
            is_time_out = isinstance(error, TimeoutError) and not str(error)
            reason = f"no answer within {self._operation_timeout:g} s"
            translated = self._unreachable(doing, reason) if is_time_out else self._translated(error, doing)
            if translated is None:
                raise
            raise translated from without_frames(error)

    def _unreachable(self, doing: str, reason: object) -> StorageConnectionError:
        return StorageConnectionError(f"{self.backend} at {self._address()}: {doing} failed: {reason}")

    def _refused(self, doing: str, reason: object) -> StorageBackendError:
        return StorageBackendError(f"{self.backend} at {self._address()} refused {doing}: {reason}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address()}, namespace={self.namespace!r})"


def _doing(operation: str, arguments: tuple[str, ...]) -> str:
    """Return a call as messages show it."""
    return f"{operation}({', '.join(map(repr, arguments))})"


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


def without_frames(error: BaseException) -> BaseException:
    """Return a driver's error without its stack frames, whose arguments hold the password that a test runner prints."""
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__
    return error
