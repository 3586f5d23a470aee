"""The machine itself, tested: it finds each of these broken adapters within a few hundred steps."""

from collections.abc import Iterable
from typing import Any

import pytest

from taskiq_flow.exceptions import InvalidKeyError
from taskiq_flow.storage import InMemoryStorageAdapter, InMemoryStore
from taskiq_flow.storage.backend import Record
from tests.fuzz.machine import Mismatch, Storage, Tally, explore

STEPS = 600


class OneMillisecondLonger(InMemoryStorageAdapter):
    async def _read(self, key: str, now: int) -> Record | None:
        return await super()._read(key, now - 1)


class ReadsRenew(InMemoryStorageAdapter):
    async def _read(self, key: str, now: int) -> Record | None:
        record = await super()._read(key, now)
        if record is not None and record.expires_at is not None:
            await self._write(key, record._replace(expires_at=record.expires_at + 1), now)
        return record


class CreatedOnce(InMemoryStorageAdapter):
    async def _write(self, key: str, record: Record, now: int) -> None:
        before = await self._read(key, now)
        await super()._write(key, record if before is None else record._replace(created_at=before.created_at), now)


class ShortensLives(InMemoryStorageAdapter):
    async def _write(self, key: str, record: Record, now: int) -> None:
        whole_seconds = record.expires_at and record.expires_at // 1000 * 1000
        await super()._write(key, record._replace(expires_at=whole_seconds), now)


class NoneIsNothing(InMemoryStorageAdapter):
    async def exists(self, key: str) -> bool:
        return await self.get(key) is not None


class FoldsCase(InMemoryStorageAdapter):
    async def _live_keys(self, prefix: str, now: int) -> Iterable[str]:
        return {key.casefold() for key in await super()._live_keys(prefix, now)}


class TrimsBlanks(InMemoryStorageAdapter):
    async def _write(self, key: str, record: Record, now: int) -> None:
        await super()._write(key.rstrip(" ") or key, record, now)


class UnderscoreIsAnyCharacter(InMemoryStorageAdapter):
    async def keys(self, pattern: str = "*") -> list[str]:
        return await super().keys(pattern.replace("_", "?") if isinstance(pattern, str) else pattern)


class TuplesBecomeLists(InMemoryStorageAdapter):
    async def get(self, key: str) -> Any:
        value = await super().get(key)
        return list(value) if isinstance(value, tuple) else value


class HandsOutItsOwn(InMemoryStorageAdapter):
    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, value, ttl_seconds)
        self.last = key, value

    async def get(self, key: str) -> Any:
        value = await super().get(key)
        return self.last[1] if value is not None and key == self.last[0] else value


class OneNamespace(InMemoryStorageAdapter):
    @property
    def _records(self) -> dict[str, Record]:
        return self._store.records["all"]


class CleansUpEverything(InMemoryStorageAdapter):
    async def _purge(self, now: int) -> int:
        return await super()._purge(1 << 62)


class SwallowsErrors(InMemoryStorageAdapter):
    async def delete(self, key: str) -> bool:
        try:
            return await super().delete(key)
        except InvalidKeyError:
            return False


BROKEN = InMemoryStorageAdapter.__subclasses__()


@pytest.mark.parametrize("broken", [kind for kind in BROKEN if kind.__module__ == __name__])
def test_a_broken_adapter_is_found(broken: type[InMemoryStorageAdapter]) -> None:
    store, tally = InMemoryStore(), Tally()
    storage = Storage(broken.__name__, lambda **settings: broken(store=store, **settings))
    with pytest.raises(Mismatch, match=broken.__name__):
        explore(storage, tally, steps=STEPS, seed=1, shrink=False)
    assert tally.steps <= STEPS
