"""``CacheMiddleware``: a cache that fails, and custom ones."""

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from taskiq import (
    InMemoryBroker,
    TaskiqResult,
)

from taskiq_flow.cache import BaseCacheAdapter, CacheStats, StorageCacheAdapter
from taskiq_flow.exceptions import StorageConnectionError
from taskiq_flow.middlewares import CacheMiddleware, LostResult
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.storage import InMemoryStorageAdapter
from tests.adapters import SixMethods
from tests.cached_tasks import end, is_cached, logged, memory_only


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
    assert logged(caplog)[1:] == ["the cache works again; results that it did not keep: 3"]
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
    assert "for lost results failed" in caplog.text


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
