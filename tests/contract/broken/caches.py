"""Caches that lie, each in one way: the cache contract must catch every one."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from taskiq_flow.cache import CacheStats, StorageCacheAdapter
from taskiq_flow.cache._leaders import Leader, Leaders
from taskiq_flow.cache._marks import MARK, Kind, as_stored, read
from taskiq_flow.exceptions import InvalidTTLError, StorageError
from taskiq_flow.pytest_plugin.contract.cache import (
    CacheLifeRules,
    CacheLockRules,
    CacheTTLRules,
    CacheValueRules,
    ForgettingRules,
    SingleFlightRules,
)
from taskiq_flow.pytest_plugin.contract.cache_suite import CacheSuite
from taskiq_flow.storage.base import ABSENT


class NobodyWaits(StorageCacheAdapter):
    """Whoever finds nothing creates."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        nothing = object()
        if (value := await self.get(key, nothing)) is not nothing:
            return value
        value = creator()
        value = await value if asyncio.iscoroutine(value) else value
        await self.set(key, value, ttl_seconds)
        return await self.get(key)


class OneInEachProcess(StorageCacheAdapter):
    """Knows nothing of other processes: one creates in each."""

    async def _find_or_create(self, name: str, found: Any, creator: Callable[[], Any], ttl: float | None) -> str:
        return await self._create(name, {}, creator, ttl)

    async def _swap(self, name: str, seen: Any, new: Any, ttl: float | None) -> bool:
        if new is not ABSENT and not (type(new) is dict and new.get(MARK) not in (None, Kind.VALUE.value)):
            await self.storage.set(name, new, ttl)
        return True


class _OneLeader(Leaders):
    def join(self, key: str) -> tuple[Leader, bool]:
        return super().join("the only one")

    def forget(self, key: str, leader: Leader | None = None) -> None:
        super().forget("the only one", leader)


class OneAnywhere(StorageCacheAdapter):
    """Holds one lock for all keys."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._leaders = _OneLeader()


class LoopLock(StorageCacheAdapter):
    """Waits at a lock of asyncio's, which belongs to one event loop."""

    _gate: asyncio.Lock | None = None

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        self._gate = self._gate or asyncio.Lock()
        async with self._gate:
            return await super().get_or_create(key, creator, ttl_seconds)


class _NamelessLeaders(Leaders):
    def join(self, key: str) -> tuple[Leader, bool]:
        leader, is_me = super().join(key)
        return (leader, True) if is_me else (leader._replace(task=None), False)


class WaitsForItself(StorageCacheAdapter):
    """A creator that asks for its own key waits for ever."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._leaders = _NamelessLeaders()


class ErrorsAreCached(StorageCacheAdapter):
    """What a creator raised is raised again later."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        if problem := getattr(self, f"problem of {key}", None):
            raise problem
        try:
            return await super().get_or_create(key, creator, ttl_seconds)
        except LookupError as error:
            setattr(self, f"problem of {key}", error)
            raise


class ErrorsAreSwallowed(StorageCacheAdapter):
    """A creator that raises makes None."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        with contextlib.suppress(LookupError):
            return await super().get_or_create(key, creator, ttl_seconds)


class ErrorsChange(StorageCacheAdapter):
    """What a creator raised comes as another error."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        try:
            return await super().get_or_create(key, creator, ttl_seconds)
        except LookupError as error:
            raise StorageError(str(error)) from error


class ErrorsStayHere(StorageCacheAdapter):
    """Those who wait elsewhere hear nothing of an error, and create themselves."""

    async def _give_up(self, name: str, mark: dict[str, Any], left: Any) -> None:
        await super()._give_up(name, mark, ABSENT)


class ErrorsStay(StorageCacheAdapter):
    """Whoever comes later is told of an old error."""

    async def _find_or_create(self, name: str, found: Any, creator: Callable[[], Any], ttl: float | None) -> str:
        seen = read(name, found)
        if seen.error is not None:
            raise seen.error.to_exception()
        return await super()._find_or_create(name, found, creator, ttl)


class CancelledHoldersKeepTheLock(StorageCacheAdapter):
    """Where a creator is cancelled, others wait until the lock ends."""

    async def _give_up(self, name: str, mark: dict[str, Any], left: Any) -> None:
        if left is not ABSENT:
            await super()._give_up(name, mark, left)


class CancelledTogether(StorageCacheAdapter):
    """Where the caller that creates is cancelled, those who wait are too."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        shared: dict[str, Any] = self.__dict__.setdefault("shared", {})
        if key not in shared or shared[key].done():
            shared[key] = asyncio.ensure_future(super().get_or_create(key, creator, ttl_seconds))
        return await shared[key]


class LocksForEver(StorageCacheAdapter):
    """A holder that dies keeps its key."""

    async def _swap(self, name: str, seen: Any, new: Any, ttl: float | None) -> bool:
        is_claim = type(new) is dict and new.get(MARK) == Kind.CREATING.value
        return await super()._swap(name, seen, new, 10 * self.lock_timeout if is_claim else ttl)


class LocksTooShort(StorageCacheAdapter):
    """A lock ends too early."""

    async def _swap(self, name: str, seen: Any, new: Any, ttl: float | None) -> bool:
        is_claim = type(new) is dict and new.get(MARK) == Kind.CREATING.value
        return await super()._swap(name, seen, new, self.lock_timeout * 0.9 if is_claim else ttl)


class SlowOverwrites(StorageCacheAdapter):
    """A holder stores what it brings, whatever is there by then."""

    async def _swap(self, name: str, seen: Any, new: Any, ttl: float | None) -> bool:
        if type(seen) is dict and (new is not ABSENT and not (type(new) is dict and MARK in new)):
            await self.storage.set(name, new, ttl)
            return True
        return await super()._swap(name, seen, new, ttl)


class SlowUnlocks(StorageCacheAdapter):
    """A holder that fails or is cancelled removes whatever lock is there."""

    async def _give_up(self, name: str, mark: dict[str, Any], left: Any) -> None:
        await self.storage.delete(name)


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


class ShowsItsMarks(StorageCacheAdapter):
    """``get`` returns the mark of what is being created."""

    async def get(self, key: str, default: Any = None) -> Any:
        found = await self.storage.get(self._name(key))
        return (
            found if type(found) is dict and found.get(MARK) == Kind.CREATING.value else await super().get(key, default)
        )


class GetWaits(StorageCacheAdapter):
    """``get`` waits for what is being created."""

    async def get(self, key: str, default: Any = None) -> Any:
        if (await self._look(self._name(key))).kind is Kind.CREATING:
            await asyncio.sleep(0.01)
            return await self.get(key, default)
        return await super().get(key, default)


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


class AwaitsOnlyCoroutines(StorageCacheAdapter):
    """Creators must be asynchronous."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        async def create() -> Any:
            return await creator()

        return await super().get_or_create(key, create, ttl_seconds)


class NoDefaultLife(StorageCacheAdapter):
    """Values live for ever where nothing else is said."""

    def _ttl(self, ttl_seconds: float | None) -> float | None:
        return super()._ttl(ttl_seconds) if ttl_seconds is not None else 10_000_000


class OnlyDefaultLife(StorageCacheAdapter):
    """Created values live as long as the default says."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        self._ttl(ttl_seconds)
        return await super().get_or_create(key, creator)


class ReadsExtend(StorageCacheAdapter):
    """A hit extends the life of a value."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        value = await super().get_or_create(key, creator, ttl_seconds)
        await self.set(key, value, ttl_seconds)
        return value


class LivesFromTheBeginning(StorageCacheAdapter):
    """The life of a value begins when it begins to be created."""

    async def _create(self, name: str, mark: dict[str, Any], creator: Callable[[], Any], ttl: float | None) -> str:
        await self.storage.set(name, mark, ttl)
        entry = await self.storage.get_entry(name)
        text = await super()._create(name, mark, creator, ttl)
        if entry is not None and (stored := await self.storage.get_entry(name)) is not None:
            await self.storage.set_entry(type(entry)(name, stored.value, entry.created_at, entry.expires_at))
        return text


class ChecksTheLifeLate(StorageCacheAdapter):
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
    CacheTTLRules: (NoDefaultLife, OnlyDefaultLife, ReadsExtend, LivesFromTheBeginning, ChecksTheLifeLate),
    SingleFlightRules: (
        NobodyWaits,
        OneInEachProcess,
        OneAnywhere,
        WaitsForItself,
        ErrorsAreCached,
        ErrorsAreSwallowed,
        ErrorsChange,
        ErrorsStayHere,
        ErrorsStay,
        CancelledHoldersKeepTheLock,
        CancelledTogether,
        ShowsItsMarks,
        GetWaits,
        AwaitsOnlyCoroutines,
    ),
    CacheLockRules: (LocksForEver, LocksTooShort, SlowOverwrites, SlowUnlocks),
    ForgettingRules: (
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
    CacheLifeRules: (LoopLock, CountsNothing, ClosesForGood),
}
"""Which rules are there to catch which."""
