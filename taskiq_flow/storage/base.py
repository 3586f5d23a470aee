"""``BaseStorageAdapter``: the interface of a storage adapter.

Six methods are abstract. What a custom adapter does not define beside them has a default here that is built on those
six, or raises :class:`~taskiq_flow.exceptions.UnsupportedOperationError`.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from enum import Enum
from types import TracebackType
from typing import Any, Final, Literal, Self

from taskiq_flow import serialization
from taskiq_flow.exceptions import SerializationError, UnsupportedOperationError
from taskiq_flow.storage import rules
from taskiq_flow.storage.entry import StorageEntry

__all__ = ["ABSENT", "Absent", "BaseStorageAdapter"]


logger = logging.getLogger(__name__)


class Absent(Enum):
    """The type of :data:`ABSENT`."""

    ABSENT = "no entry"


ABSENT: Final = Absent.ABSENT
"""Stands for "no live entry", where None would be a value."""


class BaseStorageAdapter(ABC):
    """What every storage promises; the rules behind each method are those of docs/contract.md.

    An adapter is an asynchronous context manager; leaving the block closes what the adapter opened.
    """

    ttl_seconds: float | None = None
    """The time to live, in seconds, of what is stored without one; None for no expiry."""

    @abstractmethod
    async def get(self, key: str) -> Any | None:
        """Return a copy of the value under ``key``; None if there is none, or it has expired.

        :raises InvalidKeyError: if the key is not legal.
        :raises SerializationError: if what is stored there is damaged or foreign.
        """

    @abstractmethod
    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        """Store a copy of ``value``, replacing value, expiry, creation time and metadata of what was there, at once.

        :param ttl_seconds: seconds to live, above 0, to the millisecond; None for the adapter's default.
        :raises InvalidKeyError: if the key is not legal.
        :raises InvalidTTLError: if the time to live is not legal (it is a ``ValueError`` too).
        :raises SerializationError: if the value would not come back as it is; what was stored before stays.
        """

    @abstractmethod
    async def delete(self, key: str) -> bool:
        """Remove the entry under ``key``; return whether a live one was there.

        :raises InvalidKeyError: if the key is not legal.
        """

    @abstractmethod
    async def exists(self, key: str) -> bool:
        """Return whether a live entry is under ``key``, whatever its value; it may be None.

        :raises InvalidKeyError: if the key is not legal.
        """

    @abstractmethod
    async def keys(self, pattern: str = "*") -> list[str]:
        """Return the keys of live entries that match ``pattern``, sorted, each once.

        :param pattern: as for ``fnmatch.fnmatchcase``: ``*``, ``?``, ``[seq]``, ``[!seq]``.
        :raises InvalidKeyError: if the pattern is longer than 4,096 characters (it is a ``ValueError`` too).
        """

    @abstractmethod
    async def cleanup(self, ttl_seconds: int = 3600) -> int:
        """Remove what has expired in this namespace and return how many entries that were.

        :param ttl_seconds: kept for compatibility and without effect: an entry goes when its own time has come, and
            never earlier.
        """

    async def get_entry(self, key: str) -> StorageEntry | None:
        """Return the whole entry under ``key`` with its times and metadata; None if there is none, or it has expired.

        :raises UnsupportedOperationError: if this adapter keeps only values.
        """
        raise UnsupportedOperationError(
            f"{type(self).__name__} keeps values only: it has no get_entry(), which needs creation time and metadata"
        )

    async def set_entry(self, entry: StorageEntry) -> None:
        """Store ``entry`` with its own times and metadata; one that has expired already only removes what was there.

        :raises UnsupportedOperationError: if this adapter keeps only values.
        """
        raise UnsupportedOperationError(
            f"{type(self).__name__} keeps values only: it has no set_entry(), which needs creation time and metadata"
        )

    async def compare_and_set(
        self,
        key: str,
        expected: Any | Literal[Absent.ABSENT],
        value: Any | Literal[Absent.ABSENT],
        ttl_seconds: float | None = None,
    ) -> bool:
        """Store ``value`` if the one under ``key`` still is ``expected``, in one atomic step; return whether it was.

        :param expected: the value that must be there, :data:`ABSENT` for none. It is compared as it would be stored:
            1 is not 1.0, and the order of a dict's keys counts.
        :param value: the value to store; :data:`ABSENT` removes the entry.
        :param ttl_seconds: as for :meth:`set`.
        :raises UnsupportedOperationError: if this adapter has nothing that is atomic over a read and a write.
        """
        raise UnsupportedOperationError(
            f"{type(self).__name__} has no compare_and_set(): it has nothing that is atomic over a read and a write"
        )

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return copies of the values under those of ``keys`` that have a live entry, in the order of ``keys``.

        :raises InvalidKeyError: if a key is not legal.
        :raises SerializationError: if what is stored under one of them is damaged or foreign.
        """
        found: dict[str, Any] = {}
        for key in list(keys):
            value = await self.get(key)
            if value is not None or await self.exists(key):
                found[key] = value
        return found

    async def set_many(self, entries: Mapping[str, Any], ttl_seconds: float | None = None) -> None:
        """Store a copy of each value under its key, in the order of ``entries``.

        A key, value or time to live that is not legal is refused before anything is stored; each entry is stored whole,
        but not all of them at once.

        :param entries: the values by their keys.
        :param ttl_seconds: as for :meth:`set`.
        :raises InvalidKeyError: if a key is not legal.
        :raises InvalidTTLError: if the time to live is not.
        :raises SerializationError: if a value would not come back as it is.
        """
        for key, value in entries.items():
            rules.checked_key(key)
            serialization.dumps(value, f"the value for key {key!r}, at value")
        if ttl_seconds is not None:
            rules.ttl_ms(ttl_seconds)
        for key, value in entries.items():
            await self.set(key, value, ttl_seconds)

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Remove the entries under ``keys``; return how many live ones were there.

        :raises InvalidKeyError: if a key is not legal; then nothing is removed.
        """
        checked = [rules.checked_key(key) for key in keys]
        return sum([await self.delete(key) for key in checked])

    async def entries(self, pattern: str = "*") -> AsyncIterator[StorageEntry]:
        """Yield the live entries whose keys match ``pattern``, sorted by key.

        One that is damaged or foreign is left out, which the log says; one that is stored or removed in the meantime
        may be among them or not. Of an adapter that keeps values only, an entry's creation time is that of the call.

        :param pattern: as for :meth:`keys`.
        """
        for key in await self.keys(pattern):
            try:
                entry = await self._entry(key)
            except SerializationError as error:
                logger.warning("%r left out a damaged entry: %s", self, error)
                continue
            if entry is not None:
                yield entry

    async def _entry(self, key: str) -> StorageEntry | None:
        try:
            return await self.get_entry(key)
        except UnsupportedOperationError:
            found = await self.get_many([key])
            return StorageEntry(key, found[key]) if key in found else None

    async def aclose(self) -> None:  # noqa: B027 - a default, not an obligation: many adapters open nothing
        """Close what this adapter opened, and nothing that it was handed. Closing twice is fine; use reopens it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
