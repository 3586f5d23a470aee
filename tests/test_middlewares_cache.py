"""``CacheMiddleware``: what it saves, and that nobody but the saved function notices."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from taskiq import (
    Context,
    InMemoryBroker,
    TaskiqDepends,
    TaskiqMessage,
    TaskiqMiddleware,
    TaskiqResult,
)

from taskiq_flow.cache import StorageCacheAdapter
from taskiq_flow.clock import FrozenClock
from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.middlewares import CacheMiddleware, StorageMiddleware
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.storage import BaseStorageAdapter
from taskiq_flow.storage.factory import StorageAdapterFactory
from tests.cached_tasks import end, is_cached, logged

NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


class Total(pydantic.BaseModel):
    net: Decimal
    day: datetime


@dataclass
class Line:
    sku: str
    total: Total


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_a_hit_does_not_call_the_function(flow_broker: FlowBroker, is_async: bool) -> None:
    runs: list[int] = []

    if is_async:

        @flow_broker.task(task_name="square", cache_ttl=60)
        async def square(number: int) -> int:
            runs.append(number)
            return number**2
    else:

        @flow_broker.task(task_name="square", cache_ttl=60)
        def square(number: int) -> int:
            runs.append(number)
            return number**2

    first, second, other = [await end(flow_broker, await square.kiq(number)) for number in (3, 3, 4)]
    assert runs == [3, 4]
    assert [result.return_value for result in (first, second, other)] == [9, 9, 16]
    assert [is_cached(result) for result in (first, second, other)] == [False, True, False]
    assert not second.is_err
    assert second.execution_time == 0
    stats = flow_broker.cache_middleware.cache.get_stats()
    assert (stats.hits, stats.misses, stats.created) == (1, 2, 2)


async def test_everybody_else_sees_a_normal_result(flow_broker: FlowBroker) -> None:
    """The result backend, the storage, hooks of other middlewares."""
    seen: list[Any] = []

    class Watcher(TaskiqMiddleware):
        def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
            seen.append("pre_execute")
            return message

        def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
            seen.append(("post_execute", result.return_value))

        def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
            seen.append(("post_save", result.return_value))

    flow_broker.add_middlewares(Watcher())

    @flow_broker.task(task_name="answer", cache_ttl=60, region="north")
    async def answer() -> dict[str, Any]:
        return {"answer": (42, NOW)}

    tasks = [await answer.kiq(), await answer.kiq()]
    await flow_broker.drain()
    results = [await flow_broker.storage_middleware.load(task.task_id) for task in tasks]
    assert [result and result.return_value for result in results] == [{"answer": (42, NOW)}] * 2
    assert [result and result.labels["region"] for result in results] == ["north"] * 2
    assert sorted(bool(result and is_cached(result)) for result in results) == [False, True]
    value = {"answer": (42, NOW)}
    assert Counter(map(repr, seen)) == Counter(
        map(repr, 2 * ["pre_execute", ("post_execute", value), ("post_save", value)])
    )


async def test_of_fifty_at_once_one_runs(flow_broker: FlowBroker) -> None:
    runs: list[int] = []

    @flow_broker.task(task_name="slow", cache=True)
    async def slow(number: int) -> int:
        runs.append(number)
        await asyncio.sleep(0.01)  # the others are to find it begun
        return number

    tasks = [await slow.kiq(1) for _ in range(50)]
    await flow_broker.drain()
    results = [await task.get_result() for task in tasks]
    assert runs == [1]
    assert {result.return_value for result in results} == {1}
    assert sum(map(is_cached, results)) == 49


async def test_of_two_brokers_on_one_storage_one_runs(
    make_storage_adapter: Callable[..., BaseStorageAdapter],
) -> None:
    """Caches of their own do not know of each other, as those of two processes."""
    runs: list[int] = []
    brokers, tasks = [InMemoryBroker(), InMemoryBroker()], []
    for broker in brokers:
        broker.add_middlewares(CacheMiddleware(StorageCacheAdapter(make_storage_adapter())))

        @broker.task(task_name="slow", cache_ttl=60)
        async def slow(number: int) -> int:
            runs.append(number)
            await asyncio.sleep(0.02)  # the other one is to find it begun
            return number

        tasks.append(slow)
    sent = [await task.kiq(7) for task in tasks * 5]
    results = [await task.wait_result(check_interval=0.005, timeout=30) for task in sent]
    assert runs == [7]
    assert {result.return_value for result in results} == {7}
    for broker in brokers:
        await broker.wait_all()
        await broker.shutdown()


async def test_the_end_of_a_life(flow_broker: FlowBroker, frozen_clock: FrozenClock) -> None:
    runs: list[int] = []

    @flow_broker.task(task_name="rate", cache_ttl=60)
    async def rate() -> int:
        runs.append(0)
        return len(runs)

    assert (await end(flow_broker, await rate.kiq())).return_value == 1
    frozen_clock.tick(59.999)
    assert (await end(flow_broker, await rate.kiq())).return_value == 1
    frozen_clock.tick(0.001)
    assert (await end(flow_broker, await rate.kiq())).return_value == 2


async def test_steps_of_a_pipeline(flow_broker: FlowBroker, storage_adapter: BaseStorageAdapter) -> None:
    runs: Counter[str] = Counter()

    @flow_broker.task(task_name="numbers", cache_ttl=60)
    async def numbers(count: int) -> list[int]:
        runs["numbers"] += 1
        return [number % 2 for number in range(count)]

    @flow_broker.task(task_name="double", cache_ttl=60)
    def double(number: int) -> int:
        runs["double"] += 1
        return 2 * number

    @flow_broker.task(task_name="total", cache=True)
    async def total(parts: list[int]) -> int:
        runs["total"] += 1
        return sum(parts)

    for run in ("first", "second"):
        pipeline = Pipeline(flow_broker, numbers, pipeline_id=run).map(double, check_interval=0.001).call_next(total)
        assert (await end(flow_broker, await pipeline.kiq(6))).return_value == 6
        assert len(await storage_adapter.keys(f"pipeline:{run}:*")) == 1 + 6 + 1 + 1
    assert runs == {"numbers": 1, "double": 2, "total": 1}


async def test_dependencies_are_resolved_for_a_run_only(flow_broker: FlowBroker) -> None:
    opened: list[str] = []

    async def connection(context: Context = TaskiqDepends()) -> Any:
        opened.append(context.message.task_name)
        yield "connection"
        opened.append("closed")

    @flow_broker.task(task_name="query", cache_ttl=60)
    async def query(table: str, connected: str = TaskiqDepends(connection)) -> str:
        return f"{table} over {connected}"

    for _ in range(2):
        assert (await end(flow_broker, await query.kiq("orders"))).return_value == "orders over connection"
    assert opened == ["query", "closed"]


async def test_models_come_back_as_a_client_has_them_without_a_cache(flow_broker: FlowBroker) -> None:
    total = Total(net=Decimal("9.90"), day=NOW)

    @flow_broker.task(task_name="annotated", cache=True)
    async def annotated() -> list[Line]:
        return [Line("A1", total)]

    @flow_broker.task(task_name="bare", cache=True)
    async def bare():  # type: ignore[no-untyped-def]  # nothing says what comes back
        return [Line("A1", total)]

    for task in (annotated, bare):
        miss, hit = [await end(flow_broker, await task.kiq()) for _ in range(2)]
        assert [is_cached(miss), is_cached(hit)] == [False, True]
        assert hit.return_value == miss.return_value
    assert hit.return_value == [{"sku": "A1", "total": {"net": "9.90", "day": "2025-01-02T03:04:05Z"}}]


async def test_a_value_that_is_no_data_is_delivered_and_not_cached(
    cache_adapter: StorageCacheAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    broker, things = InMemoryBroker(), [object(), object(), object()]
    middleware = CacheMiddleware(cache_adapter)
    broker.add_middlewares(middleware)
    left = iter(things)

    @broker.task(task_name="connect", cache=True)
    async def connect() -> Any:
        await asyncio.sleep(0.01)  # the other one waits for it
        return next(left)

    sent = [await connect.kiq(), await connect.kiq()]
    await broker.wait_all()
    sent.append(await connect.kiq())
    await broker.wait_all()
    results = [await task.get_result() for task in sent]
    assert {id(result.return_value) for result in results} == set(map(id, things))
    assert not any(result.is_err or is_cached(result) for result in results)
    [message] = logged(caplog)
    assert "the result of task connect" in message
    assert "what it returned cannot be cached: value: an object of type object" in message
    assert middleware.failures == 2, "of those who try, not of the one who waited"
    await broker.shutdown()


async def test_other_brokers_and_direct_calls_know_nothing_of_it() -> None:
    cached, plain, runs = InMemoryBroker(await_inplace=True), InMemoryBroker(await_inplace=True), list[int]()
    cached.add_middlewares(CacheMiddleware())
    tasks: list[Any] = []
    for broker in (cached, plain):

        @broker.task(task_name="work", cache=True)
        async def work() -> int:
            runs.append(0)
            return len(runs)

        tasks.append(work)
    for _ in range(2):
        await tasks[1].kiq()
    assert [await tasks[0](), await tasks[0].original_func()] == [3, 4]


async def test_default_middlewares_share_one_storage_which_is_closed_at_shutdown(
    storage_config: TaskiqFlowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    middlewares = StorageAdapterFactory.create_default_middlewares(storage_config)
    storage, cache = middlewares["storage"], middlewares["cache"]
    assert isinstance(storage, StorageMiddleware)
    assert isinstance(cache, CacheMiddleware)
    assert isinstance(cache.cache, StorageCacheAdapter)
    assert cache.cache.storage is storage.storage
    broker, closed = InMemoryBroker(await_inplace=True), list[Any]()
    broker.add_middlewares(storage, cache)
    work = broker.register_task(lambda: 1, task_name="work", cache=True)
    for _ in range(2):
        await work.kiq()
    assert (storage.stored, cache.cache.get_stats().hits) == (2, 1)
    close = type(storage.storage).aclose

    async def aclose(self: Any) -> None:
        closed.append(self)
        await close(self)

    monkeypatch.setattr(type(storage.storage), "aclose", aclose)
    for middleware in (storage, cache):  # taskiq's in-memory broker does so from 0.13 on
        await middleware.shutdown()
    assert closed == [storage.storage]
    await broker.shutdown()
