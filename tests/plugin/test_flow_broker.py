"""The fixture ``flow_broker``: started and shut down by itself, and nothing that its tasks leave behind is lost."""

import asyncio

import pytest
from taskiq import TaskiqEvents, TaskiqState

from taskiq_flow.pipeline import Pipeline
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.storage import BaseStorageAdapter, InMemoryStorageAdapter
from tests.inner import InnerRun


async def test_results_are_stored(flow_broker: FlowBroker, storage_adapter: BaseStorageAdapter) -> None:
    @flow_broker.task(task_name="greet")
    async def greet(name: str) -> dict[str, str]:
        return {"greeting": f"hello {name}"}

    task = await greet.kiq("world")
    await flow_broker.wait_all()
    assert await storage_adapter.keys() == [f"task:{task.task_id}"]
    stored = await flow_broker.storage_middleware.load(task.task_id)
    assert stored is not None
    assert stored.return_value == {"greeting": "hello world"}


async def test_wait_all_waits_for_what_tasks_send(flow_broker: FlowBroker, storage_adapter: BaseStorageAdapter) -> None:
    @flow_broker.task(task_name="count")
    async def count(number: int) -> int:
        await asyncio.sleep(0.01)  # let the sender be ahead
        return number + 1

    pipeline = Pipeline(flow_broker, count).call_next(count).call_next(count)
    await pipeline.kiq(0)
    await flow_broker.wait_all()
    assert len(await storage_adapter.keys(f"pipeline:{pipeline.pipeline_id}:*")) == 3


@pytest.mark.storage_backends("memory")
async def test_wait_all_does_not_spin_on_a_task_that_has_just_ended(flow_broker: FlowBroker) -> None:
    async def nothing() -> None: ...

    ended = asyncio.create_task(nothing())
    await ended
    flow_broker._running_tasks.add(ended)
    ended.add_done_callback(flow_broker._running_tasks.discard)  # runs at the loop's next turn
    await flow_broker.wait_all()
    assert not flow_broker._running_tasks


@pytest.mark.storage_backends("memory")
async def test_more_than_a_hundred_results_are_kept(flow_broker: FlowBroker) -> None:
    @flow_broker.task(task_name="same")
    async def same(number: int) -> int:
        return number

    tasks = [await same.kiq(number) for number in range(150)]
    results = [await task.wait_result(check_interval=0.001, timeout=5) for task in tasks]
    assert [result.return_value for result in results] == list(range(150))


def test_starts_and_shuts_down_once_a_loop() -> None:
    broker, events = FlowBroker(InMemoryStorageAdapter()), []

    @broker.on_event(TaskiqEvents.WORKER_STARTUP)
    def starting(_state: TaskiqState) -> None:
        events.append("start")

    @broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
    def ending(_state: TaskiqState) -> None:
        events.append("end")

    @broker.task(task_name="work")
    def work() -> None:  # synchronous: it runs in the broker's threads
        events.append("work")

    async def scenario() -> None:
        await broker.startup()
        for task in [await work.kiq(), await work.kiq()]:
            assert not (await task.wait_result(check_interval=0.001, timeout=5)).is_err

    asyncio.run(scenario())
    asyncio.run(scenario())
    assert events == ["start", "work", "work", "end"] * 2


def test_tasks_that_still_run_when_the_test_ends_are_stored(inner: InnerRun) -> None:
    code = """
        import asyncio, pytest

        @pytest.fixture
        def left_behind(storage_adapter):
            yield
            assert len(asyncio.run(storage_adapter.keys("task:*"))) == 1

        async def test_does_not_wait(left_behind, flow_broker):
            @flow_broker.task(task_name="slow")
            async def slow():
                await asyncio.sleep(0.1)

            await slow.kiq()
    """
    inner(code, "--storage-backends=fakes").assert_outcomes(passed=3)
