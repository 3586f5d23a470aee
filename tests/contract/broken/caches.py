"""Broken caches, each in one way: the cache contract must catch every one."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from taskiq_flow.cache import CacheStats, StorageCacheAdapter
from taskiq_flow.cache._leaders import Leader, Leaders
from taskiq_flow.cache._marks import Kind, as_stored
from taskiq_flow.exceptions import InvalidTTLError
from taskiq_flow.pytest_plugin.contract.cache.invalidation import InvalidationRules
from taskiq_flow.pytest_plugin.contract.cache.lifecycle import CacheLifecycleRules
from taskiq_flow.pytest_plugin.contract.cache.suite import CacheSuite
from taskiq_flow.pytest_plugin.contract.cache.ttl import CacheTTLRules
from taskiq_flow.pytest_plugin.contract.cache.values import CacheValueRules


class LoopLock(StorageCacheAdapter):
    """Waits at a lock of asyncio's, which belongs to one event loop."""

    _gate: asyncio.Lock | None = None

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        self._gate = self._gate or asyncio.Lock()
        async with self._gate:
            return await super().get_or_create(key, creator, ttl_seconds)


class StoresWhatWasInvalidated(StorageCacheAdapter):
    """``invalidate`` overlooks what is being created."""

    async def invalidate(self, key: str) -> bool:
        seen = await self._look(self._name(key))
        return seen.kind is Kind.VALUE and await super().invalidate(key)


class StoresWhatWasCleared(StorageCacheAdapter):
    """``clear`` overlooks what is being created."""

    async def clear(self) -> int:
        removed = 0
        for name in await self.storage.keys(self._prefix.replace("[", "[[]") + ":*"):
            if (await self._look(name)).kind is Kind.VALUE:
                removed += await self.storage.delete(name)
        return removed


class _LastingLeaders(Leaders):
    def forget(self, key: str, leader: Leader | None = None) -> None:
        if leader is not None:
            super().forget(key, leader)

    def forget_all(self) -> None:
        pass


class OldLeadersAreJoined(StorageCacheAdapter):
    """Whoever asks after an ``invalidate`` gets what was being created before."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._leaders = _LastingLeaders()


class InvalidatesAlways(StorageCacheAdapter):
    """``invalidate`` returns True whatever was there."""

    async def invalidate(self, key: str) -> bool:
        await super().invalidate(key)
        return True


class NeverInvalidates(StorageCacheAdapter):
    """``invalidate`` does nothing."""

    async def invalidate(self, key: str) -> bool:
        return await self.storage.exists(self._name(key))


class ClearsTheStorage(StorageCacheAdapter):
    """``clear`` empties the whole storage."""

    async def clear(self) -> int:
        for name in await self.storage.keys():
            await self.storage.delete(name)
        return 1


class ClearsByPattern(StorageCacheAdapter):
    """``clear`` takes its prefix for a pattern."""

    async def clear(self) -> int:
        self._leaders.forget_all()
        return sum([await self.storage.delete(name) for name in await self.storage.keys(self._prefix + ":*")])


class ClearCountsNothing(StorageCacheAdapter):
    """``clear`` returns 0."""

    async def clear(self) -> int:
        await super().clear()
        return 0


class NoneIsNothing(StorageCacheAdapter):
    """A cached None is a miss."""

    async def get(self, key: str, default: Any = None) -> Any:
        value = await super().get(key, default)
        return default if value is None else value


class NoneIsCreatedAgain(StorageCacheAdapter):
    """A cached None is created again."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        value = await super().get_or_create(key, creator, ttl_seconds)
        if value is None:
            await self.invalidate(key)
            value = await super().get_or_create(key, creator, ttl_seconds)
        return value


class DefaultIsIgnored(StorageCacheAdapter):
    """``get`` knows no default."""

    async def get(self, key: str, default: Any = None) -> Any:
        return await super().get(key)


class CreatorGetsItsOwnBack(StorageCacheAdapter):
    """Callers share the object that was created."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        shared: dict[str, Any] = self.__dict__.setdefault("shared", {})
        return shared.setdefault(key, await super().get_or_create(key, creator, ttl_seconds))


class PlainJSON(StorageCacheAdapter):
    """Values go through plain JSON."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            value = json.loads(json.dumps(value))
        await super().set(key, value, ttl_seconds)


class PlainJSONWhenCreated(StorageCacheAdapter):
    """Created values go through plain JSON."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        value = await super().get_or_create(key, creator, ttl_seconds)
        with contextlib.suppress(ValueError, TypeError):
            value = json.loads(json.dumps(value))
        return value


class UnstorableIsGivenAnyway(StorageCacheAdapter):
    """What cannot be stored is given to its caller, as if nothing were wrong."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        with contextlib.suppress(TypeError):
            return await super().get_or_create(key, creator, ttl_seconds)


class NoDefaultTTL(StorageCacheAdapter):
    """The cache's default time to live has no effect."""

    def _ttl(self, ttl_seconds: float | None) -> float | None:
        return super()._ttl(ttl_seconds) if ttl_seconds is not None else 10_000_000


class OnlyDefaultTTL(StorageCacheAdapter):
    """Created values get the default time to live, whatever the call says."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        self._ttl(ttl_seconds)
        return await super().get_or_create(key, creator)


class ReadsExtend(StorageCacheAdapter):
    """A hit extends the time to live of a value."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        value = await super().get_or_create(key, creator, ttl_seconds)
        await self.set(key, value, ttl_seconds)
        return value


class TTLCountsFromTheStart(StorageCacheAdapter):
    """The time to live of a value counts from the start of its creation."""

    async def _create(self, name: str, mark: dict[str, Any], creator: Callable[[], Any], ttl: float | None) -> str:
        await self.storage.set(name, mark, ttl)
        entry = await self.storage.get_entry(name)
        text = await super()._create(name, mark, creator, ttl)
        if entry is not None and (stored := await self.storage.get_entry(name)) is not None:
            await self.storage.set_entry(type(entry)(name, stored.value, entry.created_at, entry.expires_at))
        return text


class ChecksTheTTLLate(StorageCacheAdapter):
    """An illegal time to live is refused when the value has been created."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        try:
            self._ttl(ttl_seconds)
        except InvalidTTLError:
            await creator()
            raise
        return await super().get_or_create(key, creator, ttl_seconds)


class ChecksTheKeyLate(StorageCacheAdapter):
    """An illegal key is refused when the value has been created."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        value = creator()
        value = await value if asyncio.iscoroutine(value) else value
        return await super().get_or_create(key, lambda: value, ttl_seconds)


class CutsKeys(StorageCacheAdapter):
    """Long keys are cut off."""

    def _name(self, key: str) -> str:
        return super()._name(key)[:100]


class FoldsCase(StorageCacheAdapter):
    """Keys are compared without their case."""

    def _name(self, key: str) -> str:
        return super()._name(key.lower() if isinstance(key, str) else key)


class AllShareOneCache(StorageCacheAdapter):
    """The prefix has no effect."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._prefix = "cache"


class CountsNothing(StorageCacheAdapter):
    """``get_stats`` has nothing to say."""

    def get_stats(self) -> CacheStats:
        return CacheStats(0, 0, 0, 0, 0)


class ClosesForGood(StorageCacheAdapter):
    """Cannot be used once it was closed."""

    async def aclose(self) -> None:
        self.storage = None  # type: ignore[assignment]  # that is what is wrong


class SetDoesNotOverwrite(StorageCacheAdapter):
    """``set`` leaves alone what is being created."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        name = self._name(key)
        ttl = self._ttl(ttl_seconds)
        if (await self._look(name)).kind is not Kind.CREATING:
            await self.storage.set(name, as_stored(value), ttl)


RULES: dict[type[CacheSuite], tuple[type[StorageCacheAdapter], ...]] = {
    CacheValueRules: (
        NoneIsNothing,
        NoneIsCreatedAgain,
        DefaultIsIgnored,
        CreatorGetsItsOwnBack,
        PlainJSON,
        PlainJSONWhenCreated,
        UnstorableIsGivenAnyway,
        ChecksTheKeyLate,
        CutsKeys,
        FoldsCase,
        ClearCountsNothing,
    ),
    CacheTTLRules: (
        NoDefaultTTL,
        OnlyDefaultTTL,
        ReadsExtend,
        TTLCountsFromTheStart,
        ChecksTheTTLLate,
    ),
    InvalidationRules: (
        StoresWhatWasInvalidated,
        StoresWhatWasCleared,
        OldLeadersAreJoined,
        InvalidatesAlways,
        NeverInvalidates,
        ClearsTheStorage,
        ClearsByPattern,
        AllShareOneCache,
        SetDoesNotOverwrite,
    ),
    CacheLifecycleRules: (
        LoopLock,
        CountsNothing,
        ClosesForGood,
    ),
}
"""Which rules are there to catch which."""
