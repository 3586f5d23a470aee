"""``PipelineMiddleware``: every task of a run carries its id, and no run that cannot go on is left without an end."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import pytest
import taskiq
import taskiq_pipelines
from taskiq import (
    AsyncBroker,
    AsyncTaskiqTask,
    BrokerMessage,
    Context,
    InMemoryBroker,
    SimpleRetryMiddleware,
    TaskiqDepends,
    TaskiqMessage,
    TaskiqMiddleware,
    TaskiqResult,
)
from taskiq.abc.serializer import TaskiqSerializer
from taskiq.brokers.inmemory_broker import InmemoryResultBackend
from taskiq.receiver import Receiver
from taskiq.serializers import JSONSerializer, PickleSerializer
from taskiq_pipelines.exceptions import AbortPipeline, MappingError

from taskiq_flow.middlewares import PipelineMiddleware, StorageMiddleware
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.storage import InMemoryStorageAdapter

SOON = 0.005
"""Seconds between a collector's looks at its sub-tasks."""


class Sent(TaskiqMiddleware):
    """Remembers what was sent, as the broker got it."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[TaskiqMessage] = []

    def post_send(self, message: TaskiqMessage) -> None:
        self.messages.append(message)

    def ids_by_task(self) -> dict[str, set[Any]]:
        found: dict[str, set[Any]] = {}
        for message in self.messages:
            found.setdefault(message.task_name, set()).add(message.labels.get("pipeline_id"))
        return found


class Shop:
    """A broker with both middlewares and some tasks."""

    def __init__(self, broker: InMemoryBroker, storage_first: bool = True) -> None:
        self.broker, self.sent = broker, Sent()
        self.storage = StorageMiddleware(InMemoryStorageAdapter())
        ours = [self.storage, PipelineMiddleware()]
        broker.add_middlewares(self.sent, *(ours if storage_first else reversed(ours)))
        self.failures_to_come = 0

        @broker.task(task_name="lines")
        async def lines(count: int) -> list[int]:
            return list(range(count))

        @broker.task(task_name="double")
        async def double(number: int) -> int:
            return number * 2

        @broker.task(task_name="is_big")
        async def is_big(number: int) -> bool:
            return number > 2

        @broker.task(task_name="total")
        async def total(numbers: list[int]) -> int:
            return sum(numbers)

        @broker.task(task_name="fail")
        async def fail(value: Any) -> int:
            raise ValueError(f"no {value}")

        @broker.task(task_name="flaky", retry_on_error=True, delay=0)
        async def flaky(number: int) -> int:
            if self.failures_to_come:
                self.failures_to_come -= 1
                raise ValueError("not yet")
            return number

        @broker.task(task_name="chatty")
        async def chatty(number: int) -> int:
            await double.kiq(number)
            return number

        self.lines, self.double, self.is_big, self.total = lines, double, is_big, total
        self.fail, self.flaky, self.chatty = fail, flaky, chatty

    async def settled(self) -> None:
        """Wait until nothing runs: a step sends the next one, so that once is not enough."""
        while self.broker._running_tasks:
            await self.broker.wait_all()
            await asyncio.sleep(0)  # a task that is done leaves the set when the loop goes round

    async def results_of(self, pipeline_id: str) -> list[Any]:
        """Return (task name, return value) of a run's stored results, sorted."""
        await self.settled()
        found = []
        for key in await self.storage.storage.keys(f"pipeline:{pipeline_id}:*"):
            prefix, task_id = key.rsplit(":", 1)
            assert prefix == f"pipeline:{pipeline_id}:task"
            record = await self.storage.load_stored(task_id, pipeline_id)
            assert record is not None
            found.append((record.task_name, record.result))
        return sorted(found, key=repr)


@pytest.fixture(params=["inplace", "background"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[InMemoryBroker]:
    broker = InMemoryBroker(await_inplace=request.param == "inplace")
    yield broker
    await broker.shutdown()


@pytest.fixture(params=["storage first", "pipeline first"])
def shop(request: pytest.FixtureRequest, broker: InMemoryBroker) -> Shop:
    return Shop(broker, storage_first=request.param == "storage first")


RETRIES = [SimpleRetryMiddleware, *filter(None, [getattr(taskiq, "SmartRetryMiddleware", None)])]
"""Older releases of taskiq have only the first."""

WHOLE_RUN = [
    ("double", 0),
    ("double", 2),
    ("double", 4),
    ("is_big", False),
    ("is_big", False),
    ("is_big", True),
    ("lines", [0, 1, 2]),
    ("taskiq_pipelines.shared.filter_tasks", [4]),
    ("taskiq_pipelines.shared.wait_tasks", [0, 2, 4]),
    ("total", 4),
]


def whole_run(shop: Shop, make: Callable[..., Any]) -> Any:
    return (
        make(shop.broker, shop.lines)
        .map(shop.double, check_interval=SOON)
        .filter(shop.is_big, check_interval=SOON)
        .call_next(shop.total)
    )


async def outcome(task: AsyncTaskiqTask[Any]) -> TaskiqResult[Any]:
    return await task.wait_result(check_interval=SOON, timeout=5)


async def test_every_task_of_a_run_carries_its_id(shop: Shop) -> None:
    pipeline = whole_run(shop, Pipeline)
    task = await pipeline.kiq(3)
    assert (await outcome(task)).return_value == 4
    assert await shop.results_of(pipeline.pipeline_id) == WHOLE_RUN
    assert set(shop.sent.ids_by_task()) == {name for name, _ in WHOLE_RUN}
    assert all(ids == {pipeline.pipeline_id} for ids in shop.sent.ids_by_task().values())
    assert len(await shop.storage.storage.keys()) == len(WHOLE_RUN)  # and nothing elsewhere
    assert (shop.storage.failures, shop.storage.unstorable) == (0, 0)


async def test_a_plain_run_of_taskiq_pipelines_gets_the_id_of_its_last_task(shop: Shop) -> None:
    task = await whole_run(shop, taskiq_pipelines.Pipeline).kiq(3)
    assert (await outcome(task)).return_value == 4
    assert await shop.results_of(task.task_id) == WHOLE_RUN
    assert all(ids == {task.task_id} for ids in shop.sent.ids_by_task().values())


async def test_a_plain_run_with_a_label_of_its_users(shop: Shop) -> None:
    first = shop.lines.kicker().with_labels(pipeline_id="mine")
    pipeline = taskiq_pipelines.Pipeline(shop.broker, first).map(shop.double, check_interval=SOON)
    await outcome(await pipeline.kiq(1))
    assert len(await shop.results_of("mine")) == 3


async def test_concurrent_runs_do_not_mix(shop: Shop) -> None:
    pipeline = whole_run(shop, Pipeline)
    tasks = await asyncio.gather(*(pipeline.kiq(count) for count in (3, 4, 5, 3)))
    assert [(await outcome(task)).return_value for task in tasks] == [4, 10, 18, 4]
    assert len({task.pipeline_id for task in tasks}) == 4
    assert await shop.results_of(tasks[0].pipeline_id) == WHOLE_RUN
    assert await shop.results_of(tasks[3].pipeline_id) == WHOLE_RUN


async def test_a_task_that_a_step_sends_is_no_part_of_the_run(shop: Shop) -> None:
    pipeline = Pipeline(shop.broker, shop.lines).map(shop.chatty, check_interval=SOON).call_next(shop.total)
    task = await pipeline.kiq(2)
    assert (await outcome(task)).return_value == 1
    results = await shop.results_of(task.pipeline_id)
    assert [name for name, _ in results if name == "double"] == []
    assert shop.sent.ids_by_task()["double"] == {None}
    assert len(await shop.storage.storage.keys("task:*")) == 2


async def test_a_pipeline_within_a_step_is_a_run_of_its_own(shop: Shop) -> None:
    inner_ids: list[str] = []

    @shop.broker.task
    async def nested(number: int) -> int:
        task = await Pipeline(shop.broker, shop.double).call_next(shop.double).kiq(number)
        inner_ids.append(task.pipeline_id)
        return number

    task = await Pipeline(shop.broker, shop.double).call_next(nested).call_next(shop.double).kiq(1)
    await outcome(task)
    assert [value for _, value in await shop.results_of(task.pipeline_id)] == [2, 4, 2]
    assert await shop.results_of(inner_ids[0]) == [("double", 4), ("double", 8)]


async def test_a_failing_step_has_its_own_entry_and_ends_the_run(shop: Shop) -> None:
    pipeline = Pipeline(shop.broker, shop.lines).call_next(shop.fail).call_next(shop.double)
    task = await pipeline.kiq(1)
    result = await outcome(task)
    assert (type(result.error), str(result.error)) == (ValueError, "no [0]")
    assert [name for name, _ in await shop.results_of(task.pipeline_id)] == ["fail", "lines"]
    stored = await shop.storage.load(pipeline.steps[1].task_id, task.pipeline_id)
    assert stored is not None
    assert (type(stored.error), str(stored.error)) == (ValueError, "no [0]")
    assert await shop.storage.load(task.task_id, task.pipeline_id) is None  # the last step never ran


async def test_the_last_steps_error_is_its_own(shop: Shop) -> None:
    task = await Pipeline(shop.broker, shop.double).call_next(shop.fail).kiq(1)
    assert str((await outcome(task)).error) == "no 2"
    assert [name for name, _ in await shop.results_of(task.pipeline_id)] == ["double", "fail"]


async def test_a_failing_sub_task_fails_the_collector(shop: Shop) -> None:
    task = await Pipeline(shop.broker, shop.lines).map(shop.fail, check_interval=SOON).call_next(shop.total).kiq(1)
    assert isinstance((await outcome(task)).error, MappingError)
    names = [name for name, _ in await shop.results_of(task.pipeline_id)]
    assert names == ["fail", "lines", "taskiq_pipelines.shared.wait_tasks"]


async def test_a_step_that_cannot_start_ends_the_run(shop: Shop) -> None:
    task = await Pipeline(shop.broker, shop.double).map(shop.double).call_next(shop.total).kiq(1)
    assert isinstance((await outcome(task)).error, AbortPipeline)  # 2 is not iterable
    assert await shop.results_of(task.pipeline_id) == [("double", 2)]


@pytest.mark.parametrize("retry_first", [True, False])
@pytest.mark.parametrize("kind", RETRIES)
async def test_retries_keep_the_id_and_do_not_end_the_run(
    broker: InMemoryBroker, kind: Callable[..., TaskiqMiddleware], retry_first: bool
) -> None:
    retry = kind(default_retry_count=3)
    if retry_first:
        broker.add_middlewares(retry)
    shop = Shop(broker)
    if not retry_first:
        broker.add_middlewares(retry)
    shop.failures_to_come = 2
    outcomes: list[bool] = []
    set_result = broker.result_backend.set_result

    async def watched(task_id: str, result: TaskiqResult[Any]) -> None:
        outcomes.append(result.is_err)
        await set_result(task_id, result)

    broker.result_backend.set_result = watched  # type: ignore[method-assign]
    task = await Pipeline(broker, shop.double).call_next(shop.flaky).call_next(shop.double).kiq(1)
    await shop.settled()
    assert (await outcome(task)).return_value == 4
    assert outcomes == [False, False, False]  # taskiq-pipelines gives the last task an error at the first attempt
    assert await shop.results_of(task.pipeline_id) == [("double", 2), ("double", 4), ("flaky", 2)]
    assert shop.sent.ids_by_task() == {"double": {task.pipeline_id}, "flaky": {task.pipeline_id}}


async def test_a_step_that_is_requeued_goes_on(shop: Shop) -> None:
    """By itself, taskiq-pipelines cannot read its label after that, and the run stops without an end."""
    requeues = 2

    @shop.broker.task(task_name="busy")
    async def busy(number: int, context: Context = TaskiqDepends()) -> int:
        nonlocal requeues
        if requeues:
            requeues -= 1
            await context.requeue()
        return number

    task = await Pipeline(shop.broker, busy).call_next(shop.double).kiq(1)
    assert (await outcome(task)).return_value == 2
    assert await shop.results_of(task.pipeline_id) == [("busy", 1), ("double", 2)]


async def test_a_step_that_cannot_be_sent_ends_the_run_and_is_no_trouble_to_others(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    @shop.broker.task(task_name="vanishes")
    async def vanishes(number: int) -> int:
        return number

    pipeline = Pipeline(shop.broker, shop.double).call_next(vanishes).call_next(shop.double)
    shop.broker.local_task_registry.pop("vanishes")
    task = await pipeline.kiq(1)
    assert (await outcome(task)).is_err
    assert await shop.results_of(task.pipeline_id) == [("double", 2)]  # stored in either order of middlewares
    assert f"pipeline {task.pipeline_id} cannot go on after task double" in caplog.text


async def test_a_run_that_cannot_even_be_ended(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    set_result = shop.broker.result_backend.set_result

    async def refuse_errors(task_id: str, result: TaskiqResult[Any]) -> None:
        if result.is_err:
            raise ConnectionError("backend gone")
        await set_result(task_id, result)

    shop.broker.result_backend.set_result = refuse_errors  # type: ignore[method-assign]
    task = await Pipeline(shop.broker, shop.double).map(shop.double).call_next(shop.total).kiq(1)
    assert await shop.results_of(task.pipeline_id) == [("double", 2)]
    assert f"pipeline {task.pipeline_id} cannot be ended either" in caplog.text


async def test_labels_that_cannot_be_read_fail_nothing(shop: Shop) -> None:
    task = await shop.double.kicker().with_labels(_pipe_data="{", _pipe_current_step=0).kiq(1)
    await shop.settled()
    assert (await outcome(task)).return_value == 2
    assert await shop.storage.load(task.task_id) is not None


class QueueBroker(AsyncBroker):
    """Keeps what is sent as bytes, for a worker that has nothing else in common with it."""

    def __init__(self, serializer: TaskiqSerializer, results: InmemoryResultBackend[Any]) -> None:
        super().__init__()
        self.serializer, self.result_backend = serializer, results
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def kick(self, message: BrokerMessage) -> None:
        self.queue.put_nowait(message.message)

    async def listen(self) -> AsyncGenerator[bytes, None]:
        while True:
            yield await self.queue.get()


@pytest.mark.parametrize("serializer", [JSONSerializer(), PickleSerializer()], ids=["json", "pickle"])
@pytest.mark.parametrize("client_has_middleware", [True, False])
@pytest.mark.parametrize("make", [Pipeline, taskiq_pipelines.Pipeline], ids=["ours", "plain"])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_worker_that_gets_bytes_only(
    serializer: TaskiqSerializer, client_has_middleware: bool, make: Callable[..., Any], fails: bool
) -> None:
    results: InmemoryResultBackend[Any] = InmemoryResultBackend()
    client, worker = QueueBroker(serializer, results), QueueBroker(serializer, results)
    worker.queue = client.queue
    storage = StorageMiddleware(InMemoryStorageAdapter())
    if client_has_middleware:
        client.add_middlewares(PipelineMiddleware())
    worker.add_middlewares(storage, PipelineMiddleware())

    async def lines(count: int) -> list[int]:
        return list(range(count))

    async def double(number: int) -> int:
        return number * 2

    async def total(numbers: list[int]) -> int:
        if fails:
            raise ValueError("no total")
        return sum(numbers)

    for broker in (client, worker):
        broker.register_task(lines, task_name="lines")
        broker.register_task(double, task_name="double")
        broker.register_task(total, task_name="total")
    tasks = [client.find_task(name) for name in ("lines", "double", "total", "double")]
    first, mapped, summed, last = tasks
    pipeline = make(client, first).map(mapped, check_interval=SOON).call_next(summed).call_next(last)
    receiver = Receiver(worker, max_async_tasks=10)
    sent = await pipeline.kiq(3)
    while not client.queue.empty():
        waiting = [client.queue.get_nowait() for _ in range(client.queue.qsize())]
        await asyncio.gather(*(receiver.callback(message, raise_err=True) for message in waiting))
    result = await sent.get_result()
    assert result.is_err is fails
    assert result.return_value == (None if fails else 12)
    run_id = sent.task_id if make is taskiq_pipelines.Pipeline else sent.pipeline_id
    keys = await storage.storage.keys(f"pipeline:{run_id}:*")
    assert len(keys) == len(await storage.storage.keys()) == (6 if fails else 7)
