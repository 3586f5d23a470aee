"""``StorageResultBackend``: what a task leaves behind comes back, on every storage, and nobody waits in vain."""

import asyncio
import dataclasses
import enum
import logging
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from taskiq import AsyncTaskiqTask, InMemoryBroker, TaskiqDepends, TaskiqResult
from taskiq.depends.progress_tracker import ProgressTracker, TaskProgress, TaskState
from taskiq.exceptions import ResultGetError, TaskiqResultTimeoutError

from taskiq_flow.clock import FrozenClock
from taskiq_flow.exceptions import (
    ConfigurationError,
    InvalidTTLError,
    SerializationError,
    StorageBackendError,
    StorageConnectionError,
)
from taskiq_flow.middlewares import PipelineMiddleware, StorageMiddleware
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.records.errors import StandInError
from taskiq_flow.records.results import UnstorableResultError
from taskiq_flow.result_backend import ResultIsMissingError, StorageResultBackend
from taskiq_flow.storage import BaseStorageAdapter, InMemoryStorageAdapter
from taskiq_flow.storage.failures import Failure
from tests.adapters import SixMethods

NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
MakeAdapter = Callable[..., BaseStorageAdapter]


class Colour(enum.Enum):
    RED = "red"


class Total(pydantic.BaseModel):
    net: Decimal
    day: date


@dataclasses.dataclass
class Line:
    sku: str
    total: Total


class OutOfStockError(Exception):
    def __init__(self, sku: str) -> None:
        super().__init__(f"{sku} is out of stock")
        self.sku = sku


class NarrowAdapter(InMemoryStorageAdapter):
    """Refuses what is longer than 5,000 characters, in the way that it is told to."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        if len(repr(value)) > 5000:
            raise self.error
        await super().set(key, value, ttl_seconds)


class GoneAdapter(InMemoryStorageAdapter):
    """Cannot be reached, that many times."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self.times = times
        self.calls = 0

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        self.calls += 1
        if self.calls <= self.times:
            raise StorageConnectionError(f"redis at redis://host/0: set({key!r}) failed: gone")
        await super().set(key, value, ttl_seconds)


@pytest.fixture(params=["whole", "six methods"])
def storage(request: pytest.FixtureRequest, storage_adapter: BaseStorageAdapter) -> BaseStorageAdapter:
    return storage_adapter if request.param == "whole" else SixMethods(storage_adapter)


def broker_on(backend: StorageResultBackend[Any]) -> InMemoryBroker:
    return InMemoryBroker(await_inplace=True).with_result_backend(backend)


def result_of(value: Any = None, **more: Any) -> TaskiqResult[Any]:
    return TaskiqResult(**{"is_err": False, "return_value": value, "execution_time": 0.5, **more})


# --- results ----------------------------------------------------------------------------------------------------------


async def test_a_result_comes_back_whole(storage: BaseStorageAdapter) -> None:
    backend: StorageResultBackend[Any] = StorageResultBackend(storage)
    broker = broker_on(backend)
    value = {"t": (1, 2), "when": NOW, "n": Decimal("1.10"), 3: "x", "nothing": None, "b": b"\x00", "s": {1}}

    @broker.task(task_name="shop.price", region="north", weight=3)
    async def price() -> Any:
        return value

    task = await price.kiq()
    assert await task.is_ready()
    result = await task.wait_result(timeout=5)
    assert result.return_value == value
    assert type(result.return_value["t"]) is tuple
    assert (result.is_err, result.error, result.log) == (False, None, None)
    assert result.labels == {"region": "north", "weight": 3}
    assert result.execution_time >= 0
    result.return_value.clear()
    assert (await task.get_result()).return_value == value


async def test_another_worker_reads_it(storage_adapter: BaseStorageAdapter, make_storage_adapter: MakeAdapter) -> None:
    await StorageResultBackend(storage_adapter).set_result("one", result_of(1))
    other: StorageResultBackend[int] = StorageResultBackend(make_storage_adapter())
    assert await other.is_result_ready("one")
    assert (await other.get_result("one")).return_value == 1


async def test_other_objects_come_back_as_the_data_that_taskiq_makes_of_them(storage: BaseStorageAdapter) -> None:
    broker = broker_on(StorageResultBackend(storage))

    @broker.task
    async def line() -> Line:
        return Line("A1", Total(net=Decimal("9.90"), day=date(2025, 1, 2)))

    @broker.task
    async def colours() -> list[Colour]:
        return [Colour.RED]

    line_id, colours_id = (await line.kiq()).task_id, (await colours.kiq()).task_id
    stored: TaskiqResult[Any] = await broker.result_backend.get_result(line_id)
    assert stored.return_value == {"sku": "A1", "total": {"net": "9.90", "day": "2025-01-02"}}
    stored = await broker.result_backend.get_result(colours_id)
    assert stored.return_value == ["red"]


async def test_the_log_comes_only_where_it_is_asked_for(storage_adapter: BaseStorageAdapter) -> None:
    backend: StorageResultBackend[int] = StorageResultBackend(storage_adapter)
    await backend.set_result("one", result_of(1, log="a\nb"))
    assert (await backend.get_result("one")).log is None
    assert (await backend.get_result("one", with_logs=True)).log == "a\nb"


async def test_an_error_comes_back_as_what_it_was(storage: BaseStorageAdapter) -> None:
    broker = broker_on(StorageResultBackend(storage))

    @broker.task
    async def reserve(sku: str) -> None:
        try:
            raise KeyError(sku)
        except KeyError as error:
            raise OutOfStockError(sku) from error

    result = await (await reserve.kiq("A1")).wait_result(timeout=5)
    assert result.is_err
    with pytest.raises(OutOfStockError, match="A1 is out of stock") as caught:
        result.raise_for_error()
    assert caught.value.sku == "A1"
    assert isinstance(caught.value.__cause__, KeyError)


async def test_an_error_that_nobody_knows_here_comes_back_as_a_stand_in(storage: BaseStorageAdapter) -> None:
    backend: StorageResultBackend[None] = StorageResultBackend(storage)
    theirs = type("TheirError", (Exception,), {"__module__": "a.module.of.theirs"})
    await backend.set_result("one", result_of(is_err=True, error=theirs("sold out")))
    result = await backend.get_result("one")
    assert result.is_err
    assert type(result.error) is StandInError
    assert str(result.error) == "a.module.of.theirs.TheirError: sold out"


async def test_there_is_no_result(storage: BaseStorageAdapter) -> None:
    backend: StorageResultBackend[Any] = StorageResultBackend(storage)
    assert not await backend.is_result_ready("nobody")
    with pytest.raises(ResultIsMissingError, match="there is no result for task nobody"):
        await backend.get_result("nobody")
    task: AsyncTaskiqTask[Any] = AsyncTaskiqTask("nobody", backend)
    with pytest.raises(ResultGetError):  # the class that taskiq's users catch
        await task.get_result()
    with pytest.raises(TaskiqResultTimeoutError):
        await task.wait_result(check_interval=0.001, timeout=0.01)


# --- what cannot be stored --------------------------------------------------------------------------------------------


async def test_a_value_that_is_no_data_becomes_an_error_result(
    storage: BaseStorageAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_on(StorageResultBackend(storage))

    @broker.task(region="north")
    async def connect() -> Any:
        return {"ok": 1, "connection": object()}

    task = await connect.kiq()
    result = await task.wait_result(timeout=5)
    reason = "value['result']['connection']: an object of type object cannot be stored without loss"
    assert (result.is_err, result.return_value, result.labels) == (True, None, {"region": "north"})
    assert isinstance(result.error, UnstorableResultError)
    assert str(result.error).startswith(f"the return value of task {task.task_id} could not be stored: ")
    assert reason in str(result.error)
    [message] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert task.task_id in message
    assert reason in message


@pytest.mark.parametrize(
    "error",
    [
        StorageBackendError("redis at redis://host/0 refused set('result:…'): too large", Failure.UNSTORABLE),
        StorageConnectionError("mysql at mysql://host/db: set('result:…') failed: too large", Failure.UNSTORABLE),
        ValueError("too large"),  # a custom adapter may raise anything
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_value_that_the_storage_refuses_becomes_an_error_result(error: Exception) -> None:
    broker = broker_on(StorageResultBackend(NarrowAdapter(error), retry_for=0))

    @broker.task
    async def large() -> Any:
        return "x" * 10_000

    @broker.task
    async def fail() -> Any:
        raise OutOfStockError("x" * 10_000)

    result = await (await large.kiq()).wait_result(timeout=5)
    assert (result.is_err, result.return_value) == (True, None)
    assert isinstance(result.error, UnstorableResultError)
    assert "too large" in str(result.error)

    task = await fail.kiq()
    result = await task.wait_result(timeout=5)
    assert result.is_err
    assert isinstance(result.error, UnstorableResultError)
    assert str(result.error).startswith(f"the result of task {task.task_id} could not be stored: ")
    assert "; the task had raised tests.test_result_backend.OutOfStockError: xxx" in str(result.error)
    assert str(result.error).endswith("xxx…")


async def test_a_log_that_the_storage_refuses_goes_too() -> None:
    backend: StorageResultBackend[Any] = StorageResultBackend(
        NarrowAdapter(StorageBackendError("too large", Failure.UNSTORABLE))
    )
    await backend.set_result("one", result_of(1, log="x" * 10_000, labels={"region": "north"}))
    result = await backend.get_result("one", with_logs=True)
    assert (result.is_err, result.return_value, result.log, result.labels) == (True, None, None, {})


async def test_a_storage_that_is_gone_for_good_is_said(caplog: pytest.LogCaptureFixture) -> None:
    backend: StorageResultBackend[int] = StorageResultBackend(GoneAdapter(times=float("inf")), retry_for=0.1)
    with pytest.raises(StorageConnectionError, match="'result:one'"):
        await backend.set_result("one", result_of(1))
    broker = broker_on(backend)

    @broker.task
    async def task() -> int:
        return 1

    sent = await task.kiq()  # a failing result backend fails no worker
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith("Can't set result in result backend.")
    assert record.exc_info is not None
    assert f"result:{sent.task_id}" in str(record.exc_info[1])


# --- lifetimes --------------------------------------------------------------------------------------------------------


async def test_results_and_progress_live_as_long_as_they_are_told_to(
    storage: BaseStorageAdapter, frozen_clock: FrozenClock
) -> None:
    backend: StorageResultBackend[int] = StorageResultBackend(storage, ttl_seconds=60)
    await backend.set_result("one", result_of(1))
    await backend.set_progress("one", TaskProgress(state=TaskState.STARTED, meta=1))
    frozen_clock.tick(59.999)
    assert await backend.is_result_ready("one")
    assert await backend.get_progress("one") is not None
    frozen_clock.tick(0.001)
    assert not await backend.is_result_ready("one")
    assert await backend.get_progress("one") is None
    with pytest.raises(ResultIsMissingError):
        await backend.get_result("one")


async def test_the_storages_own_time_to_live(make_storage_adapter: MakeAdapter, frozen_clock: FrozenClock) -> None:
    backend: StorageResultBackend[int] = StorageResultBackend(make_storage_adapter(ttl_seconds=10))
    await backend.set_result("one", result_of(1))
    frozen_clock.tick(9)
    assert (await backend.get_result("one")).return_value == 1
    frozen_clock.tick(1)
    assert not await backend.is_result_ready("one")


async def test_a_result_that_is_not_kept_is_read_once(storage: BaseStorageAdapter) -> None:
    backend: StorageResultBackend[int] = StorageResultBackend(storage, keep_results=False)
    await backend.set_result("one", result_of(1))
    await backend.set_progress("one", TaskProgress(state="half", meta=None))
    await backend.set_result("two", result_of(2))
    assert (await backend.get_result("one")).return_value == 1
    assert not await backend.is_result_ready("one")
    with pytest.raises(ResultIsMissingError):
        await backend.get_result("one")
    assert await storage.keys() == ["result:two"]


async def test_of_many_readers_one_gets_a_result_that_is_not_kept(make_storage_adapter: MakeAdapter) -> None:
    backends: list[StorageResultBackend[int]] = [
        StorageResultBackend(make_storage_adapter(), keep_results=False) for _ in range(4)
    ]
    for number in range(5):
        task_id = f"task {number}"
        await backends[0].set_result(task_id, result_of(number))
        answers = await asyncio.gather(
            *(backend.get_result(task_id) for backend in backends * 2), return_exceptions=True
        )
        got = [answer.return_value for answer in answers if isinstance(answer, TaskiqResult)]
        assert got == [number]
        assert sum(isinstance(answer, ResultIsMissingError) for answer in answers) == 7


async def test_shutdown_closes_what_is_its_own() -> None:
    class Closing(InMemoryStorageAdapter):
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1

    for owns_storage in (None, False, True):
        storage = Closing()
        backend: StorageResultBackend[Any] = StorageResultBackend(storage, owns_storage=owns_storage)
        await backend.startup()
        await backend.shutdown()
        assert storage.closed == bool(owns_storage)


# --- keys and entries -------------------------------------------------------------------------------------------------


async def test_ids_that_are_no_legal_keys(storage: BaseStorageAdapter) -> None:
    backend: StorageResultBackend[int] = StorageResultBackend(storage)
    await backend.set_result("x" * 5000, result_of(0))
    [hashed] = await storage.keys("result:*")
    ids = ["x" * 5000, "x" * 5001, "", "a\0b", "\ud800", "*", "é" * 600, hashed.removeprefix("result:")]
    for number, task_id in enumerate(ids):
        await backend.set_result(task_id, result_of(number))
        await backend.set_progress(task_id, TaskProgress(state="at", meta=number))
    for number, task_id in enumerate(ids):
        assert (await backend.get_result(task_id)).return_value == number
        progress = await backend.get_progress(task_id)
        assert progress is not None
        assert progress.meta == number


async def test_it_shares_a_storage_with_the_middlewares(storage_adapter: BaseStorageAdapter) -> None:
    broker, middleware = broker_on(StorageResultBackend(storage_adapter)), StorageMiddleware(storage_adapter)
    broker.add_middlewares(middleware, PipelineMiddleware())

    @broker.task(task_name="numbers")
    def numbers(count: int) -> list[int]:
        return list(range(count))

    @broker.task(task_name="square")
    def square(number: int) -> int:
        return number * number

    single = await square.kiq(3)
    pipeline = Pipeline(broker, numbers, pipeline_id="squares").map(square, check_interval=0.01)
    run = await pipeline.kiq(3)
    assert (await run.wait_result(check_interval=0.01, timeout=5)).return_value == [0, 1, 4]
    await broker.wait_all()
    assert len(await storage_adapter.keys("result:*")) == 1 + 5
    assert len(await storage_adapter.keys("pipeline:squares:*")) == 5
    assert await storage_adapter.keys("task:*") == [f"task:{single.task_id}"]
    assert (await single.get_result()).return_value == 9
    stored = await middleware.load(single.task_id)
    assert stored is not None
    assert stored.return_value == 9


async def test_entries_that_are_no_results(storage: BaseStorageAdapter) -> None:
    backend: StorageResultBackend[int] = StorageResultBackend(storage, keep_results=False)
    await storage.set("result:foreign", [1])
    await storage.set("progress:foreign", {"state": "at"})
    assert await backend.is_result_ready("foreign")
    with pytest.raises(SerializationError, match="the entry under key 'result:foreign' is no stored task result: "):
        await backend.get_result("foreign")
    with pytest.raises(SerializationError, match="the entry under key 'progress:foreign' is no stored progress: meta"):
        await backend.get_progress("foreign")
    with pytest.raises(ResultGetError):
        await AsyncTaskiqTask("foreign", backend).wait_result(timeout=5)
    assert await storage.get("result:foreign") == [1]


# --- progress ---------------------------------------------------------------------------------------------------------


async def test_progress(storage: BaseStorageAdapter) -> None:
    broker = broker_on(StorageResultBackend(storage))
    seen: list[TaskProgress[Any] | None] = []

    @broker.task
    async def load(tracker: ProgressTracker[Any] = TaskiqDepends()) -> None:
        seen.append(await tracker.get_progress())
        await tracker.set_progress(TaskState.STARTED, {"rows": (1, 2)})
        seen.append(await tracker.get_progress())
        await tracker.set_progress("half way")  # and keeps what it said before
        seen.append(await tracker.get_progress())
        await tracker.set_progress(TaskState.SUCCESS, Total(net=Decimal(1), day=date(2025, 1, 2)))

    task = await load.kiq()
    (await task.get_result()).raise_for_error()
    assert seen == [
        None,
        TaskProgress(state=TaskState.STARTED, meta={"rows": (1, 2)}),
        TaskProgress(state="half way", meta={"rows": (1, 2)}),
    ]
    progress = await task.get_progress()
    assert progress is not None
    assert progress.state is TaskState.SUCCESS
    assert progress.meta == {"net": "1", "day": "2025-01-02"}


async def test_progress_that_is_no_data(storage_adapter: BaseStorageAdapter) -> None:
    backend: StorageResultBackend[int] = StorageResultBackend(storage_adapter)
    await backend.set_progress("one", TaskProgress(state="at", meta=1))
    with pytest.raises(SerializationError, match="progress:one"):
        await backend.set_progress("one", TaskProgress(state="at", meta=object()))
    assert await backend.get_progress("one") == TaskProgress(state="at", meta=1)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_that_cannot_be_used() -> None:
    wrong: Any = "redis://localhost"
    with pytest.raises(ConfigurationError, match="storage must be a BaseStorageAdapter, not 'redis://localhost'"):
        StorageResultBackend(wrong)
    with pytest.raises(InvalidTTLError):
        StorageResultBackend(InMemoryStorageAdapter(), ttl_seconds=0)
    for retry_for in (-1, float("nan")):
        with pytest.raises(ConfigurationError, match="retry_for must be a number of seconds, or 0, not "):
            StorageResultBackend(InMemoryStorageAdapter(), retry_for=retry_for)
    assert repr(StorageResultBackend(InMemoryStorageAdapter())).startswith("StorageResultBackend(InMemoryStorage")
