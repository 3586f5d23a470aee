"""``Pipeline``: runs and their ids."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from taskiq import InMemoryBroker, TaskiqMessage, TaskiqMiddleware
from taskiq.exceptions import SendTaskError

from taskiq_flow.exceptions import InvalidKeyError
from taskiq_flow.middlewares import PipelineMiddleware, StorageMiddleware
from taskiq_flow.pipeline import MAX_ID_BYTES, Pipeline, PipelineTask


@pytest.fixture
async def broker() -> AsyncIterator[InMemoryBroker]:
    broker = InMemoryBroker(await_inplace=True)
    broker.add_middlewares(StorageMiddleware(), PipelineMiddleware())
    yield broker
    await broker.shutdown()


def doubling(broker: InMemoryBroker, pipeline_id: str | None = None) -> Pipeline[[int], int]:
    @broker.task
    async def double(number: int) -> int:
        return number * 2

    return Pipeline(broker, double, pipeline_id=pipeline_id).call_next(double)


async def stored_keys(broker: InMemoryBroker, pattern: str) -> list[str]:
    storage = next(each for each in broker.middlewares if isinstance(each, StorageMiddleware)).storage
    return await storage.keys(pattern)


async def test_an_id_is_made_for_each_run(broker: InMemoryBroker) -> None:
    pipeline, untouched = doubling(broker), doubling(broker)
    first = await pipeline.kiq(1)
    assert untouched.pipeline_id is None
    assert isinstance(first, PipelineTask)
    assert pipeline.pipeline_id == first.pipeline_id
    second = await pipeline.kiq(2)
    assert pipeline.pipeline_id == second.pipeline_id
    assert first.pipeline_id != second.pipeline_id
    assert [(await task.get_result()).return_value for task in (first, second)] == [4, 8]
    for task in (first, second):
        assert len(await stored_keys(broker, f"pipeline:{task.pipeline_id}:*")) == 2


async def test_the_brokers_generator_makes_the_id(broker: InMemoryBroker) -> None:
    numbers = iter(range(100))
    broker.id_generator = lambda: f"id-{next(numbers)}"
    ids = {(await doubling(broker).kiq(1)).pipeline_id for _ in range(3)}
    assert len(ids) == 3
    assert all(each.startswith("id-") for each in ids)


async def test_an_explicit_id_is_that_of_every_run(broker: InMemoryBroker) -> None:
    pipeline = doubling(broker, "orders-2025.01 ü")
    assert pipeline.pipeline_id == "orders-2025.01 ü"
    await pipeline.kiq(1)
    task = await pipeline.kiq(2)
    assert task.pipeline_id == pipeline.pipeline_id == "orders-2025.01 ü"
    assert len(await stored_keys(broker, "pipeline:orders-2025.01 ü:*")) == 4


@pytest.mark.parametrize("wrong", ["", "a\0b", "\ud800", "x" * (MAX_ID_BYTES + 1), "ü" * 128, 7])
def test_ids_that_no_key_can_hold(broker: InMemoryBroker, wrong: Any) -> None:
    with pytest.raises(InvalidKeyError):
        Pipeline(broker, pipeline_id=wrong)


@pytest.mark.parametrize("sign", list(":*?["))
def test_ids_with_which_runs_would_mix(broker: InMemoryBroker, sign: str) -> None:
    with pytest.raises(InvalidKeyError, match=re.escape(f"'a{sign}b' contains '{sign}'")):
        Pipeline(broker, pipeline_id=f"a{sign}b")
    Pipeline(broker, pipeline_id="x" * MAX_ID_BYTES)


async def test_concurrent_kicks_return_their_own_last_task(broker: InMemoryBroker) -> None:
    """taskiq-pipelines keeps the ids in the pipeline, and gives the first caller the second one's."""

    class Slow(TaskiqMiddleware):
        async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
            await asyncio.sleep(0)
            return message

    broker.add_middlewares(Slow())
    pipeline = doubling(broker)
    tasks = await asyncio.gather(*(pipeline.kiq(number) for number in range(5)))
    assert [(await task.get_result()).return_value for task in tasks] == [0, 4, 8, 12, 16]
    assert len({task.pipeline_id for task in tasks}) == 5


async def test_the_steps_know_the_ids_of_the_last_run(broker: InMemoryBroker) -> None:
    pipeline = doubling(broker)
    task = await pipeline.kiq(1)
    assert pipeline.steps[-1].task_id == task.task_id
    assert (await broker.result_backend.get_result(pipeline.steps[0].task_id)).return_value == 2
    assert all("pipeline_id" not in step.step_data["labels"] for step in pipeline.steps)


async def test_a_pipeline_can_be_extended_after_a_run(broker: InMemoryBroker) -> None:
    pipeline = doubling(broker)
    await pipeline.kiq(1)

    @broker.task
    async def text(number: int) -> str:
        return str(number)

    longer = pipeline.call_next(text)
    assert (await (await longer.kiq(1)).get_result()).return_value == "4"


async def test_a_dumped_pipeline_can_be_kicked_again(broker: InMemoryBroker) -> None:
    """The engine's own loadb() returns one whose kiq() fails."""
    pipeline = doubling(broker)
    task = await pipeline.kiq(1)
    again = await Pipeline.loadb(broker, pipeline.dumpb()).kiq(3)
    assert isinstance(again, PipelineTask)
    assert again.pipeline_id != task.pipeline_id
    assert (await again.get_result()).return_value == 12


async def test_a_run_that_could_not_be_sent_leaves_no_id(broker: InMemoryBroker) -> None:
    pipeline = doubling(broker)
    broker.local_task_registry.clear()
    with pytest.raises(SendTaskError):
        await pipeline.kiq(1)
    assert pipeline.pipeline_id is None


async def test_no_steps_and_wrong_first_steps(broker: InMemoryBroker) -> None:
    with pytest.raises(ValueError, match="empty"):
        await Pipeline(broker).kiq()

    @broker.task
    async def task(number: int) -> int:
        return number

    with pytest.raises(ValueError, match="sequential"):
        await Pipeline(broker).map(task).kiq()


async def test_steps_without_their_predecessors_result(broker: InMemoryBroker) -> None:
    @broker.task
    async def number(value: int = 7) -> int:
        return value

    pipeline = Pipeline(broker, number).call_after(number, value=3).call_next(number, param_name="value")
    assert (await (await pipeline.kiq()).get_result()).return_value == 3


async def test_labels_of_steps_stay() -> None:
    class Seen(TaskiqMiddleware):
        def post_send(self, message: TaskiqMessage) -> None:
            labels.append(message.labels)

    labels: list[dict[str, Any]] = []
    broker = InMemoryBroker(await_inplace=True)
    broker.add_middlewares(Seen(), PipelineMiddleware())

    @broker.task(storage_ttl=60)
    async def task(value: int) -> int:
        return value

    @broker.task(storage_ttl=60, queue="fast")
    async def first() -> list[int]:
        return [1]

    pipeline = Pipeline(broker, first).map(task, check_interval=0.005)
    await pipeline.kiq()
    assert [(each.get("storage_ttl"), each.get("queue")) for each in labels] == [
        ("60", None),  # inplace: what is sent last is done first
        (None, None),
        ("60", "fast"),
    ]
    assert {each["pipeline_id"] for each in labels} == {pipeline.pipeline_id}
    await broker.shutdown()
