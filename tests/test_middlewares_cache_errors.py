"""``CacheMiddleware``: tasks that raise, are retried, time out or are acknowledged late."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import taskiq
from taskiq import (
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

from taskiq_flow.cache import StorageCacheAdapter
from taskiq_flow.clock import FrozenClock
from taskiq_flow.exceptions import StorageConnectionError
from taskiq_flow.middlewares import CacheMiddleware
from taskiq_flow.pytest_plugin.broker import FlowBroker
from tests.cached_tasks import OutOfStockError, end, is_cached, memory_only


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
    assert "asyncio.exceptions.CancelledError" in str(first.error), "no error that cancels whoever raises it"
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
