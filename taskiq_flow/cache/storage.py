"""``StorageCacheAdapter``: a cache over any storage adapter.

Under a key there is a value, or a mark that somebody is creating it, or a mark that they failed. Every step from one to
the next is a ``compare_and_set`` from exactly what was seen, so that a creator that was overtaken, because its lock
ended, or because the value was set or invalidated since, changes nothing any more.
"""

import asyncio
import dataclasses
import glob
import inspect
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio

from taskiq_flow import clock, serialization
from taskiq_flow.cache._claims import Claim
from taskiq_flow.cache._leaders import Leaders
from taskiq_flow.cache._marks import Kind, Seen, as_stored, creating, failed, read
from taskiq_flow.cache.base import BaseCacheAdapter, CacheStats
from taskiq_flow.exceptions import ConfigurationError, SerializationError, StorageError, UnsupportedOperationError
from taskiq_flow.records.keys import checked_prefix, key_of
from taskiq_flow.storage import rules
from taskiq_flow.storage.base import ABSENT, BaseStorageAdapter
from taskiq_flow.storage.retries import pauses

__all__ = ["DEFAULT_LOCK_TIMEOUT", "DEFAULT_TTL", "StorageCacheAdapter"]

logger = logging.getLogger(__name__)

DEFAULT_TTL = 3600.0
"""Seconds that a cached value lives."""
DEFAULT_LOCK_TIMEOUT = 10.0
"""Seconds after which a creator that is not heard of is taken for dead."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1
"""Seconds between two looks at a key that another process is creating."""
_RENEWALS = 3
"""How many times a creator renews its hold in the time after which it would be taken for dead."""


class StorageCacheAdapter(BaseCacheAdapter):
    """A cache over any storage adapter, under keys that begin with ``prefix``.

    One creates, and the others get its value, in one process or in many. Whoever creates a value holds its key, and
    renews its hold three times in each ``lock_timeout``: however long it takes, it is not overtaken, and when it dies
    another one creates after that time. What was overtaken all the same, because it blocked its event loop for that
    long, or the key was set or invalidated, is given to its callers and not stored. Those who wait in other processes
    look again every 0.1 s at most, and hold no connection in between.

    Over an adapter that has only the six methods of ``BaseStorageAdapter``, nothing is atomic over a read and a write:
    there, one creates in each process.

    :param storage: where the values are kept; it may be shared with whatever else an application stores.
    :param default_ttl: seconds that values live where nothing else is said; None for the storage's own default.
    :param lock_timeout: seconds, on ``taskiq_flow.clock``, after which a creator that was not heard of is dead.
    :param prefix: what the storage's keys begin with, with or without a colon at its end; two caches on one storage
        need two, neither of which begins with the other and a colon.
    :param owns_storage: whether closing this cache closes the storage; None means no, for it was handed in.
    :raises ConfigurationError: if ``storage`` is no adapter, ``lock_timeout`` no number of seconds above 0, or keys
        cannot begin with ``prefix``.
    :raises InvalidTTLError: if ``default_ttl`` is no legal time to live.
    """

    def __init__(
        self,
        storage: BaseStorageAdapter,
        default_ttl: float | None = DEFAULT_TTL,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
        *,
        prefix: str = "cache",
        owns_storage: bool | None = None,
    ) -> None:
        if not isinstance(storage, BaseStorageAdapter):
            raise ConfigurationError(f"storage must be a BaseStorageAdapter, not {storage!r}")
        self.storage = storage
        self.default_ttl = _checked_ttl(default_ttl)
        self.lock_timeout = rules.checked_timeout("lock_timeout", lock_timeout)
        rules.ttl_ms(lock_timeout)
        self._prefix = checked_prefix(prefix)
        self._owns_storage = bool(owns_storage)
        self._leaders = Leaders()
        self._counts: Counter[str] = Counter()

    async def get(self, key: str, default: Any = None) -> Any:
        """Return a copy of the value under ``key``, or ``default``; see :meth:`BaseCacheAdapter.get`."""
        seen = await self._look(self._name(key))
        is_hit = seen.kind is Kind.VALUE
        self._count("hits" if is_hit else "misses")
        return seen.value if is_hit else default

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        """Store a copy of ``value``; see :meth:`BaseCacheAdapter.set`."""
        name, ttl = self._name(key), self._ttl(ttl_seconds)
        await self.storage.set(name, as_stored(value), ttl)

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        """Return the value under ``key``, or what ``creator()`` makes; see :meth:`BaseCacheAdapter.get_or_create`."""
        name, ttl = self._name(key), self._ttl(ttl_seconds)
        found = await self.storage.get(name)
        seen = read(name, found)
        if seen.kind is Kind.VALUE:
            self._count("hits")
            return seen.value
        self._count("misses")
        while True:
            leader, is_me = self._leaders.join(name)
            if is_me:
                text = await self._leaders.lead(name, leader, lambda: self._find_or_create(name, found, creator, ttl))
                return serialization.loads(text)
            if leader.task is asyncio.current_task():
                raise RuntimeError(f"the creator of cache key {key!r} asks for that key itself")
            text_or_none = await asyncio.wrap_future(leader.outcome)
            if text_or_none is not None:
                self._count("waited")
                return serialization.loads(text_or_none)
            # The leader was cancelled: one of its waiters is the next.

    async def invalidate(self, key: str) -> bool:
        """Forget the value under ``key``; see :meth:`BaseCacheAdapter.invalidate`."""
        name = self._name(key)
        self._leaders.forget(name)
        try:
            was_there = (await self._look(name)).kind is Kind.VALUE
        except SerializationError:
            was_there = True
        return await self.storage.delete(name) and was_there

    async def clear(self) -> int:
        """Forget everything in this cache; see :meth:`BaseCacheAdapter.clear`."""
        self._leaders.forget_all()
        removed = 0
        for name in await self.storage.keys(f"{glob.escape(self._prefix)}:*"):
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

    # --- one creator a key in all processes ---------------------------------------------------------------------------

    async def _find_or_create(self, name: str, found: Any, creator: Callable[[], Any], ttl: float | None) -> str:
        """Return the text of the value that is found, waited for, or created.

        :param found: what was under the key a moment ago.
        """
        waits, has_waited = pauses(_FIRST_PAUSE, _LONGEST_PAUSE), False
        watched, watched_since = None, 0
        while True:
            seen = read(name, found)
            if seen.kind is Kind.VALUE:
                if has_waited:
                    self._count("waited")
                return serialization.dumps(seen.value)
            if found != watched:
                watched, watched_since = found, clock.now_ms()
            if seen.kind is Kind.CREATING and clock.now_ms() - watched_since < self._lock_ms(seen):
                has_waited = True
                await asyncio.sleep(next(waits))
            elif seen.error is not None and has_waited:
                raise seen.error.to_exception()
            else:
                # There is nothing, or an old failure, or a creator that was not heard of for too long: its mark should
                # have expired, but may have lost its expiry, as in a dump that was restored.
                mark = creating(self.lock_timeout)
                if await self._swap(name, ABSENT if found is None else found, mark, self.lock_timeout):
                    return await self._create(name, mark, creator, ttl)
            found = await self.storage.get(name)

    async def _create(self, name: str, mark: dict[str, Any], creator: Callable[[], Any], ttl: float | None) -> str:
        claim = Claim(
            mark,
            swap=lambda old, new: self._swap(name, old, new, self.lock_timeout),
            look=lambda: self.storage.get(name),
            pause=self.lock_timeout / _RENEWALS,
        )
        try:
            value = creator()
            if inspect.isawaitable(value):
                value = await value
            text = serialization.dumps(value, f"what was created for cache key {name!r}, at value")
        except Exception as error:
            self._count("failed")
            await self._give_up(name, await claim.end(), failed(error))
            raise
        except asyncio.CancelledError:
            await self._give_up(name, await claim.end(), ABSENT)
            raise
        finally:
            claim.stop()
        self._count("created")
        await self._swap(name, await claim.end(), as_stored(value), ttl)
        return text

    async def _give_up(self, name: str, mark: dict[str, Any], left: Any) -> None:
        """Let go of the key; the error that brought us here is the one to be seen, not one of the storage.

        :param left: what is under the key from then on.
        """
        with anyio.CancelScope(shield=True):
            try:
                await self._swap(name, mark, left, self.lock_timeout)
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

    async def _look(self, name: str) -> Seen:
        return read(name, await self.storage.get(name))

    def _name(self, key: str) -> str:
        """Return the storage's key."""
        return key_of(self._prefix, rules.checked_key(key))

    def _lock_ms(self, seen: Seen) -> int:
        """Return for how long a creator may be unheard of: what it asks for itself, or what is usual here."""
        return rules.ttl_ms(max(self.lock_timeout, seen.lock_timeout))

    def _ttl(self, ttl_seconds: float | None) -> float | None:
        return self.default_ttl if ttl_seconds is None else _checked_ttl(ttl_seconds)

    def _count(self, what: str) -> None:
        self._counts[what] += 1


def _checked_ttl(seconds: float | None) -> float | None:
    if seconds is not None:
        rules.ttl_ms(seconds)
    return seconds
