"""``StorageCacheAdapter``: a cache over any storage adapter.

Under a key there is a value, or a mark that somebody is creating it, or a mark that they failed. Every step from one to
the next is a ``compare_and_set`` from exactly what was seen, so that whoever was overtaken, because its lock ended, or
because the value was set or invalidated meanwhile, changes nothing any more.
"""

import asyncio
import dataclasses
import glob
import hashlib
import inspect
import logging
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple
from uuid import uuid4

import anyio
import pydantic

from taskiq_flow import serialization
from taskiq_flow.cache.base import BaseCacheAdapter, CacheStats
from taskiq_flow.exceptions import ConfigurationError, SerializationError, StorageError, UnsupportedOperationError
from taskiq_flow.records.errors import StoredError
from taskiq_flow.storage import rules
from taskiq_flow.storage.base import ABSENT, BaseStorageAdapter

__all__ = ["DEFAULT_LOCK_TIMEOUT", "DEFAULT_TTL", "StorageCacheAdapter"]

logger = logging.getLogger(__name__)

DEFAULT_TTL = 3600.0
"""Seconds that a cached value lives."""
DEFAULT_LOCK_TIMEOUT = 10.0
"""Seconds after which a creator that is not heard of is taken for dead."""

# Values lie in the storage as they are, for people to read; only the marks, and values that could be taken for one,
# are dicts with this key.
_MARK = "taskiq_flow:cache"
_VALUE, _CREATING, _FAILED = "value", "creating", "failed"

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1
"""Seconds between two looks at a key that another process is creating."""


class _Flight(NamedTuple):
    """A value on its way, for all callers of one cache object."""

    pilot: "asyncio.Task[Any] | None"
    """The task that brings it."""
    landing: "Future[str | None]"
    """The value's text; None where the pilot was cancelled. A Future of threads: callers may be on several loops."""


class StorageCacheAdapter(BaseCacheAdapter):
    """A cache over any storage adapter, under keys that begin with ``prefix``.

    One creates, and the others get its value, in one process or in many. Whoever creates a value holds its key for
    ``lock_timeout`` seconds: if it dies, another one creates after that; if it is only slow, another one does so as
    well, and what the slow one brings later is given to its callers and not stored. Those who wait in other processes
    look again every 0.1 s at most, and hold no connection in between.

    Over an adapter that has only the six methods of ``BaseStorageAdapter``, nothing is atomic over a read and a write:
    there, one creates in each process.

    :param storage: where the values are kept; it may be shared with whatever else an application stores.
    :param default_ttl: seconds that values live where nothing else is said; None for the storage's own default.
    :param lock_timeout: seconds, on ``taskiq_flow.clock``, as above; longer than creating a value takes.
    :param prefix: what the storage's keys begin with; two caches on one storage need two.
    :param owns_storage: whether closing this cache closes the storage.
    :raises ConfigurationError: ``storage`` is no adapter, or ``lock_timeout`` no number of seconds above 0.
    :raises InvalidTTLError: ``default_ttl`` is no legal time to live.
    """

    def __init__(
        self,
        storage: BaseStorageAdapter,
        default_ttl: float | None = DEFAULT_TTL,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
        *,
        prefix: str = "cache:",
        owns_storage: bool = False,
    ) -> None:
        if not isinstance(storage, BaseStorageAdapter):
            raise ConfigurationError(f"storage must be a BaseStorageAdapter, not {storage!r}")
        self.storage = storage
        self.default_ttl = _checked_ttl(default_ttl)
        self.lock_timeout = rules.checked_timeout("lock_timeout", lock_timeout)
        rules.ttl_ms(lock_timeout)
        self._prefix = rules.checked_key(prefix)
        rules.checked_key(prefix + "x" * 71)  # the longest that a hashed key may get
        self._owns_storage = owns_storage
        self._flights: dict[str, _Flight] = {}
        self._flights_lock = threading.Lock()  # held for dictionary work only, never across an await
        self._counts: Counter[str] = Counter()

    async def get(self, key: str, default: Any = None) -> Any:
        """Return a copy of the value under ``key``, or ``default``; see :meth:`BaseCacheAdapter.get`."""
        kind, value = await self._look(self._name(key))
        self._count("hits" if kind == _VALUE else "misses")
        return value if kind == _VALUE else default

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        """Store a copy of ``value``; see :meth:`BaseCacheAdapter.set`."""
        name, ttl = self._name(key), self._ttl(ttl_seconds)
        await self.storage.set(name, _as_stored(value), ttl)

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        """Return the value under ``key``, or what ``creator()`` makes; see :meth:`BaseCacheAdapter.get_or_create`."""
        name, ttl = self._name(key), self._ttl(ttl_seconds)
        found = await self.storage.get(name)
        kind, value = _read(name, found)
        if kind == _VALUE:
            self._count("hits")
            return value
        self._count("misses")
        while True:
            flight, is_new = self._join_flight(name)
            if is_new:
                text = await self._fly(name, flight, found, creator, ttl)
                return serialization.loads(text)
            if flight.pilot is asyncio.current_task():
                raise RuntimeError(f"the creator of cache key {key!r} asks for that key itself")
            landed = await asyncio.wrap_future(flight.landing)
            if landed is not None:
                self._count("waited")
                return serialization.loads(landed)
            # The pilot was cancelled: one of those who waited flies next.

    async def invalidate(self, key: str) -> bool:
        """Forget the value under ``key``; see :meth:`BaseCacheAdapter.invalidate`."""
        name = self._name(key)
        self._forget_flights(name)
        try:
            was_there = (await self._look(name))[0] == _VALUE
        except SerializationError:
            was_there = True
        return await self.storage.delete(name) and was_there

    async def clear(self) -> int:
        """Forget everything in this cache; see :meth:`BaseCacheAdapter.clear`."""
        self._forget_flights()
        removed = 0
        for name in await self.storage.keys(glob.escape(self._prefix) + "*"):
            removed += await self.storage.delete(name)
        return removed

    def get_stats(self) -> CacheStats:
        """Return what became of the calls of this object so far."""
        return CacheStats(**{each.name: self._counts[each.name] for each in dataclasses.fields(CacheStats)})

    async def aclose(self) -> None:
        """Close the storage if it is this cache's own."""
        if self._owns_storage:
            await self.storage.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.storage!r}, prefix={self._prefix!r})"

    # --- one flight a key in this process -----------------------------------------------------------------------------

    def _join_flight(self, name: str) -> tuple[_Flight, bool]:
        """Return the flight that brings the value, and whether it is a new one, which the caller has to fly."""
        with self._flights_lock:
            if (flight := self._flights.get(name)) is not None:
                return flight, False
            flight = self._flights[name] = _Flight(asyncio.current_task(), Future())
            flight.landing.set_running_or_notify_cancel()  # from now on no waiter's cancellation cancels it
            return flight, True

    async def _fly(self, name: str, flight: _Flight, found: Any, creator: Callable[[], Any], ttl: float | None) -> str:
        try:
            text = await self._find_or_create(name, found, creator, ttl)
        except BaseException as error:
            self._forget_flights(name, flight)
            if isinstance(error, Exception):
                flight.landing.set_exception(error)
            else:
                flight.landing.set_result(None)
            raise
        self._forget_flights(name, flight)
        flight.landing.set_result(text)
        return text

    def _forget_flights(self, name: str | None = None, flight: _Flight | None = None) -> None:
        """Let whoever asks from now on start anew."""
        with self._flights_lock:
            if name is None:
                self._flights.clear()
            elif flight is None or self._flights.get(name) is flight:
                self._flights.pop(name, None)

    # --- one creator a key in all processes ---------------------------------------------------------------------------

    async def _find_or_create(self, name: str, found: Any, creator: Callable[[], Any], ttl: float | None) -> str:
        """Return the text of the value that is found, waited for, or created.

        :param found: what was under the key a moment ago.
        """
        pause, has_waited = _FIRST_PAUSE, False
        while True:
            kind, content = _read(name, found)
            if kind == _VALUE:
                if has_waited:
                    self._count("waited")
                return serialization.dumps(content)
            if kind == _CREATING:
                has_waited = True
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            elif kind == _FAILED and has_waited:
                raise content.to_exception()
            else:
                claim = {_MARK: _CREATING, "by": uuid4().hex}
                if await self._swap(name, ABSENT if found is None else found, claim, self.lock_timeout):
                    return await self._create(name, claim, creator, ttl)
            found = await self.storage.get(name)

    async def _create(self, name: str, claim: dict[str, Any], creator: Callable[[], Any], ttl: float | None) -> str:
        try:
            value = creator()
            if inspect.isawaitable(value):
                value = await value
            text = serialization.dumps(value, f"what was created for cache key {name!r}, at value")
        except Exception as error:
            self._count("failed")
            failure = {_MARK: _FAILED, "error": dataclasses.asdict(StoredError.of(error))}
            await self._give_up(name, claim, failure)
            raise
        except asyncio.CancelledError:
            await self._give_up(name, claim, ABSENT)
            raise
        self._count("created")
        await self._swap(name, claim, _as_stored(value), ttl)
        return text

    async def _give_up(self, name: str, claim: dict[str, Any], mark: Any) -> None:
        """Let go of the key; the error that brought us here is the one to be seen, not one of the storage."""
        with anyio.CancelScope(shield=True):
            try:
                await self._swap(name, claim, mark, self.lock_timeout)
            except StorageError as error:
                logger.warning("cache key %r stays locked for %g s: %s", name, self.lock_timeout, error)

    async def _swap(self, name: str, seen: Any, new: Any, ttl: float | None) -> bool:
        try:
            return await self.storage.compare_and_set(name, seen, new, ttl)
        except UnsupportedOperationError:
            if await self.storage.get(name) != (None if seen is ABSENT else seen):
                return False
            await (self.storage.delete(name) if new is ABSENT else self.storage.set(name, new, ttl))
            return True

    # --- keys and values ----------------------------------------------------------------------------------------------

    async def _look(self, name: str) -> tuple[str, Any]:
        return _read(name, await self.storage.get(name))

    def _name(self, key: str) -> str:
        """Return the storage's key: the longest of the cache's would be too long for one, and are hashed."""
        name = self._prefix + rules.checked_key(key)
        if len(name.encode()) <= rules.MAX_KEY_BYTES:
            return name
        return f"{self._prefix}sha256:{hashlib.sha256(key.encode()).hexdigest()}"

    def _ttl(self, ttl_seconds: float | None) -> float | None:
        return self.default_ttl if ttl_seconds is None else _checked_ttl(ttl_seconds)

    def _count(self, what: str) -> None:
        self._counts[what] += 1


def _checked_ttl(seconds: float | None) -> float | None:
    if seconds is not None:
        rules.ttl_ms(seconds)
    return seconds


def _as_stored(value: Any) -> Any:
    """Return ``value``, marked as one where it could be taken for nothing or for a mark."""
    is_plain = value is not None and not (type(value) is dict and _MARK in value)
    return value if is_plain else {_MARK: _VALUE, "value": value}


_STORED_ERROR = pydantic.TypeAdapter(StoredError)


def _read(name: str, found: Any) -> tuple[str, Any]:
    """Return what is under a key, one of the marks or an empty string for nothing, and the value or error.

    :raises SerializationError: it is none of ours.
    """
    if found is None:
        return "", None
    if not (type(found) is dict and _MARK in found):
        return _VALUE, found
    match found:
        case {"value": value} if found[_MARK] == _VALUE:
            return _VALUE, value
        case {"by": str()} if found[_MARK] == _CREATING:
            return _CREATING, None
        case {"error": dict(error)} if found[_MARK] == _FAILED:
            try:
                return _FAILED, _STORED_ERROR.validate_python(error)
            except pydantic.ValidationError:
                pass
    raise SerializationError(f"the entry under key {name!r} is no cached value")
