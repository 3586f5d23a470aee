"""``StorageMiddleware``: what it keeps, what it gives back, and what happens when the storage does not."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from taskiq import InMemoryBroker, SimpleRetryMiddleware
from taskiq.exceptions import NoResultError

from taskiq_flow import clock
from taskiq_flow.exceptions import (
    ConfigurationError,
    SerializationError,
    StorageBackendError,
    StorageConnectionError,
)
from taskiq_flow.middlewares import LostResult, StorageMiddleware
from taskiq_flow.records.results import StoredResult, UnstorableResultError
from taskiq_flow.storage import (
    BaseStorageAdapter,
    InMemoryStorageAdapter,
    SQLAlchemyStorageAdapter,
    StorageEntry,
)
from taskiq_flow.storage.failures import Failure
from tests.adapters import SixMethods

NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


class Total(pydantic.BaseModel):
    net: Decimal
    day: date


@dataclass
class Line:
    sku: str
    total: Total


class OutOfStockError(Exception):
    def __init__(self, sku: str) -> None:
        super().__init__(f"{sku} is out of stock")
        self.sku = sku


class FragileAdapter(InMemoryStorageAdapter):
    """Fails for as long as it is told to."""

    error: Exception | None = None
    closed = 0

    async def set_entry(self, entry: StorageEntry) -> None:
        if self.error is not None:
            raise self.error
        await super().set_entry(entry)

    async def aclose(self) -> None:
        self.closed += 1


@pytest.fixture(params=["memory", "sqlite", "custom"])
async def storage(request: pytest.FixtureRequest) -> AsyncIterator[BaseStorageAdapter]:
    adapters: dict[str, Callable[[], BaseStorageAdapter]] = {
        "memory": InMemoryStorageAdapter,
        "sqlite": lambda: SQLAlchemyStorageAdapter("sqlite+aiosqlite://"),
        "custom": lambda: SixMethods(InMemoryStorageAdapter()),
    }
    async with adapters[request.param]() as adapter:
        yield adapter


@pytest.fixture(params=[True, False], ids=["inplace", "background"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[InMemoryBroker]:
    broker = InMemoryBroker(await_inplace=request.param)
    yield broker
    await broker.shutdown()


async def run(broker: InMemoryBroker, task: Any, *args: Any, **labels: Any) -> str:
    """Run a task to its end, storing included, and return its id."""
    sent = await task.kicker().with_labels(**labels).kiq(*args)
    await broker.wait_all()
    return str(sent.task_id)


async def test_a_result_is_kept_whole(broker: InMemoryBroker, storage: BaseStorageAdapter) -> None:
    middleware = StorageMiddleware(storage=storage)
    broker.add_middlewares(middleware)
    value = {"t": (1, 2), "when": NOW, "n": Decimal("1.10"), 3: "x", "nothing": None, "b": b"\x00", "s": {1}}

    @broker.task(task_name="shop.price", region="north", weight=3)
    async def price() -> Any:
        return value

    with clock.freeze(NOW):
        task_id = await run(broker, price)
    assert await storage.keys() == [f"task:{task_id}"]
    result, original = await middleware.load(task_id), await broker.result_backend.get_result(task_id)
    assert result == original
    assert result is not None
    assert result.return_value == value
    assert type(result.return_value["t"]) is tuple
    assert result.labels == {"region": "north", "weight": 3}
    record = await middleware.load_stored(task_id)
    assert isinstance(record, StoredResult)
    assert (record.task_id, record.task_name, record.pipeline_id) == (task_id, "shop.price", None)
    assert (record.created_at, record.status, record.key) == (NOW, "completed", f"task:{task_id}")
    assert (middleware.stored, middleware.failures, middleware.unstorable, list(middleware.lost)) == (1, 0, 0, [])


async def test_models_and_dataclasses_are_kept_as_data(broker: InMemoryBroker, storage: BaseStorageAdapter) -> None:
    middleware = StorageMiddleware(storage)
    broker.add_middlewares(middleware)

    @broker.task
    async def lines() -> list[Line]:
        return [Line("A1", Total(net=Decimal("9.90"), day=date(2025, 1, 2)))]

    result = await middleware.load(await run(broker, lines))
    assert result is not None
    assert result.return_value == [{"sku": "A1", "total": {"net": "9.90", "day": "2025-01-02"}}]
    assert not result.is_err
    assert middleware.stored == 1


async def test_an_error_comes_back_as_what_it_was(broker: InMemoryBroker, storage: BaseStorageAdapter) -> None:
    middleware = StorageMiddleware(storage)
    broker.add_middlewares(middleware)

    @broker.task
    async def reserve(sku: str) -> None:
        try:
            raise KeyError(sku)
        except KeyError as error:
            raise OutOfStockError(sku) from error

    task_id = await run(broker, reserve, "A1")
    result, record = await middleware.load(task_id), await middleware.load_stored(task_id)
    assert result is not None
    assert result.is_err
    with pytest.raises(OutOfStockError, match="A1 is out of stock") as caught:
        result.raise_for_error()
    assert caught.value.sku == "A1"
    assert isinstance(caught.value.__cause__, KeyError)
    assert record is not None
    assert record.error is not None
    assert (record.status, record.error.name, record.error.message) == (
        "failed",
        "OutOfStockError",
        "A1 is out of stock",
    )


async def test_a_value_that_is_no_data(
    broker: InMemoryBroker, storage: BaseStorageAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    middleware = StorageMiddleware(storage)
    broker.add_middlewares(middleware)
    told: list[LostResult] = []
    middleware.on_failure.append(told.append)

    @broker.task(task_name="shop.connect")
    async def connect() -> dict[str, Any]:
        return {"ok": 1, "connection": object()}

    task_id = await run(broker, connect)
    assert not (await broker.result_backend.get_result(task_id)).is_err  # the task did not fail
    [message] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    reason = "value['result']['connection']: an object of type object cannot be stored without loss"
    for part in ("shop.connect", task_id, reason):
        assert part in message
    [lost] = middleware.lost
    assert told == [lost]
    assert (lost.task_id, lost.task_name) == (task_id, "shop.connect")
    assert reason in lost.reason
    assert (middleware.stored, middleware.failures, middleware.unstorable) == (0, 0, 1)
    result, record = await middleware.load(task_id), await middleware.load_stored(task_id)
    assert result is not None
    assert record is not None
    assert (result.is_err, result.return_value, record.status) == (True, None, "unstorable")
    assert isinstance(result.error, UnstorableResultError)
    assert str(result.error).startswith(f"the return value of task shop.connect ({task_id}) could not be stored: ")


async def test_a_value_that_the_storage_refuses(broker: InMemoryBroker) -> None:
    class NarrowAdapter(InMemoryStorageAdapter):
        async def set_entry(self, entry: StorageEntry) -> None:
            if len(repr(entry.value)) > 5000:
                raise StorageBackendError("mysql at mysql://host/db refused set_entry: too large", Failure.UNSTORABLE)
            await super().set_entry(entry)

    middleware = StorageMiddleware(NarrowAdapter())
    broker.add_middlewares(middleware)

    @broker.task
    async def large() -> str:
        return "x" * 10_000

    record = await middleware.load_stored(await run(broker, large))
    assert record is not None
    assert record.error is not None
    assert (record.status, record.result) == ("unstorable", None)
    assert "too large" in record.error.message
    assert (middleware.stored, middleware.failures, middleware.unstorable) == (0, 0, 1)


async def test_what_is_not_there(storage: BaseStorageAdapter) -> None:
    middleware = StorageMiddleware(storage)
    assert await middleware.load("nobody") is None
    assert await middleware.load_stored("nobody", "run") is None
    await storage.set("task:foreign", [1])
    with pytest.raises(SerializationError, match="'task:foreign' is no stored task result"):
        await middleware.load("foreign")


async def test_the_entry_has_metadata_and_its_own_time() -> None:
    storage, broker = InMemoryStorageAdapter(ttl_seconds=60), InMemoryBroker(await_inplace=True)
    broker.add_middlewares(StorageMiddleware(storage))

    @broker.task(task_name="t")
    async def task() -> int:
        return 1

    with clock.freeze(NOW):
        task_id = await run(broker, task, pipeline_id="run-42")
        entry = await storage.get_entry(f"pipeline:run-42:task:{task_id}")
    assert entry is not None
    assert entry.metadata == {"pipeline_id": "run-42", "task_name": "t", "status": "completed"}
    assert (entry.created_at, entry.expires_at) == (NOW, NOW + timedelta(seconds=60))
    assert entry.value["result"] == 1
    assert entry.value["created_at"] == "2025-01-02T03:04:05+00:00"


@pytest.mark.parametrize(("label", "seconds"), [(30, 30), (0.25, 0.25), ("12.5", 12.5), (None, 500)])
@pytest.mark.parametrize("custom", [False, True])
async def test_a_tasks_own_time_to_live(custom: bool, label: Any, seconds: float) -> None:
    storage = InMemoryStorageAdapter(ttl_seconds=500)
    middleware = StorageMiddleware(SixMethods(storage) if custom else storage)
    broker = InMemoryBroker(await_inplace=True)
    broker.add_middlewares(middleware)

    @broker.task(storage_ttl=label)
    async def task() -> int:
        return 1

    with clock.freeze(NOW) as frozen:
        task_id = await run(broker, task)
        frozen.tick(seconds - 0.001)
        assert await middleware.load(task_id) is not None
        frozen.tick(0.001)
        assert await middleware.load(task_id) is None


@pytest.mark.parametrize("label", [0, -1, "soon", "nan", "", True, 10**11])
async def test_an_invalid_time_to_live_costs_no_result(label: Any, caplog: pytest.LogCaptureFixture) -> None:
    storage, broker = InMemoryStorageAdapter(ttl_seconds=500), InMemoryBroker(await_inplace=True)
    middleware = StorageMiddleware(storage)
    broker.add_middlewares(middleware)

    @broker.task(task_name="t")
    async def task() -> int:
        return 1

    with clock.freeze(NOW):
        task_id = await run(broker, task, storage_ttl=label)
        entry = await storage.get_entry(f"task:{task_id}")
    assert entry is not None
    assert entry.expires_at == NOW + timedelta(seconds=500)
    [message] = [record.getMessage() for record in caplog.records if record.name == "taskiq_flow.middlewares.storage"]
    assert f"task t has an invalid label storage_ttl={label!r}" in message
    assert middleware.stored == 1


async def test_a_storage_that_fails_is_logged_once_a_burst(
    broker: InMemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    storage = FragileAdapter()
    middleware = StorageMiddleware(storage, retry_for=0)
    broker.add_middlewares(middleware)
    told: list[LostResult] = []
    middleware.on_failure.append(told.append)

    @broker.task(task_name="t")
    async def task(number: int) -> int:
        return number

    def logged() -> list[tuple[int, str]]:
        mine = [record for record in caplog.records if record.name == "taskiq_flow.middlewares.storage"]
        assert not any(record.exc_info for record in mine)
        return [(record.levelno, record.getMessage()) for record in mine]

    storage.error = StorageConnectionError("redis at redis://host/0: set failed: gone")
    ids = [await run(broker, task, number) for number in range(3)]
    for number, task_id in enumerate(ids):
        assert (await broker.result_backend.get_result(task_id)).return_value == number
    [(level, message)] = logged()
    assert level == logging.ERROR
    for part in (ids[0], "task t ", "redis at redis://host/0: set failed: gone"):
        assert part in message
    assert (middleware.stored, middleware.failures) == (0, 3)
    assert [lost.task_id for lost in middleware.lost] == ids
    assert list(middleware.lost) == told

    storage.error = None
    task_id = await run(broker, task, 3)
    assert await middleware.load(task_id) is not None
    assert logged()[1:] == [(logging.WARNING, "the storage works again; results that it did not keep: 3")]
    await run(broker, task, 4)
    assert len(logged()) == 2

    storage.error = RuntimeError()  # a custom adapter may raise anything
    await run(broker, task, 5)
    assert len(logged()) == 3
    assert middleware.lost[-1].reason == "RuntimeError()"
    assert (middleware.stored, middleware.failures) == (2, 4)
    await middleware.shutdown()
    assert logged()[3:] == [(logging.ERROR, "the storage still fails at shutdown; results that it did not keep: 1")]


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (StorageConnectionError("gone"), 3),
        (StorageBackendError("out of memory", Failure.PASSING), 3),
        (ConnectionResetError("a custom adapter's"), 3),
        (StorageConnectionError("no answer", Failure.TIMEOUT), 1),
        (StorageBackendError("no permission"), 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("six_methods", [False, True])
async def test_a_storage_that_fails_for_a_moment_is_asked_again(
    error: Exception, calls: int, six_methods: bool
) -> None:
    class Failing(InMemoryStorageAdapter):
        calls = 0

        async def set_entry(self, entry: StorageEntry) -> None:
            await self.set(entry.key, entry.value)

        async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
            self.calls += 1
            if self.calls < 3:
                raise error
            await super().set(key, value, ttl_seconds)

    storage, broker = Failing(), InMemoryBroker(await_inplace=True)
    middleware = StorageMiddleware(SixMethods(storage) if six_methods else storage)
    broker.add_middlewares(middleware)
    task = broker.register_task(lambda: 1, task_name="t")
    task_id = await run(broker, task)
    stored = await middleware.load(task_id)
    assert storage.calls == calls
    if calls == 3:
        assert stored is not None
        assert stored.return_value == 1
        assert (middleware.stored, middleware.failures) == (1, 0)
    else:
        assert stored is None, "no error in the place of a good result"
        assert [lost.reason for lost in middleware.lost] == [str(error)]


async def test_a_key_that_no_storage_can_hold(broker: InMemoryBroker) -> None:
    middleware = StorageMiddleware()
    broker.add_middlewares(middleware)

    @broker.task
    async def task() -> int:
        return 1

    await run(broker, task, pipeline_id="x" * 2000)
    assert middleware.failures == 1
    assert "at most 1,024" in middleware.lost[0].reason


async def test_a_callback_that_fails_fails_nothing_else(
    broker: InMemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    storage, told = FragileAdapter(), list[LostResult]()
    storage.error = OSError("no")
    middleware = StorageMiddleware(storage)
    broker.add_middlewares(middleware)

    def fail(lost: LostResult) -> None:
        raise ValueError(lost)

    middleware.on_failure += [fail, told.append]

    @broker.task
    async def task() -> int:
        return 1

    await run(broker, task)
    assert len(told) == 1
    assert "for lost results failed" in caplog.text


async def test_cancelled_while_storing() -> None:
    class SlowAdapter(InMemoryStorageAdapter):
        async def set_entry(self, entry: StorageEntry) -> None:
            reached.set()
            await asyncio.Event().wait()

    broker, reached = InMemoryBroker(await_inplace=True), asyncio.Event()
    middleware = StorageMiddleware(SlowAdapter())
    broker.add_middlewares(middleware)

    @broker.task
    async def task() -> int:
        return 1

    running = asyncio.create_task(run(broker, task))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await middleware.storage.keys() == []
    assert (middleware.stored, middleware.failures) == (0, 1)
    assert "cancelled" in middleware.lost[0].reason


async def test_its_own_storage_and_one_that_it_was_handed() -> None:
    handed = FragileAdapter()
    middleware = StorageMiddleware(handed)
    await middleware.shutdown()
    assert handed.closed == 0
    own = StorageMiddleware()
    assert isinstance(own.storage, InMemoryStorageAdapter)
    assert own.storage is not StorageMiddleware().storage
    own.storage = FragileAdapter()
    await own.shutdown()
    assert own.storage.closed == 1


async def test_disabled(broker: InMemoryBroker) -> None:
    middleware = StorageMiddleware(enabled=False)
    broker.add_middlewares(middleware)

    @broker.task
    async def task() -> int:
        return 1

    await run(broker, task)
    assert await middleware.storage.keys() == []
    middleware.enabled = True
    await run(broker, task)
    assert len(await middleware.storage.keys()) == 1


@pytest.mark.parametrize("wrong", [InMemoryStorageAdapter, "redis://localhost", {}])
def test_no_adapter(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="storage must be a BaseStorageAdapter or None, not "):
        StorageMiddleware(wrong)


def test_no_time_to_try_again() -> None:
    with pytest.raises(ConfigurationError, match="retry_for must be a number of seconds, or 0, not -1"):
        StorageMiddleware(retry_for=-1)


async def test_tasks_without_a_result_and_retries(broker: InMemoryBroker) -> None:
    middleware = StorageMiddleware()
    broker.add_middlewares(middleware, SimpleRetryMiddleware(default_retry_count=3))
    attempts = 0

    @broker.task
    async def silent() -> None:
        raise NoResultError

    @broker.task(retry_on_error=True)
    async def flaky() -> int:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ValueError(attempts)
        return attempts

    await run(broker, silent)
    assert await middleware.storage.keys() == []
    task_id = await run(broker, flaky)
    await broker.wait_all()  # each attempt sends the next
    await broker.wait_all()
    result = await middleware.load(task_id)
    assert result is not None
    assert result.return_value == 3
    assert middleware.stored == 1
