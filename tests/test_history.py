"""``History``: what ``StorageMiddleware`` kept is found again, on every storage."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import taskiq_pipelines
from taskiq import InMemoryBroker, TaskiqMiddleware

from taskiq_flow.clock import FrozenClock
from taskiq_flow.exceptions import SerializationError, StorageConnectionError
from taskiq_flow.history import Findings, History, Unreadable
from taskiq_flow.middlewares import PipelineMiddleware, StorageMiddleware
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.records.results import StoredResult
from taskiq_flow.storage import BaseStorageAdapter, InMemoryStorageAdapter
from tests.adapters import SixMethods

NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
FROZEN = pytest.mark.frozen_clock(at=NOW.isoformat())


class Shop:
    """A broker whose results are kept in a storage."""

    def __init__(self, storage: BaseStorageAdapter, engine: TaskiqMiddleware | None = None) -> None:
        self.broker = InMemoryBroker(await_inplace=True)
        self.broker.add_middlewares(StorageMiddleware(storage), engine or PipelineMiddleware())

        @self.broker.task(task_name="numbers")
        def numbers(count: int) -> list[int]:
            return list(range(count))

        @self.broker.task(task_name="square")
        def square(number: int) -> int:
            if number < 0:
                raise ValueError(f"{number} is below 0")
            return number * number

        @self.broker.task(task_name="total")
        def total(numbers: list[int]) -> int:
            return sum(numbers)

        @self.broker.task(task_name="connect")
        def connect() -> Any:
            return object()

        self.numbers, self.square, self.total, self.connect = numbers, square, total, connect

    async def run(self, pipeline_id: str, count: int = 3) -> None:
        """Run a pipeline to its end."""
        pipeline: Any = Pipeline(self.broker, self.numbers, pipeline_id=pipeline_id)
        task = await pipeline.map(self.square, check_interval=0.001).call_next(self.total).kiq(count)
        await task.wait_result(check_interval=0.001, timeout=5)
        await self.broker.wait_all()


def values(findings: Findings) -> list[Any]:
    return [result.result for result in findings]


@pytest.mark.parametrize("custom", [False, True])
@FROZEN
async def test_the_results_of_a_run_in_its_order(
    storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock, custom: bool
) -> None:
    storage = SixMethods(storage_adapter) if custom else storage_adapter
    shop, history = Shop(storage), History(storage)
    await shop.run("one", 3)
    await shop.run("another", 2)
    await shop.square.kiq(9)
    found = await history.run("one")
    assert all(isinstance(result, StoredResult) for result in found)
    names = [result.task_name for result in found]
    assert names == ["numbers", *["square"] * 3, names[4], "total"]
    assert [found.results[0].result, found.results[-1].result] == [[0, 1, 2], 5]
    assert sorted(values(found)[1:4]) == [0, 1, 4]
    assert {result.pipeline_id for result in found} == {"one"}
    assert (len(found), found.unreadable) == (6, [])
    assert len(await history.run("nobody's")) == 0
    assert len(await history.run("*")) == 0


@FROZEN
async def test_a_step_that_was_stored_after_what_it_had_sent(
    storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock
) -> None:
    await Shop(storage_adapter).run("one")
    first, *_, last = before = (await History(storage_adapter).run("one")).results
    for late, seconds in ((first, 5), (before[-2], 4)):
        created_at = (NOW + timedelta(seconds=seconds)).isoformat()
        await storage_adapter.set(late.key, {**late.to_data(), "created_at": created_at})
    after = [result.task_name for result in await History(storage_adapter).run("one")]
    assert after == [result.task_name for result in before]
    assert (first.task_name, last.task_name) == ("numbers", "total")


@FROZEN
async def test_the_last_of_a_task(storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock) -> None:
    shop, history = Shop(storage_adapter), History(storage_adapter)
    for number in range(5):
        await shop.square.kiq(number)
        await shop.numbers.kiq(number)
        frozen_clock.tick(1)
    assert values(await history.last(3, "square")) == [16, 9, 4]
    assert values(await history.last(100, "square")) == [16, 9, 4, 1, 0]
    assert values(await history.last(0)) == []
    newest = await history.last(2)
    assert sorted(result.task_name for result in newest) == ["numbers", "square"]
    assert {result.created_at for result in newest} == {NOW + timedelta(seconds=4)}
    assert len(await history.last(100)) == 10
    with pytest.raises(ValueError, match="-1"):
        await history.last(-1)


@FROZEN
async def test_failures_since(storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock) -> None:
    shop, history = Shop(storage_adapter), History(storage_adapter)
    await shop.square.kiq(-1)
    frozen_clock.tick(60)
    await shop.square.kiq(1)
    await shop.connect.kiq()
    frozen_clock.tick(60)
    await shop.square.kiq(-2)
    found = await history.failures()
    assert [result.status for result in found] == ["failed", "unstorable", "failed"]
    assert [result.error.message for result in found if result.error][::2] == ["-2 is below 0", "-1 is below 0"]
    assert len(await history.failures(NOW + timedelta(seconds=60))) == 2
    assert len(await history.failures(NOW + timedelta(seconds=60.001))) == 1
    with pytest.raises(ValueError, match="no time zone"):
        await history.failures(datetime(2025, 1, 2))


@FROZEN
async def test_what_has_expired_is_not_found(
    make_storage_adapter: Callable[..., BaseStorageAdapter], frozen_clock: FrozenClock
) -> None:
    storage = make_storage_adapter(ttl_seconds=10)
    await Shop(storage).square.kiq(2)
    assert values(await History(storage).last(5)) == [4]
    frozen_clock.tick(10)
    found = await History(storage).last(5)
    assert (found.results, found.unreadable) == ([], [])


async def test_entries_that_are_no_results_are_named(storage_adapter: BaseStorageAdapter) -> None:
    shop, history = Shop(storage_adapter), History(storage_adapter)
    await shop.run("one", 0)
    await shop.square.kiq(2)
    await storage_adapter.set("task:list", ["wash", "cook"])
    await storage_adapter.set("task:nothing", None)
    await storage_adapter.set("pipeline:one:task:half", {"task_id": "half"})
    await storage_adapter.set("pipeline:one:status", "running")  # an application's own, and no result's place
    found = await history.last(100)
    assert [each.key for each in found.unreadable] == ["pipeline:one:task:half", "task:list", "task:nothing"]
    assert all(each.key in each.reason for each in found.unreadable)
    assert 4 in values(found)
    assert [each.key for each in (await history.run("one")).unreadable] == ["pipeline:one:task:half"]


async def test_a_damaged_entry_is_named() -> None:
    class Damaged(InMemoryStorageAdapter):
        async def get(self, key: str) -> Any | None:
            if key == "task:damaged":
                raise SerializationError(f"the entry under key {key!r} cannot be read: it is damaged")
            return await super().get(key)

    storage = Damaged()
    await storage.set("task:damaged", 1)
    await Shop(storage).square.kiq(2)
    found = await History(storage).last(5)
    assert values(found) == [4]
    assert found.unreadable == [
        Unreadable("task:damaged", "the entry under key 'task:damaged' cannot be read: it is damaged")
    ]


async def test_the_entry_of_another_key_is_named(storage_adapter: BaseStorageAdapter) -> None:
    await Shop(storage_adapter).square.kicker().with_task_id("two").kiq(2)
    for key in ("task:copy", "pipeline:one:task:two"):
        await storage_adapter.set(key, await storage_adapter.get("task:two"))
    found = await History(storage_adapter).last(5)
    assert values(found) == [4]
    assert [each.key for each in found.unreadable] == ["pipeline:one:task:two", "task:copy"]
    assert found.unreadable[1].reason == "the entry under key 'task:copy' is the task result of another key, 'task:two'"


@pytest.mark.parametrize("custom", [False, True])
async def test_foreign_times_and_labels(storage_adapter: BaseStorageAdapter, custom: bool) -> None:
    storage = SixMethods(storage_adapter) if custom else storage_adapter
    await Shop(storage).square.kicker().with_task_id("two").kiq(2)
    data: Any = await storage.get("task:two")
    for task_id, created_at in (("naive", "2025-01-02T03:04:05"), ("early", "0001-01-01T00:00:00+14:00")):
        await storage.set(f"task:{task_id}", {**data, "task_id": task_id, "created_at": created_at})
    tokyo = {**data, "task_id": "tokyo", "created_at": "2025-01-02T12:04:05+09:00"}
    await storage.set("task:tokyo", {**tokyo, "labels": {"_pipe_current_step": float("inf"), "_pipe_data": [{}]}})
    found = await History(storage).last(5)
    assert [(each.task_id, each.created_at.utcoffset()) for each in found][1:] == [("tokyo", timedelta(0))]
    assert found.results[1].created_at == NOW
    assert [each.key for each in found.unreadable] == ["task:early", "task:naive"]
    assert "created_at" in found.unreadable[0].reason


@pytest.mark.parametrize("error", [json.JSONDecodeError("Expecting value", "x", 0), TypeError("no text"), ValueError()])
async def test_what_an_adapter_of_ones_own_says_of_damaged_entries(error: Exception) -> None:
    class OnJson(SixMethods):
        async def get(self, key: str) -> Any | None:
            if key == "task:damaged":
                raise error
            return await super().get(key)

    storage = OnJson(InMemoryStorageAdapter())
    await storage.set("task:damaged", 1)
    await Shop(storage).square.kiq(2)
    found = await History(storage).last(5)
    assert values(found) == [4]
    assert found.unreadable == [Unreadable("task:damaged", str(error) or "ValueError()")]


async def test_a_storage_that_fails_is_not_taken_for_an_empty_one() -> None:
    class Gone(SixMethods):
        async def get(self, key: str) -> Any | None:
            raise StorageConnectionError("the server is gone")

    storage = Gone(InMemoryStorageAdapter())
    await Shop(storage).square.kiq(2)
    with pytest.raises(StorageConnectionError, match="the server is gone"):
        await History(storage).last(5)


@FROZEN
async def test_a_run_that_was_started_twice_with_one_id(
    storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock
) -> None:
    shop = Shop(storage_adapter)
    for count in (2, 3):
        await Pipeline(shop.broker, shop.numbers, pipeline_id="nightly").call_next(shop.total).kiq(count)
        frozen_clock.tick(3600)
    history = History(storage_adapter)
    assert values(await history.run("nightly")) == [[0, 1], 1, [0, 1, 2], 3]
    assert values(await history.last(2)) == [3, [0, 1, 2]]


@FROZEN
async def test_pipelines_that_have_no_id(storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock) -> None:
    shop = Shop(storage_adapter, taskiq_pipelines.PipelineMiddleware())
    for count in (2, 3):
        await shop.square.kiq(count)
        frozen_clock.tick(1)
        await taskiq_pipelines.Pipeline(shop.broker, shop.numbers).call_next(shop.total).kiq(count)
        frozen_clock.tick(1)
    assert values(await History(storage_adapter).last(6)) == [3, [0, 1, 2], 9, 1, [0, 1], 4]
