"""``CacheMiddleware``: what it saves, that nobody but the saved function notices, and what happens when it cannot."""

import asyncio
import hashlib
import importlib
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pydantic
import pytest
import taskiq
from taskiq import (
    AsyncTaskiqTask,
    Context,
    InMemoryBroker,
    SendTaskError,
    SimpleRetryMiddleware,
    TaskiqDepends,
    TaskiqMessage,
    TaskiqMiddleware,
    TaskiqResult,
)
from taskiq.acks import AckableMessage, AcknowledgeType
from taskiq.receiver import Receiver

from taskiq_flow import clock
from taskiq_flow.cache import BaseCacheAdapter, CacheStats, InMemoryCacheAdapter, StorageCacheAdapter
from taskiq_flow.clock import FrozenClock
from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import ConfigurationError, InvalidTTLError, StorageConnectionError
from taskiq_flow.middlewares import CacheMiddleware, LostResult, StorageMiddleware
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.storage import BaseStorageAdapter, InMemoryStorageAdapter
from taskiq_flow.storage.factory import StorageAdapterFactory
from tests import redis_servers
from tests.adapters import SixMethods

LOG = "taskiq_flow.middlewares.cache"
memory_only = pytest.mark.storage_backends("memory")

NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


class Total(pydantic.BaseModel):
    net: Decimal
    day: datetime


@dataclass
class Line:
    sku: str
    total: Total


class OutOfStockError(Exception):
    def __init__(self, sku: str) -> None:
        super().__init__(f"{sku} is out of stock")
        self.sku = sku


async def end(broker: FlowBroker, task: AsyncTaskiqTask[Any]) -> TaskiqResult[Any]:
    """Return a task's result when all is stored."""
    await broker.drain()
    return await task.get_result()


def is_cached(result: TaskiqResult[Any]) -> bool:
    return result.labels.get("cached") is True


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOG]


# --- what is saved ----------------------------------------------------------------------------------------------------


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


# --- the key ----------------------------------------------------------------------------------------------------------


@memory_only
@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        (((1, "x"), {}), ((1,), {"text": "x"}), True),
        (((1,), {"text": "x"}), ((), {"text": "x", "number": 1}), True),
        ((({"a": 1, "b": 2},), {}), (({"b": 2, "a": 1},), {}), True),
        (((1,), {}), ((1.0,), {}), False),
        (((1,), {}), ((True,), {}), False),
        (((1,), {}), (("1",), {}), False),
        (((None,), {}), (("None",), {}), False),
        ((([1, 2],), {}), (([2, 1],), {}), False),
        (((1,), {"text": "x"}), ((1,), {"text": "y"}), False),
        (((1,), {"more": 1}), ((1,), {"other": 1}), False),
        (((1,), {"more": 1, "other": 2}), ((1,), {"other": 2, "more": 1}), True),
        ((("🦊\ud800",), {}), (("🦊\ud801",), {}), False),
    ],
)
async def test_arguments_make_the_key(flow_broker: FlowBroker, one: Any, other: Any, are_same: bool) -> None:
    runs: list[Any] = []

    @flow_broker.task(task_name="work", cache=True)
    async def work(number: Any, text: str = "", **more: Any) -> None:
        runs.append(number)

    for args, kwargs in (one, other, one):
        assert not (await end(flow_broker, await work.kiq(*args, **kwargs))).is_err
    assert len(runs) == (1 if are_same else 2)


async def test_the_key_is_the_same_in_another_process(flow_broker: FlowBroker) -> None:
    """And does not change with a release, which would forget all that is cached."""
    work = flow_broker.register_task(lambda number: number, task_name="shop:price", cache=True)
    await end(flow_broker, await work.kiq(number=3))
    digest = hashlib.sha256(b'{"number": 3}').hexdigest()
    assert await flow_broker.cache_middleware.cache.get(f"shop:price:{digest}") == {"task": "shop:price", "value": 3}


@memory_only
async def test_a_key_of_ones_own(flow_broker: FlowBroker) -> None:
    runs: list[str] = []

    @flow_broker.task(task_name="price", cache_ttl=60, cache_key="all")
    async def price(sku: str) -> str:
        runs.append(sku)
        return sku

    @flow_broker.task(task_name="stock", cache_ttl=60, cache_key="all")
    async def stock(sku: str) -> str:
        runs.append(f"stock of {sku}")
        return "stock"

    values = [(await end(flow_broker, await task.kiq(sku))).return_value for sku in "AB" for task in (price, stock)]
    assert values == ["A", "stock", "A", "stock"]
    assert runs == ["A", "stock of A"]
    assert await flow_broker.cache_middleware.cache.invalidate("price:all")
    assert (await end(flow_broker, await price.kiq("C"))).return_value == "C"
    other = price.kicker().with_labels(cache_key="user:7")
    assert (await end(flow_broker, await other.kiq("D"))).return_value == "D"


@memory_only
@pytest.mark.flow_broker(loses="cache key 'a:b:c' holds no result of task a")
async def test_the_result_of_another_task_is_never_given(flow_broker: FlowBroker) -> None:
    one = flow_broker.register_task(lambda: "one", task_name="a:b", cache=True, cache_key="c")
    other = flow_broker.register_task(lambda: "other", task_name="a", cache=True, cache_key="b:c")
    assert (await end(flow_broker, await one.kiq())).return_value == "one"
    assert (await end(flow_broker, await other.kiq())).return_value == "other"


@memory_only
@pytest.mark.flow_broker(loses=r"arguments cannot be compared: arguments\['thing'\]: an object of type object")
async def test_arguments_that_cannot_be_compared(flow_broker: FlowBroker, caplog: pytest.LogCaptureFixture) -> None:
    class Loader(TaskiqMiddleware):
        def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
            message.args = [object()]
            return message

    flow_broker.add_middlewares(Loader())
    runs: list[object] = []

    @flow_broker.task(task_name="work", cache=True)
    async def work(thing: object) -> int:
        runs.append(thing)
        return len(runs)

    values = [(await end(flow_broker, await work.kiq(1))).return_value for _ in range(3)]
    assert values == [1, 2, 3]
    assert len(logged(caplog)) == 1
    assert flow_broker.cache_middleware.failures == 3


# --- labels -----------------------------------------------------------------------------------------------------------


@memory_only
@pytest.mark.parametrize(
    ("labels", "runs"),
    [
        ({}, 2),
        ({"cache": None}, 2),
        ({"cache": False}, 2),
        ({"cache": "False"}, 2),
        ({"cache": 0}, 2),
        ({"cache": False, "cache_ttl": 60}, 2),
        ({"cache_ttl": None}, 2),
        ({"cache_ttl": "None"}, 2),
        ({"cache_errors": True, "cache_key": "k"}, 2),
        ({"cache": True}, 1),
        ({"cache": "true"}, 1),
        ({"cache": 1}, 1),
        ({"cache_ttl": 60}, 1),
        ({"cache_ttl": "60"}, 1),
        ({"cache_ttl": 0.5}, 1),
        ({"cache": None, "cache_ttl": 60}, 1),
        ({"cache": True, "cache_ttl": None}, 1),
    ],
)
async def test_labels_ask_for_it(
    flow_broker: FlowBroker, frozen_clock: FrozenClock, labels: dict[str, Any], runs: int
) -> None:
    counted: list[int] = []

    @flow_broker.task(task_name="work", **labels)
    async def work() -> int:
        counted.append(0)
        return 1

    for _ in range(2):
        await end(flow_broker, await work.kiq())
    assert len(counted) == runs


@memory_only
@pytest.mark.parametrize("label", [0, -1, "1 h", "nan", "", True, 10**11])
async def test_an_invalid_time_to_live_is_told_and_nothing_cached(
    flow_broker: FlowBroker, caplog: pytest.LogCaptureFixture, label: Any
) -> None:
    counted: list[int] = []

    @flow_broker.task(task_name="work", cache_ttl=label)
    async def work() -> int:
        counted.append(0)
        return 1

    for _ in range(2):
        assert (await end(flow_broker, await work.kiq())).return_value == 1
    assert len(counted) == 2
    assert all(f"task work has an invalid label cache_ttl={label!r}" in message for message in logged(caplog))
    assert len(logged(caplog)) == 2


@memory_only
async def test_the_default_time_to_live(cache_adapter: StorageCacheAdapter) -> None:
    for default_ttl, seconds in ((5, 5), (None, cache_adapter.default_ttl)):
        broker, runs = InMemoryBroker(await_inplace=True), list[int]()
        broker.add_middlewares(CacheMiddleware(InMemoryCacheAdapter(), default_ttl=default_ttl))

        @broker.task(task_name="work", cache=True)
        async def work(runs: list[int] = TaskiqDepends(lambda runs=runs: runs)) -> None:
            runs.append(0)

        with clock.freeze() as frozen:
            await work.kiq()
            assert seconds is not None
            frozen.tick(seconds - 0.001)
            await work.kiq()
            assert len(runs) == 1
            frozen.tick(0.001)
            await work.kiq()
            assert len(runs) == 2


@memory_only
async def test_disabled(flow_broker: FlowBroker) -> None:
    runs: list[int] = []

    @flow_broker.task(task_name="work", cache=True)
    async def work() -> None:
        runs.append(0)

    flow_broker.cache_middleware.enabled = False
    for _ in range(2):
        await end(flow_broker, await work.kiq())
    assert len(runs) == 2
    flow_broker.cache_middleware.enabled = True
    for _ in range(2):
        await end(flow_broker, await work.kiq())
    assert len(runs) == 3


@pytest.mark.parametrize("wrong", [InMemoryCacheAdapter, "redis://localhost", InMemoryStorageAdapter()])
def test_no_cache(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="cache must be a BaseCacheAdapter or None, not "):
        CacheMiddleware(wrong)


def test_no_time_to_live() -> None:
    with pytest.raises(InvalidTTLError):
        CacheMiddleware(default_ttl=0)


async def test_its_own_cache_is_closed_and_no_other() -> None:
    closed: list[Any] = []

    class Watched(InMemoryCacheAdapter):
        async def aclose(self) -> None:
            closed.append(self)

    await CacheMiddleware(Watched()).shutdown()
    assert closed == []
    own = CacheMiddleware()
    own.cache = Watched()
    await own.shutdown()
    assert closed == [own.cache]


# --- values -----------------------------------------------------------------------------------------------------------


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


# --- errors -----------------------------------------------------------------------------------------------------------


async def test_errors_are_not_cached(flow_broker: FlowBroker) -> None:
    runs: list[int] = []

    @flow_broker.task(task_name="reserve", cache_ttl=60)
    async def reserve(sku: str) -> str:
        runs.append(0)
        if len(runs) == 1:
            raise OutOfStockError(sku)
        return sku

    bad, good, hit = [await end(flow_broker, await reserve.kiq("A1")) for _ in range(3)]
    assert isinstance(bad.error, OutOfStockError)
    assert [result.return_value for result in (bad, good, hit)] == [None, "A1", "A1"]
    assert len(runs) == 2


async def test_errors_are_cached_where_that_is_asked_for(flow_broker: FlowBroker, frozen_clock: FrozenClock) -> None:
    runs: list[int] = []

    @flow_broker.task(task_name="reserve", cache_ttl=60, cache_errors=True)
    def reserve(sku: str) -> str:
        runs.append(0)
        raise OutOfStockError(sku) from KeyError(sku)

    miss, hit = [await end(flow_broker, await reserve.kiq("A1")) for _ in range(2)]
    assert len(runs) == 1
    for result in (miss, hit):
        assert result.is_err
        assert isinstance(result.error, OutOfStockError)
        assert (str(result.error), result.error.sku) == ("A1 is out of stock", "A1")
        assert isinstance(result.error.__cause__, KeyError)
    assert is_cached(hit)
    frozen_clock.tick(60)
    await end(flow_broker, await reserve.kiq("A1"))
    assert len(runs) == 2


@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["same cache", "as in another process"])
async def test_those_who_wait_share_the_error(
    make_cache_adapter: Callable[..., StorageCacheAdapter], is_elsewhere: bool
) -> None:
    runs, told = list[int](), list[str]()

    class Watcher(TaskiqMiddleware):
        def on_error(self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException) -> None:
            assert result.error is exception
            told.append(message.task_id)

    cache = make_cache_adapter()
    brokers, sent = [InMemoryBroker(), InMemoryBroker()], []
    for broker in brokers:
        broker.add_middlewares(Watcher(), CacheMiddleware(make_cache_adapter() if is_elsewhere else cache))

        @broker.task(task_name="reserve", cache=True)
        async def reserve(sku: str) -> str:
            runs.append(0)
            await asyncio.sleep(0.05)  # the others wait for it
            # Not a failure of the cache: the task uses a storage as well.
            raise StorageConnectionError(f"no {sku}")

        sent += [await reserve.kiq("A1"), await reserve.kiq("A1")]
    results = [await task.wait_result(check_interval=0.005, timeout=30) for task in sent]
    assert len(runs) == 1
    for result in results:
        assert (type(result.error), str(result.error)) == (StorageConnectionError, "no A1")
    assert sorted(told) == sorted(task.task_id for task in sent), "the hooks ran for each"
    assert [is_cached(result) for result in results].count(True) == 3
    for broker in brokers:
        assert [each.failures for each in broker.middlewares if isinstance(each, CacheMiddleware)] == [0]
        await broker.shutdown()


@memory_only
async def test_hooks_run_in_taskiqs_order(flow_broker: FlowBroker) -> None:
    order: list[str] = []

    class Named(TaskiqMiddleware):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        async def on_error(self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException) -> None:
            order.append(self.name)

    flow_broker.add_middlewares(Named("a"), Named("b"))

    @flow_broker.task(task_name="fail", cache=True, cache_errors=True)
    async def fail() -> None:
        raise ValueError("no")

    for _ in range(2):
        await end(flow_broker, await fail.kiq())
    assert order[:2] == order[2:]
    assert sorted(order) == ["a", "a", "b", "b"]


@memory_only
async def test_a_hook_that_fails_costs_what_it_costs_any_task() -> None:
    class Broken(TaskiqMiddleware):
        def on_error(self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException) -> None:
            raise RuntimeError(f"broken hook of {message.task_name}")

    broker, runs = InMemoryBroker(await_inplace=True), list[int]()
    middleware = CacheMiddleware()
    broker.add_middlewares(Broken(), middleware)

    @broker.task(task_name="fail", cache=True)
    async def fail() -> None:
        runs.append(0)
        raise ValueError("no")

    with pytest.raises(SendTaskError) as caught:
        await fail.kiq()
    assert str(caught.value.__cause__) == "broken hook of fail"
    assert len(runs) == 1
    assert middleware.failures == 0


# --- retries, time-outs, acknowledgements -----------------------------------------------------------------------------

RETRIES = [SimpleRetryMiddleware, *filter(None, [getattr(taskiq, "SmartRetryMiddleware", None)])]
"""Older releases of taskiq have only the first."""


@pytest.mark.parametrize("kind", RETRIES)
@pytest.mark.parametrize("cache_errors", [False, True])
async def test_retries_of_many_at_once(
    flow_broker: FlowBroker, kind: Callable[..., TaskiqMiddleware], cache_errors: bool
) -> None:
    runs: list[int] = []
    # More than the three that are needed: on a slow storage a message may share one error twice.
    flow_broker.add_middlewares(kind(default_retry_count=8))

    @flow_broker.task(task_name="flaky", cache=True, cache_errors=cache_errors, retry_on_error=True, delay=0)
    async def flaky() -> str:
        runs.append(0)
        await asyncio.sleep(0.01)  # the others wait for it
        if len(runs) <= 2:
            raise ValueError("not yet")
        return "at last"

    sent = [await flaky.kiq() for _ in range(10)]
    await flow_broker.drain()
    assert [(await task.get_result()).return_value for task in sent] == ["at last"] * 10
    assert len(runs) == 3


@pytest.mark.parametrize("no_result_on_retry", [True, False])
async def test_each_retry_of_one_task_is_a_run(flow_broker: FlowBroker, no_result_on_retry: bool) -> None:
    """A retry may arrive while those who wait are still being told of the error that it follows."""
    runs: list[int] = []
    flow_broker.add_middlewares(SimpleRetryMiddleware(default_retry_count=5, no_result_on_retry=no_result_on_retry))

    @flow_broker.task(task_name="flaky", cache=True, retry_on_error=True)
    async def flaky() -> None:
        runs.append(0)
        raise ValueError(f"run {len(runs)}")

    result = await end(flow_broker, await flaky.kiq())
    assert str(result.error) == "run 5"
    assert len(runs) == 5


@memory_only
async def test_retries_in_place() -> None:
    broker, runs = InMemoryBroker(await_inplace=True), list[int]()
    middleware = CacheMiddleware()
    broker.add_middlewares(middleware, SimpleRetryMiddleware(default_retry_count=3))

    @broker.task(task_name="flaky", cache=True, retry_on_error=True)
    async def flaky() -> str:
        runs.append(0)
        if len(runs) <= 2:
            raise ValueError("not yet")
        return "at last"

    assert (await (await flaky.kiq()).get_result()).return_value == "at last"
    assert (len(runs), middleware.failures) == (3, 0)


@memory_only
async def test_a_task_that_is_requeued(flow_broker: FlowBroker) -> None:
    runs: list[int] = []

    @flow_broker.task(task_name="busy", cache=True)
    async def busy(context: Context = TaskiqDepends()) -> str:
        runs.append(0)
        if len(runs) == 1:
            await asyncio.sleep(0)  # the other one waits for it
            await context.requeue()
        return "done"

    sent = [await busy.kiq(), await busy.kiq()]
    await flow_broker.drain()
    assert [(await task.get_result()).return_value for task in sent] == ["done", "done"]


@memory_only
async def test_a_run_that_is_broken_off_is_nobody_elses_end(flow_broker: FlowBroker) -> None:
    runs: list[int] = []

    @flow_broker.task(task_name="work", cache=True)
    async def work() -> str:
        runs.append(0)
        if len(runs) == 1:
            await asyncio.sleep(0.01)  # the other one waits for it
            raise asyncio.CancelledError
        return "done"

    sent = [await work.kiq(), await work.kiq()]
    await flow_broker.drain()
    first, second = [await task.get_result() for task in sent]
    assert isinstance(first.error, asyncio.CancelledError)
    assert second.return_value == "done"


async def test_the_time_out_of_a_task(flow_broker: FlowBroker) -> None:
    runs: list[int] = []

    @flow_broker.task(task_name="slow", cache=True, timeout=0.02)
    async def slow() -> None:
        runs.append(0)
        await asyncio.Event().wait()

    sent = [await slow.kiq(), await slow.kiq()]
    await flow_broker.drain()
    for task in sent:
        assert isinstance((await task.get_result()).error, TimeoutError)
    assert len(runs) == 1


@memory_only
@pytest.mark.flow_broker(loses="takes longer than its own time-out")
async def test_who_has_a_time_out_does_not_wait_for_the_dead(
    flow_broker: FlowBroker, make_cache_adapter: Callable[..., StorageCacheAdapter]
) -> None:
    flow_broker.cache_middleware.cache = make_cache_adapter(lock_timeout=300)
    elsewhere, began = make_cache_adapter(lock_timeout=300), asyncio.Event()

    @flow_broker.task(task_name="work", cache=True, cache_key="k", timeout=0.01)
    async def work() -> int:
        return 1

    async def never_ends() -> None:
        began.set()
        await asyncio.Event().wait()

    holder = asyncio.ensure_future(elsewhere.get_or_create("work:k", never_ends))
    await began.wait()
    assert (await end(flow_broker, await work.kiq())).return_value == 1
    holder.cancel()


@memory_only
async def test_patience_is_for_waiting_not_for_running(flow_broker: FlowBroker) -> None:
    class Slow(TaskiqMiddleware):
        async def on_error(self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException) -> None:
            await asyncio.sleep(0.6)  # longer than anybody would wait for this task

    runs: list[int] = []
    flow_broker.add_middlewares(Slow())

    @flow_broker.task(task_name="slow", cache=True, timeout=0.01)
    async def slow() -> None:
        runs.append(0)
        await asyncio.Event().wait()

    assert isinstance((await end(flow_broker, await slow.kiq())).error, TimeoutError)
    assert len(runs) == 1


@memory_only
@pytest.mark.parametrize(
    "ack_type", [None, *(each for each in AcknowledgeType if each.value != "manual" or hasattr(Context, "ack"))]
)
async def test_each_message_is_acknowledged_once(ack_type: AcknowledgeType | None) -> None:
    broker, acked, runs = InMemoryBroker(), list[int](), list[int]()
    broker.add_middlewares(CacheMiddleware())

    @broker.task(task_name="work", cache=True)
    async def work(context: Context = TaskiqDepends()) -> int:
        runs.append(0)
        if ack_type is not None and ack_type.value == "manual":
            await context.ack()
        return 1

    receiver = Receiver(broker, max_async_tasks=10, ack_type=ack_type)
    for number in range(3):
        message = TaskiqMessage(task_id=str(number), task_name="work", labels=work.labels, args=[], kwargs={})
        data = broker.formatter.dumps(message).message

        def ack(number: int = number) -> None:
            acked.append(number)

        await receiver.callback(AckableMessage(data=data, ack=ack), raise_err=True)
        assert (await broker.result_backend.get_result(str(number))).return_value == 1
    assert acked == [0, 1, 2]
    assert len(runs) == 1


# --- a cache that fails -----------------------------------------------------------------------------------------------


class FragileStorage(InMemoryStorageAdapter):
    """Fails for as long as it is told to, in the operations that are named."""

    error: Exception | None = None
    fails: tuple[str, ...] = ("get", "compare_and_set")

    async def get(self, key: str) -> Any | None:
        self._maybe_fail("get")
        return await super().get(key)

    async def compare_and_set(self, *args: Any, **named: Any) -> bool:
        self._maybe_fail("compare_and_set")
        return await super().compare_and_set(*args, **named)

    def _maybe_fail(self, operation: str) -> None:
        if self.error is not None and operation in self.fails:
            raise self.error


@pytest.mark.parametrize("in_place", [True, False])
async def test_a_cache_that_fails_costs_nothing_but_the_saving(
    caplog: pytest.LogCaptureFixture, in_place: bool
) -> None:
    storage, runs, told = FragileStorage(), list[int](), list[LostResult]()
    broker, middleware = InMemoryBroker(await_inplace=in_place), CacheMiddleware(StorageCacheAdapter(storage))
    middleware.on_failure.append(told.append)
    broker.add_middlewares(middleware)

    @broker.task(task_name="work", cache=True)
    async def work(number: int) -> int:
        runs.append(number)
        return number

    async def run(number: int) -> TaskiqResult[Any]:
        task = await work.kiq(number)
        await broker.wait_all()
        return await task.get_result()

    storage.error = StorageConnectionError("redis at redis://host/0: get failed: gone")
    for _ in range(3):
        assert (await run(1)).return_value == 1
    [message] = logged(caplog)
    assert "the result of task work" in message
    assert "redis at redis://host/0: get failed: gone" in message
    assert (runs, middleware.failures) == ([1, 1, 1], 3)
    assert list(middleware.lost) == told
    assert [(lost.task_name, lost.reason) for lost in told] == [("work", str(storage.error))] * 3

    storage.error = None
    assert [(await run(1)).return_value for _ in range(2)] == [1, 1]
    assert len(runs) == 4
    assert logged(caplog)[1:] == ["the cache works again"]
    await broker.shutdown()


async def test_what_has_run_is_not_run_again_because_it_cannot_be_kept() -> None:
    class FullStorage(FragileStorage):
        def _maybe_fail(self, operation: str) -> None:
            if runs:  # as soon as there is something to keep
                super()._maybe_fail(operation)

    storage, runs = FullStorage(), list[int]()
    storage.error, storage.fails = MemoryError("full"), ("compare_and_set",)
    broker, middleware = InMemoryBroker(await_inplace=True), CacheMiddleware(StorageCacheAdapter(storage))
    broker.add_middlewares(middleware)

    @broker.task(task_name="work", cache=True)
    async def work() -> int:
        runs.append(0)
        return 1

    assert (await (await work.kiq()).get_result()).return_value == 1
    assert (len(runs), middleware.failures) == (1, 1)
    assert middleware.lost[0].reason == "full"


@memory_only
@pytest.mark.flow_broker(loses="the cache does not take it")
@pytest.mark.parametrize("foreign", [5, None, {"value": 1}, {"task": "work"}, {"task": "work", "error": {}}])
async def test_what_else_lies_under_the_key(flow_broker: FlowBroker, foreign: Any) -> None:
    work = flow_broker.register_task(lambda: 1, task_name="work", cache=True, cache_key="k")
    await flow_broker.cache_middleware.cache.set("work:k", foreign)
    result = await end(flow_broker, await work.kiq())
    assert (result.return_value, is_cached(result)) == (1, False)


@memory_only
@pytest.mark.flow_broker(loses="NUL")
async def test_a_key_that_no_cache_can_hold(flow_broker: FlowBroker, caplog: pytest.LogCaptureFixture) -> None:
    work = flow_broker.register_task(lambda: 1, task_name="work", cache=True, cache_key="\0")
    fine = flow_broker.register_task(lambda: 2, task_name="fine", cache=True)
    for task in (work, fine, work):
        assert not (await end(flow_broker, await task.kiq())).is_err
    assert len(logged(caplog)) == 1, "the cache works, and did so all the time"


@memory_only
async def test_a_callback_that_fails_fails_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    storage, told = FragileStorage(), list[LostResult]()
    storage.error = OSError("no")
    broker, middleware = InMemoryBroker(await_inplace=True), CacheMiddleware(StorageCacheAdapter(storage))
    broker.add_middlewares(middleware)

    def fail(lost: LostResult) -> None:
        raise ValueError(lost)

    middleware.on_failure += [fail, told.append]
    work = broker.register_task(lambda: 1, task_name="work", cache=True)
    assert (await (await work.kiq()).get_result()).return_value == 1
    assert len(told) == 1
    assert "for results that are not cached failed" in caplog.text


async def test_over_an_adapter_with_six_methods() -> None:
    broker, runs = InMemoryBroker(), list[int]()
    broker.add_middlewares(CacheMiddleware(StorageCacheAdapter(SixMethods(InMemoryStorageAdapter()))))

    @broker.task(task_name="work", cache=True)
    async def work() -> int:
        runs.append(0)
        return 1

    sent = [await work.kiq() for _ in range(10)]
    await broker.wait_all()
    assert [(await task.get_result()).return_value for task in sent] == [1] * 10
    assert len(runs) == 1
    await broker.shutdown()


async def test_a_cache_of_ones_own() -> None:
    class Plain(BaseCacheAdapter):
        """No single flight, no copies: what a few lines of one's own come to."""

        def __init__(self) -> None:
            self.values: dict[str, Any] = {}

        async def get(self, key: str, default: Any = None) -> Any:
            return self.values.get(key, default)

        async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
            self.values[key] = value

        async def get_or_create(
            self, key: str, creator: Callable[[], Awaitable[Any]], ttl_seconds: float | None = None
        ) -> Any:
            if key not in self.values:
                self.values[key] = await creator()
            return self.values[key]

        async def invalidate(self, key: str) -> bool:
            return self.values.pop(key, None) is not None

        async def clear(self) -> int:
            return 0

        def get_stats(self) -> CacheStats:
            return CacheStats(0, 0, 0, 0, 0)

    broker, runs = InMemoryBroker(await_inplace=True), list[int]()
    broker.add_middlewares(CacheMiddleware(Plain()))

    @broker.task(task_name="work", cache=True)
    def work() -> int:
        runs.append(threading.get_ident())
        return 1

    for _ in range(2):
        assert (await (await work.kiq()).get_result()).return_value == 1
    assert len(runs) == 1


# --- without being seen -----------------------------------------------------------------------------------------------


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


def test_the_receiver_is_wrapped_once() -> None:
    InMemoryBroker().add_middlewares(CacheMiddleware())
    wrapped = Receiver.run_task
    InMemoryBroker().add_middlewares(CacheMiddleware(), CacheMiddleware())
    assert Receiver.run_task is wrapped


# --- the factory ------------------------------------------------------------------------------------------------------


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


# --- worker processes -------------------------------------------------------------------------------------------------


async def test_real_workers_run_it_once_for_a_hundred_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    log.touch()

    def noted() -> dict[str, list[str]]:
        """Return the processes of each event."""
        found: dict[str, list[str]] = {}
        for line in log.read_text().splitlines():
            event, process = line.split()
            found.setdefault(event, []).append(process)
        return found

    with redis_servers.standalone(tmp_path / "redis") as port:
        monkeypatch.setenv("CACHED_APP_URL", f"redis://127.0.0.1:{port}")
        monkeypatch.setenv("CACHED_APP_LOG", str(log))
        app = importlib.import_module("tests.cached_app")
        command = [sys.executable, "-m", "taskiq", "worker", "tests.cached_app:broker", "--workers", "2"]
        with (tmp_path / "worker.log").open("wb") as output:
            worker = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)  # noqa: ASYNC220
        try:

            async def until(condition: Callable[[], Awaitable[bool]]) -> None:
                while not await condition():
                    assert worker.poll() is None, (tmp_path / "worker.log").read_text()
                    await asyncio.sleep(0.02)  # other processes have no clock but the real one

            async def both_started() -> bool:
                return len(noted().get("started", [])) == 2

            await until(both_started)
            await app.broker.startup()
            sent = [await app.square.kiq(12) for _ in range(100)]
            for task in sent:
                await until(task.is_ready)
            results = [await task.get_result() for task in sent]
            await app.broker.shutdown()
        finally:
            os.killpg(worker.pid, signal.SIGKILL)  # asked to end, they wait for a last message first
            worker.wait()
    assert {result.return_value for result in results} == {144}
    assert sum(map(is_cached, results)) == 99
    assert len(noted()["ran"]) == 1
    assert len(set(noted()["handled"])) == 2, "both processes took part"
