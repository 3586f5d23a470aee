"""``CacheMiddleware``: which calls are the same, and what the labels ask for."""

import enum
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from taskiq import (
    InMemoryBroker,
    TaskiqDepends,
    TaskiqMessage,
    TaskiqMiddleware,
)

from taskiq_flow import clock
from taskiq_flow.cache import InMemoryCacheAdapter, StorageCacheAdapter
from taskiq_flow.clock import FrozenClock
from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import ConfigurationError, InvalidTTLError
from taskiq_flow.middlewares import CacheMiddleware
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.storage import InMemoryStorageAdapter
from taskiq_flow.storage.factory import StorageAdapterFactory
from tests.cached_tasks import end, logged, memory_only


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


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


class Box(pydantic.BaseModel):
    size: Size = Size.SMALL


@dataclass
class Page:
    number: int = 1
    sizes: tuple[int, ...] = (10, 20)


@memory_only
@pytest.mark.parametrize(
    ("default", "given", "are_same"),
    [
        (2, 2, True),
        (None, None, True),
        ("x", "x", True),
        ((1, 2), (1, 2), True),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}, True),
        (Size.SMALL, Size.SMALL, True),
        (Decimal("1.10"), Decimal("1.10"), True),
        (datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), True),
        (Box(), Box(), True),
        (Page(), Page(), True),
        (2, 3, False),
        (2, 2.0, False),
        (1, True, False),
        (None, "None", False),
        ((1, 2), (2, 1), False),
        (Size.SMALL, Size.LARGE, False),
        (Page(), Page(2), False),
        (object(), 1, False),
    ],
    ids=lambda each: repr(each) if isinstance(each, bool) else type(each).__name__,
)
async def test_a_default_that_is_given_or_left_out_is_the_same(
    flow_broker: FlowBroker, default: Any, given: Any, are_same: bool
) -> None:
    runs: list[Any] = []

    @flow_broker.task(task_name="work", cache=True)
    async def work(number, more=default, *, name=default):  # type: ignore[no-untyped-def]  # of any type
        runs.append(number)

    for args, kwargs in (((1,), {}), ((1, given), {}), ((1,), {"more": given}), ((1,), {"name": given})):
        assert not (await end(flow_broker, await work.kiq(*args, **kwargs))).is_err
    assert len(runs) == (1 if are_same else 3)
    await end(flow_broker, await work.kiq(1, given, name=given))
    assert len(runs) == (1 if are_same else 4)


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


@pytest.mark.parametrize("owns_cache", [None, False, True])
async def test_a_cache_that_was_handed_in_stays_open_unless_it_is_handed_over(owns_cache: bool | None) -> None:
    closed: list[Any] = []

    class Watched(InMemoryCacheAdapter):
        async def aclose(self) -> None:
            closed.append(self)

    await CacheMiddleware(Watched(), owns_cache=owns_cache).shutdown()
    assert len(closed) == bool(owns_cache)


def test_a_killed_worker_frees_what_it_ran_within_15_seconds() -> None:
    made_here = CacheMiddleware().cache
    made_by_the_factory = StorageAdapterFactory.create_default_middlewares(TaskiqFlowConfig())["cache"].cache
    for cache in (made_here, made_by_the_factory):
        assert isinstance(cache, StorageCacheAdapter)
        assert cache.lock_timeout < 15


async def test_a_cache_that_was_made_here_is_closed() -> None:
    closed: list[Any] = []

    async def aclose() -> None:
        closed.append(0)

    middleware = CacheMiddleware()
    middleware.cache.aclose = aclose  # type: ignore[method-assign]
    await middleware.shutdown()
    assert closed == [0]
