"""Broken caches: more than one creates, or too few, or the lock of the one that does is wrong."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from taskiq_flow.cache import StorageCacheAdapter
from taskiq_flow.cache._leaders import Leader, Leaders
from taskiq_flow.cache._marks import MARK, Kind, read
from taskiq_flow.exceptions import StorageError
from taskiq_flow.pytest_plugin.contract.cache.creation import CreateOnceRules
from taskiq_flow.pytest_plugin.contract.cache.locks import CreationLockRules
from taskiq_flow.pytest_plugin.contract.cache.suite import CacheSuite
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


class _NamelessLeaders(Leaders):
    def join(self, key: str) -> tuple[Leader, bool]:
        leader, is_me = super().join(key)
        return (leader, True) if is_me else (leader._replace(task=None), False)


class WaitsForItself(StorageCacheAdapter):
    """A creator that asks for its own key waits for itself."""

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


class AwaitsOnlyCoroutines(StorageCacheAdapter):
    """Creators must be asynchronous."""

    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        async def create() -> Any:
            return await creator()

        return await super().get_or_create(key, create, ttl_seconds)


RULES: dict[type[CacheSuite], tuple[type[StorageCacheAdapter], ...]] = {
    CreateOnceRules: (
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
    CreationLockRules: (
        LocksForEver,
        LocksTooShort,
        SlowOverwrites,
        SlowUnlocks,
    ),
}
"""Which rules are there to catch which."""
