"""What taskiq-pipelines is made for, with results, history and cache on each storage: the same everywhere."""

from collections.abc import Callable
from typing import Any

import pytest
from taskiq import AsyncTaskiqDecoratedTask, SimpleRetryMiddleware, TaskiqResult
from taskiq_pipelines.exceptions import FilterError, MappingError

from taskiq_flow.middlewares import StorageMiddleware
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.storage import BaseStorageAdapter

QUICKLY: dict[str, Any] = {"check_interval": 0.001}

Task = AsyncTaskiqDecoratedTask[..., Any]


class Tasks:
    """The tasks of which the pipelines are made."""

    numbers: Task
    add: Task
    is_even: Task
    total: Task
    picky: Task
    flaky: Task

    def __init__(self, broker: FlowBroker) -> None:
        self.broker = broker
        self.attempts = 0

    async def run(self, pipeline: "Pipeline[Any, Any]", *arguments: Any) -> TaskiqResult[Any]:
        task = await pipeline.kiq(*arguments)
        result: TaskiqResult[Any] = await task.wait_result(timeout=20, **QUICKLY)
        await self.broker.drain()
        return result


@pytest.fixture
def tasks(flow_broker: FlowBroker) -> Tasks:
    made = Tasks(flow_broker)

    async def numbers(count: int) -> list[int]:
        return list(range(count))

    async def add(value: int, more: int = 1) -> int:
        return value + more

    def is_even(value: int) -> bool:  # a synchronous one: it runs in a thread
        return value % 2 == 0

    async def total(values: list[int]) -> int:
        return sum(values)

    async def picky(value: int) -> int:
        if value == 2:
            raise LookupError(f"no {value}")
        return value

    async def flaky(value: int) -> int:
        made.attempts += 1
        if made.attempts < 3:
            raise ConnectionError("not yet")
        return value

    functions: list[Callable[..., Any]] = [numbers, add, is_even, total, picky, flaky]
    for function in functions:
        name = function.__name__
        task = flow_broker.task(task_name=name, retry_on_error=name == "flaky", max_retries=5)(function)
        setattr(made, name, task)
    return made


def pipeline(tasks: Tasks, first: Task) -> "Pipeline[Any, Any]":
    return Pipeline(tasks.broker, first)


async def test_steps_one_after_another(tasks: Tasks) -> None:
    steps = pipeline(tasks, tasks.add).call_next(tasks.add, more=10).call_next(tasks.add, param_name="more", value=100)
    assert (await tasks.run(steps, 1)).return_value == 112


async def test_a_step_that_takes_no_result(tasks: Tasks) -> None:
    steps = pipeline(tasks, tasks.add).call_after(tasks.numbers, count=3).call_next(tasks.total)
    assert (await tasks.run(steps, 1)).return_value == 3


async def test_mapping(tasks: Tasks) -> None:
    steps = pipeline(tasks, tasks.numbers).map(tasks.add, param_name="value", more=5, **QUICKLY).call_next(tasks.total)
    assert (await tasks.run(steps, 4)).return_value == 5 + 6 + 7 + 8


async def test_filtering(tasks: Tasks) -> None:
    steps = pipeline(tasks, tasks.numbers).filter(tasks.is_even, **QUICKLY)
    assert (await tasks.run(steps, 7)).return_value == [0, 2, 4, 6]


async def test_mapping_and_filtering_nothing(tasks: Tasks) -> None:
    steps = pipeline(tasks, tasks.numbers).map(tasks.add, **QUICKLY).filter(tasks.is_even, **QUICKLY)
    assert (await tasks.run(steps.call_next(tasks.total), 0)).return_value == 0


async def test_a_failing_step_ends_the_run(tasks: Tasks, storage_adapter: BaseStorageAdapter) -> None:
    steps = pipeline(tasks, tasks.picky).call_next(tasks.add).call_next(tasks.add)
    result = await tasks.run(steps, 2)
    assert isinstance(result.error, LookupError)
    assert str(result.error) == "no 2"
    assert len(await storage_adapter.keys(f"pipeline:{steps.pipeline_id}:*")) == 1, "what ran is in the history"


async def test_a_failing_sub_task_fails_its_step(tasks: Tasks) -> None:
    mapped = await tasks.run(pipeline(tasks, tasks.numbers).map(tasks.picky, **QUICKLY), 4)
    filtered = await tasks.run(pipeline(tasks, tasks.numbers).filter(tasks.picky, **QUICKLY), 4)
    for result, kind in ((mapped, MappingError), (filtered, FilterError)):
        assert isinstance(result.error, kind)
        assert isinstance(result.error.__cause__, LookupError)
        assert "no 2" in str(result.error)


async def test_a_failing_sub_task_is_left_out(tasks: Tasks) -> None:
    steps = pipeline(tasks, tasks.numbers).map(tasks.picky, skip_errors=True, **QUICKLY)
    assert (await tasks.run(steps, 4)).return_value == [0, 1, 3]


async def test_a_retry_and_then_success(tasks: Tasks) -> None:
    tasks.broker.add_middlewares(SimpleRetryMiddleware())
    steps = pipeline(tasks, tasks.add).call_next(tasks.flaky).call_next(tasks.add)
    assert (await tasks.run(steps, 1)).return_value == 4 - 1
    assert tasks.attempts == 3


async def test_the_history_of_a_run(tasks: Tasks, storage_adapter: BaseStorageAdapter) -> None:
    steps = pipeline(tasks, tasks.numbers).map(tasks.add, **QUICKLY).call_next(tasks.total)
    await tasks.run(steps, 3)
    reader = StorageMiddleware(storage_adapter)
    stored = [
        await reader.load_stored(key.rpartition(":")[2], steps.pipeline_id)
        for key in await storage_adapter.keys(f"pipeline:{steps.pipeline_id}:*")
    ]
    told = sorted((one.task_name, one.result) for one in stored if one is not None and one.task_name != "numbers")
    assert told == [("add", 1), ("add", 2), ("add", 3), ("taskiq_pipelines.shared.wait_tasks", [1, 2, 3]), ("total", 6)]
