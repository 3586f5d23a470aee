"""``BackendAdapter``: what the adapters of this package share.

A public method checks its arguments, encodes, asks the clock once, and calls one small hook that stores or fetches;
errors of drivers and time-outs are translated here, in one place. A backend is the hooks and nothing else.
"""

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

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
from taskiq_flow.storage.expiry import Piece
from taskiq_flow.storage.failures import Diagnosis, Failure
from taskiq_flow.storage.testing import Call, KitSupport, interceptor
from taskiq_flow.storage.urls import scrubbed, without_secrets

__all__ = ["DEFAULT_TIMEOUT", "BackendAdapter", "Record", "decode_times", "without_frames"]

T = TypeVar("T")

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
    _secret_url = ""
    """The URL as it was given, whose secrets no message may show."""

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
        found = await self._call(lambda: self._live_keys(prefix, clock.now_ms()), "keys", pattern)
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

    @abstractmethod
    def _address(self) -> str:
        """Return where this adapter stores, for people, without secrets."""

    def _diagnose(self, error: Exception) -> Diagnosis | None:
        """Return what a driver's error means; None if it is not a driver's."""
        return None

    def _slot(self) -> AbstractAsyncContextManager[None]:
        """Return what a call holds while it is under way: where connections are limited, one of them."""
        return nullcontext()

    async def _drop_connections(self) -> None:
        """Close idle connections: they lead to a server that has handed its role to another."""

    # --- shared machinery -----------------------------------------------------------------------------------------

    def _new_record(self, key: str, value: Any, ttl_seconds: float | None) -> Record:
        ttl = self._default_ttl_ms if ttl_seconds is None else rules.ttl_ms(ttl_seconds)
        text = serialization.dumps(value, f"the value for key {key!r}, at value")
        now = clock.now_ms()
        return Record(text, created_at=now, expires_at=None if ttl is None else now + ttl, metadata="{}")

    async def _clean(self, after: str | None) -> Piece:
        return await self._call(lambda: self._purge_piece(clock.now_ms(), after), "cleanup")

    async def _fetch(self, key: str) -> Record | None:
        return await self._call(lambda: self._read(key, clock.now_ms()), "get", key)

    def _decode(self, key: str, text: str) -> Any:
        try:
            return serialization.loads(text)
        except SerializationError as error:
            raise _unreadable(key, str(error)) from None

    async def _call(self, work: Callable[[], Awaitable[T]], name: str, *arguments: str) -> T:
        """Return what ``work`` returns; what its driver raises becomes an error of this package."""
        if (surround := interceptor()) is None:
            return await self._translated(work, name, arguments)
        unreachable = partial(self._unreachable, _doing(name, arguments))
        async with surround(Call(self, name, arguments, self._operation_timeout, unreachable)):
            return await self._translated(work, name, arguments)

    async def _translated(self, work: Callable[[], Awaitable[T]], name: str, arguments: tuple[str, ...]) -> T:
        try:
            return await self._in_time(work)
        except TaskiqFlowError:
            raise
        except Exception as error:
            failed, cause = self._explained(error, _doing(name, arguments))
            if failed is None:
                raise
            raise failed from without_frames(cause)

    async def _in_time(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return what ``work`` returns within the operation's time-out, tried once more where nothing was done."""
        with within(self._operation_timeout):
            async with self._slot():
                try:
                    return await work()
                except Exception as error:
                    diagnosis = self._diagnosed(error)
                    if diagnosis is None or not diagnosis.may_be_repeated:
                        raise
                await self._drop_connections()
                return await work()
        raise TimeoutError

    def _diagnosed(self, error: Exception) -> Diagnosis | None:
        # The time-out has no message, and is an OSError, which adapters sort by its message.
        if isinstance(error, TimeoutError) and not str(error):
            return Diagnosis(Failure.TIMEOUT, f"no answer within {self._operation_timeout:g} s")
        return self._diagnose(error)

    def _explained(self, error: Exception, doing: str) -> tuple[StorageError | None, BaseException]:
        """Return the error to raise, None for what is not a driver's, and its cause, both without secrets."""
        diagnosis = self._diagnosed(error)
        if diagnosis is None:
            return None, error
        without_secrets(error, self._secret_url)
        return self._failed(doing, diagnosis), without_secrets(diagnosis.cause or error, self._secret_url)

    def _failed(self, doing: str, diagnosis: Diagnosis) -> StorageError:
        """Return the error to raise."""
        failure, reason = diagnosis.failure, scrubbed(diagnosis.reason, self._secret_url)
        if diagnosis.is_foreign_entry:
            return SerializationError(f"the entry under {doing} is not one of ours: {reason:.200}")
        if diagnosis.while_connecting:
            return self._unreachable("connecting", reason, failure)
        if failure in {Failure.LOST, Failure.TIMEOUT} or diagnosis.refuses_connection:
            return self._unreachable(doing, reason, failure)
        return StorageBackendError(f"{self.backend} at {self._address()} refused {doing}: {reason}", failure)

    def _unreachable(self, doing: str, reason: object, failure: Failure = Failure.TIMEOUT) -> StorageConnectionError:
        return StorageConnectionError(f"{self.backend} at {self._address()}: {doing} failed: {reason}", failure)

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
