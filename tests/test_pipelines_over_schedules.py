"""Pipelines whose steps are retried by schedules: over any source, a run ends with a result or an error."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import taskiq
from taskiq import Context, ScheduledTask, ScheduleSource, TaskiqDepends, TaskiqScheduler
from taskiq.abc.serializer import TaskiqSerializer
from taskiq.exceptions import NoResultError
from taskiq.serializers import JSONSerializer, PickleSerializer
from taskiq_pipelines.exceptions import AbortPipeline

from taskiq_flow.middlewares import PipelineMiddleware
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.pytest_plugin.broker import FlowBroker

pytestmark = pytest.mark.skipif(not hasattr(taskiq, "SmartRetryMiddleware"), reason="older releases cannot do this")


class TextSource(ScheduleSource):
    """Keeps schedules as JSON, as sources over Redis, PostgreSQL or NATS do: labels are text."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    async def add_schedule(self, schedule: ScheduledTask) -> None:
        self.kept[schedule.schedule_id] = schedule.model_dump_json()

    async def get_schedules(self) -> list[ScheduledTask]:
        return [ScheduledTask.model_validate_json(text) for text in self.kept.values()]

    async def delete_schedule(self, schedule_id: str) -> None:
        self.kept.pop(schedule_id, None)

    async def post_send(self, task: ScheduledTask) -> None:
        await self.delete_schedule(task.schedule_id)


@pytest.fixture(params=["ours", "text"])
def source(flow_broker: FlowBroker, request: pytest.FixtureRequest) -> ScheduleSource:
    """The source by which steps are retried, at once."""
    source = flow_broker.schedule_source if request.param == "ours" else TextSource()
    retry = taskiq.SmartRetryMiddleware(default_retry_count=3, default_delay=0, schedule_source=source)
    flow_broker.add_middlewares(retry)
    return source


async def send_all(flow_broker: FlowBroker, source: ScheduleSource) -> int:
    """Send what is scheduled, as a scheduler does, until nothing is left; return how many schedules that were."""
    sent = 0
    await flow_broker.drain()
    while schedules := await source.get_schedules():
        for schedule in schedules:
            await TaskiqScheduler(flow_broker, [source]).on_ready(source, schedule)
            sent += 1
        await flow_broker.drain()
    return sent


@pytest.fixture
def tasks(flow_broker: FlowBroker) -> dict[str, Any]:
    """The steps; ``flaky`` fails as often as it is told."""
    failures = {"to come": 0}

    @flow_broker.task(task_name="flaky", retry_on_error=True)
    async def flaky(number: int) -> int:
        failures["to come"] -= 1
        if failures["to come"] >= 0:
            raise RuntimeError("not yet")
        return number + 1

    @flow_broker.task(task_name="double")
    async def double(number: int) -> int:
        return 2 * number

    @flow_broker.task(task_name="nothing")
    async def nothing(number: int) -> int:
        raise NoResultError

    @flow_broker.task(task_name="again")
    async def again(number: int, context: Context = TaskiqDepends()) -> int:
        failures["to come"] -= 1
        if failures["to come"] >= 0:
            await context.requeue()
        return number + 1

    return {"flaky": flaky, "double": double, "nothing": nothing, "again": again, "failures": failures}


@pytest.mark.parametrize("serializer", [JSONSerializer(), PickleSerializer()], ids=["json", "pickle"])
async def test_a_step_that_is_retried_by_a_schedule_goes_on(
    flow_broker: FlowBroker, source: ScheduleSource, tasks: dict[str, Any], serializer: TaskiqSerializer
) -> None:
    flow_broker.with_serializer(serializer)
    tasks["failures"]["to come"] = 2
    task = await Pipeline(flow_broker, tasks["double"]).call_next(tasks["flaky"]).call_next(tasks["double"]).kiq(2)
    assert await send_all(flow_broker, source) == 2
    result = await task.get_result()
    assert (result.error, result.return_value) == (None, 10)
    stored = await flow_broker.storage_middleware.storage.keys(f"pipeline:{task.pipeline_id}:*")
    assert len(stored) == 3, "each step once"


async def test_a_step_that_fails_for_good_ends_the_run(
    flow_broker: FlowBroker, source: ScheduleSource, tasks: dict[str, Any]
) -> None:
    tasks["failures"]["to come"] = 9
    task = await Pipeline(flow_broker, tasks["flaky"]).call_next(tasks["double"]).kiq(2)
    assert await send_all(flow_broker, source) == 2
    assert str((await task.get_result()).error) == "not yet"


@pytest.mark.storage_backends("memory")
async def test_a_step_without_a_result_ends_the_run(flow_broker: FlowBroker, tasks: dict[str, Any]) -> None:
    task = await Pipeline(flow_broker, tasks["nothing"]).call_next(tasks["double"]).kiq(2)
    await flow_broker.drain()
    error = (await task.get_result()).error
    assert isinstance(error, AbortPipeline)
    assert "step nothing" in str(error)


@pytest.mark.storage_backends("memory")
async def test_a_step_that_is_requeued_does_not_end_the_run(flow_broker: FlowBroker, tasks: dict[str, Any]) -> None:
    tasks["failures"]["to come"] = 2
    task = await Pipeline(flow_broker, tasks["again"]).call_next(tasks["double"]).kiq(2)
    await flow_broker.drain()
    assert (await task.get_result()).return_value == 6


@pytest.mark.storage_backends("memory")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda steps: steps[1].update(step_type="unheard of"),
        lambda steps: steps[1]["step_data"].pop("task_name"),
        lambda steps: steps[1].update(step_data={}),
    ],
)
async def test_a_next_step_that_nobody_understands_ends_the_run(
    flow_broker: FlowBroker, tasks: dict[str, Any], spoil: Callable[[list[dict[str, Any]]], Any]
) -> None:
    class Spoiler(PipelineMiddleware):
        def pre_execute(self, message: Any) -> Any:
            if "_pipe_data" in message.labels:
                steps = json.loads(message.labels["_pipe_data"])
                spoil(steps)
                message.labels["_pipe_data"] = json.dumps(steps).encode()
            return message

        async def post_save(self, message: Any, result: Any) -> None:
            pass

        async def on_error(self, message: Any, result: Any, exception: BaseException) -> None:
            pass

    flow_broker.add_middlewares(Spoiler())
    task = await Pipeline(flow_broker, tasks["double"]).call_next(tasks["double"]).kiq(2)
    await flow_broker.drain()
    assert (await task.get_result()).is_err
