"""The fixture ``flow_broker``: started and shut down by itself, with every part on the test's storage."""

import asyncio
from datetime import timedelta

import pytest
from taskiq import (
    TaskiqEvents,
    TaskiqState,
)

from taskiq_flow.clock import FrozenClock
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.storage import BaseStorageAdapter
from tests.inner import InnerRun


async def test_results_are_stored(flow_broker: FlowBroker, storage_adapter: BaseStorageAdapter) -> None:
    @flow_broker.task(task_name="greet")
    async def greet(name: str) -> dict[str, str]:
        return {"greeting": f"hello {name}"}

    task = await greet.kiq("world")
    await flow_broker.wait_all()
    assert await storage_adapter.keys() == [f"result:{task.task_id}", f"task:{task.task_id}"]
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
async def test_more_than_a_hundred_results_are_kept(flow_broker: FlowBroker) -> None:
    @flow_broker.task(task_name="same")
    async def same(number: int) -> int:
        return number

    tasks = [await same.kiq(number) for number in range(150)]
    results = [await task.wait_result(check_interval=0.001, timeout=5) for task in tasks]
    assert [result.return_value for result in results] == list(range(150))


@pytest.mark.storage_backends("memory")
def test_starts_and_shuts_down_once_a_test(flow_broker: FlowBroker) -> None:
    broker, events = flow_broker, []

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
    broker.close_from_outside()
    assert events == ["start", "work", "work", "work", "work", "end"]


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


async def test_every_part_is_on_the_tests_storage(
    flow_broker: FlowBroker, storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock
) -> None:
    runs: list[int] = []

    @flow_broker.task(task_name="square", cache_ttl=60)
    async def square(number: int) -> int:
        runs.append(number)
        return number**2

    first = await (await square.kiq(3)).wait_result(check_interval=0.001, timeout=5)
    second = await (await square.kiq(3)).wait_result(check_interval=0.001, timeout=5)
    assert [first.return_value, second.return_value, runs] == [9, 9, [3]]
    await square.schedule_by_time(flow_broker.schedule_source, frozen_clock.now() + timedelta(hours=1), 4)
    await flow_broker.drain()
    prefixes = [key.partition(":")[0] for key in await storage_adapter.keys()]
    assert prefixes == ["cache", "result", "result", "schedule", "task", "task"]
    assert flow_broker.cache_middleware.cache.get_stats().created == 1


def test_each_part_can_be_replaced(inner: InnerRun) -> None:
    code = """
        import pytest
        from taskiq import SimpleRetryMiddleware
        from taskiq.brokers.inmemory_broker import InmemoryResultBackend

        @pytest.fixture
        def flow_result_backend():
            return InmemoryResultBackend()

        @pytest.fixture
        def flow_middlewares():
            return [SimpleRetryMiddleware()]

        @pytest.fixture
        def flow_schedule_sources():
            return []

        async def test_it(flow_broker, storage_adapter):
            @flow_broker.task(task_name="work")
            async def work():
                return 1

            task = await work.kiq()
            await flow_broker.drain()
            assert (await task.get_result()).return_value == 1
            assert await storage_adapter.keys() == []
            with pytest.raises(ValueError, match="no StorageMiddleware"):
                flow_broker.storage_middleware
            with pytest.raises(ValueError, match="no schedule source"):
                flow_broker.schedule_source
    """
    inner(code, "--storage-backends=memory").assert_outcomes(passed=1)


def test_what_goes_wrong_in_shutting_down_is_the_tests_own(inner: InnerRun) -> None:
    code = """
        from taskiq import TaskiqEvents

        async def test_it(flow_broker):
            @flow_broker.on_event(TaskiqEvents.CLIENT_SHUTDOWN)
            async def disconnect(state):
                raise ConnectionError("gone already")

            @flow_broker.task(task_name="task")
            def task(): ...

            await task.kiq()

        def test_next(): ...
    """
    result = inner(code, "--storage-backends=memory")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_it*", "E * ConnectionError: gone already"])
