"""The machine itself, tested: each of these broken adapters is found by the steps that are there to find it."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from taskiq_flow.exceptions import InvalidKeyError
from taskiq_flow.storage import InMemoryStorageAdapter, InMemoryStore
from taskiq_flow.storage.backend import Record
from taskiq_flow.storage.base import ABSENT
from tests.fuzz.machine import Mismatch, Storage, StorageMachine, Tally, explore
from tests.fuzz.model import EPOCH

Step = Callable[[StorageMachine], None]


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


class RemembersWhatItRead(InMemoryStorageAdapter):
    async def get(self, key: str) -> Any:
        self.read: dict[str, Any] = getattr(self, "read", {})
        if key not in self.read:
            self.read[key] = await super().get(key)
        return self.read[key]


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


class AlwaysExchanges(InMemoryStorageAdapter):
    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl_seconds: float | None = None) -> bool:
        there = await self.get(key) if await self.exists(key) else ABSENT
        return await super().compare_and_set(key, there, value, ttl_seconds)


class ForgetsMetadata(InMemoryStorageAdapter):
    async def _write(self, key: str, record: Record, now: int) -> None:
        await super()._write(key, record._replace(metadata="{}"), now)


class BelongsToALoop(InMemoryStorageAdapter):
    async def exists(self, key: str) -> bool:
        self.loop = getattr(self, "loop", asyncio.get_running_loop())
        if self.loop is not asyncio.get_running_loop():
            raise RuntimeError("attached to a different loop")
        return await super().exists(key)


def set_(value: Any, ttl: Any = None, key: str = "a", worker: int = 0) -> Step:
    return lambda machine: machine.set(worker=worker, key=key, value=value, ttl=ttl)


def at_its_end(microseconds: int) -> Step:
    return lambda machine: machine.meet_deadline(
        deadline=machine.deadlines()[0], microseconds=microseconds, method="get"
    )


def keys(pattern: str) -> Step:
    return lambda machine: machine.keys(patterns=[pattern])


FOUND_BY: dict[type[InMemoryStorageAdapter], list[Step]] = {
    OneMillisecondLonger: [set_(1, ttl=1), at_its_end(0)],
    ReadsRenew: [set_(1, ttl=1), at_its_end(0)],
    CreatedOnce: [set_(1), lambda machine: machine.move_clock(to=1000), set_(2), StorageMachine.compare_everything],
    ShortensLives: [set_(1, ttl=1), at_its_end(-1000)],
    NoneIsNothing: [set_(None)],
    FoldsCase: [set_(1, key="A"), keys("*")],
    TrimsBlanks: [set_(1, key="a ")],
    UnderscoreIsAnyCharacter: [set_(1), keys("_")],
    TuplesBecomeLists: [set_((1, 2))],
    HandsOutItsOwn: [set_([1])],
    RemembersWhatItRead: [set_(1), set_(2, worker=1)],
    OneNamespace: [set_(1), keys("*")],
    CleansUpEverything: [set_(1, ttl=1), lambda machine: machine.cleanup(worker=0, arguments=())],
    SwallowsErrors: [lambda machine: machine.delete(worker=0, key="")],
    AlwaysExchanges: [
        set_(1),
        lambda machine: machine.compare_and_set(worker=0, key="a", guess="other", other=2, value=3, ttl=None),
    ],
    ForgetsMetadata: [
        lambda machine: machine.set_entry(
            worker=0, key="a", value=1, created_at=EPOCH, expires_at=None, metadata={"run": 42}
        ),
        StorageMachine.compare_everything,
    ],
    BelongsToALoop: [
        set_(1),
        lambda machine: machine.close_and_go_on(worker=0, in_another_loop=True),
        lambda machine: machine.read(worker=0, key="a", method="exists"),
    ],
}


@pytest.fixture
def machine_on() -> Iterator[Callable[[type[InMemoryStorageAdapter]], StorageMachine]]:
    machines: list[StorageMachine] = []

    def make(kind: type[InMemoryStorageAdapter]) -> StorageMachine:
        store = InMemoryStore()
        storage = Storage(kind.__name__, lambda **settings: kind(store=store, **settings))
        machine = StorageMachine(storage, Tally())
        machines.append(machine)
        machine.open(pool=["a"], beside="A{}", ttl_seconds=60)
        return machine

    yield make
    for machine in machines:
        machine.teardown()


@pytest.mark.parametrize("broken", FOUND_BY)
def test_a_broken_adapter_is_found(
    machine_on: Callable[[type[InMemoryStorageAdapter]], StorageMachine], broken: type[InMemoryStorageAdapter]
) -> None:
    *before, last = FOUND_BY[broken]
    machine = machine_on(broken)
    for step in before:
        step(machine)
    with pytest.raises(Mismatch, match=f"^{broken.__name__}: "):
        last(machine)


@pytest.mark.parametrize("broken", FOUND_BY)
def test_the_same_steps_find_nothing_where_nothing_is_broken(
    machine_on: Callable[[type[InMemoryStorageAdapter]], StorageMachine], broken: type[InMemoryStorageAdapter]
) -> None:
    machine = machine_on(InMemoryStorageAdapter)
    for step in FOUND_BY[broken]:
        step(machine)


def test_what_is_drawn_reaches_every_kind_of_answer() -> None:
    """The steps above can be drawn, and those that are drawn lead somewhere."""
    store, tally = InMemoryStore(), Tally()
    storage = Storage("memory", lambda **settings: InMemoryStorageAdapter(store=store, **settings))
    explore(storage, tally, steps=1500, seed=0, shrink=False)
    wanted = {
        "set": ["None"],
        "get": ["None", "something"],
        "get_entry": ["None", "something"],
        "exists": ["True", "False"],
        "delete": ["True", "False"],
        "keys": ["nothing", "something"],
        "cleanup": ["nothing", "something"],
        "set_entry": ["None"],
        "compare_and_set": ["True", "False"],
    }
    assert {f"{method}: {kind}" for method, kinds in wanted.items() for kind in kinds} <= tally.answers.keys()
    kinds = {answer.partition(": ")[2] for answer in tally.answers}
    assert kinds >= {"InvalidKeyError", "InvalidTTLError", "SerializationError"}
