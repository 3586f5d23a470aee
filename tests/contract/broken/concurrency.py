"""Adapters on which callers get in each other's way."""

import asyncio
import sqlite3
from typing import Any

from taskiq_flow.storage import InMemoryStore
from taskiq_flow.storage.backend import Record
from tests.contract.broken.base import Memory


class LostUpdates(Memory):
    """Reads all, waits, writes all: what others wrote in between is lost."""

    async def _write(self, key: str, record: Record, now: int) -> None:
        snapshot = dict(self._records)
        await asyncio.sleep(0)
        self.store.records[self.namespace] = {**snapshot, key: record}


class TornWrites(Memory):
    """Writes value and times in two steps, and waits in between."""

    async def _write(self, key: str, record: Record, now: int) -> None:
        old = self.record(key)
        await super()._write(key, old._replace(value=record.value) if old else record, now)
        await asyncio.sleep(0)
        current = self._records.get(key, record)
        await asyncio.sleep(0)
        await super()._write(key, record._replace(value=current.value), now)


class HalfWrites(Memory):
    """Writes a value piece by piece."""

    async def _write(self, key: str, record: Record, now: int) -> None:
        half = len(record.value) // 2
        await super()._write(key, record._replace(value=record.value[:half]), now)
        await asyncio.sleep(0)
        await super()._write(key, record, now)


class DeleteThenInsert(Memory):
    """Replaces an entry in two steps: a reader in between finds nothing, and a cancelled call leaves nothing."""

    async def _write(self, key: str, record: Record, now: int) -> None:
        await self._discard(key)
        await asyncio.sleep(0)
        await super()._write(key, record, now)


class DeleteLooksThenLeaps(Memory):
    """``delete`` looks, waits, and removes: several callers are told True."""

    async def _remove(self, key: str, now: int) -> bool:
        live = await self._is_live(key, now)
        await asyncio.sleep(0)
        self._records.pop(key, None)
        return live


class InsertConflicts(Memory):
    """Looks, waits, and inserts: the second of two writers gets an error."""

    async def _write(self, key: str, record: Record, now: int) -> None:
        is_new = key not in self._records
        await asyncio.sleep(0)
        if is_new and key in self._records:
            raise sqlite3.IntegrityError("UNIQUE constraint failed")
        await super()._write(key, record, now)


class FirstUseRaces(Memory):
    """Creates its table on first use, and fails where another task was quicker."""

    _there = False

    async def _write(self, key: str, record: Record, now: int) -> None:
        if not self._there:
            await asyncio.sleep(0)
            if self._there:
                raise sqlite3.OperationalError("table already exists")
            self._there = True
        await super()._write(key, record, now)


class FirstUseOfTwoRaces(Memory):
    """Creates its table on first use, and fails where another adapter was quicker."""

    _looked = False

    async def _write(self, key: str, record: Record, now: int) -> None:
        if not self._looked:
            self._looked = True
            missing = "table" not in self.store.records
            await asyncio.sleep(0)
            if missing and "table" in self.store.records:
                raise sqlite3.OperationalError("table already exists")
            self.store.records["table"] = {}
        await super()._write(key, record, now)


class ReadsItsOwnCopy(Memory):
    """Caches what it read: another worker's writes are not seen."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._cache: dict[str, Record | None] = {}

    async def _read(self, key: str, now: int) -> Record | None:
        if key not in self._cache:
            self._cache[key] = await super()._read(key, now)
        record = self._cache[key]
        return record if record and record.is_live(now) else None

    async def _write(self, key: str, record: Record, now: int) -> None:
        self._cache.pop(key, None)
        await super()._write(key, record, now)

    async def _remove(self, key: str, now: int) -> bool:
        self._cache.pop(key, None)
        return await super()._remove(key, now)

    async def _discard(self, key: str) -> None:
        self._cache.pop(key, None)
        await super()._discard(key)


class SharesNothing(Memory):
    """Two adapters on one store do not see each other's entries."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        settings["store"] = InMemoryStore()
        super().__init__(*arguments, **settings)


class CancelledStaysLocked(Memory):
    """A call that is cancelled never gives its lock back."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._turn = asyncio.Lock()

    async def _write(self, key: str, record: Record, now: int) -> None:
        await self._turn.acquire()
        await asyncio.sleep(0)
        await super()._write(key, record, now)
        self._turn.release()


class CancelledComesLater(Memory):
    """A write goes on in its thread when its caller was cancelled, and undoes what came after."""

    async def _write(self, key: str, record: Record, now: int) -> None:
        try:
            await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(0.003, self._records.__setitem__, key, record)
            raise
        await super()._write(key, record, now)


class CancelledStaysBroken(Memory):
    """A connection whose call was cancelled is used again, in the middle of its answer."""

    _in_the_middle = False

    async def _read(self, key: str, now: int) -> Record | None:
        if self._in_the_middle:
            raise RuntimeError("another operation is in progress")
        self._in_the_middle = True
        await asyncio.sleep(0)
        self._in_the_middle = False
        return await super()._read(key, now)


class BoundToOneLoop(Memory):
    """Belongs to the event loop on which it was first used."""

    _loop: asyncio.AbstractEventLoop | None = None

    async def _read(self, key: str, now: int) -> Record | None:
        self._loop = self._loop or asyncio.get_running_loop()
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("attached to a different loop")
        return await super()._read(key, now)


class BoundToOneLoopUntilClosed(BoundToOneLoop):
    """Belongs to one event loop, until it is closed there."""

    async def aclose(self) -> None:
        self._loop = None
        await super().aclose()


class WaitsOnOneLoop(Memory):
    """Holds a lock of asyncio's, which is bound to the first event loop on which somebody waits for it."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._turn = asyncio.Lock()

    async def _read(self, key: str, now: int) -> Record | None:
        async with self._turn:
            await asyncio.sleep(0)
            return await super()._read(key, now)
