"""A task runs to its end wherever it was sent from: the sender's event loop may be gone before that."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from fastapi import FastAPI
from fastapi.testclient import TestClient
from taskiq import AsyncTaskiqDecoratedTask, SimpleRetryMiddleware, TaskiqEvents, TaskiqState

from taskiq_flow.clock import FrozenClock
from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.pytest_plugin.broker.deliveries import StuckTasksError
from tests.inner import InnerRun
from tests.plugin.broker.application import ProductionBroker

pytestmark = pytest.mark.storage_backends("memory", "sqlite")

WHO = ContextVar("who", default="nobody")
Task = AsyncTaskiqDecoratedTask[..., Any]


@pytest.fixture
def done() -> list[int]:
    """What the task ``work`` has done."""
    return []


@pytest.fixture
def work(flow_broker: FlowBroker, done: list[int]) -> Task:
    """A task that takes some time."""
    broker = ProductionBroker()

    @broker.task(task_name="work")
    async def work(number: int) -> int:
        await asyncio.sleep(0.02)
        done.append(number)
        return number

    flow_broker.adopt(broker)
    return work


def run_in_thread(work: Task) -> None:
    with ThreadPoolExecutor() as elsewhere:
        elsewhere.submit(asyncio.run, work.kiq(1)).result()


@pytest.mark.parametrize(
    "send",
    [lambda work: asyncio.run(work.kiq(1)), lambda work: async_to_sync(work.kiq)(1), run_in_thread],
    ids=["asyncio.run", "async_to_sync", "a thread"],
)
def test_a_task_outlives_the_event_loop_that_sent_it(
    flow_broker: FlowBroker, work: Task, done: list[int], send: Callable[[Task], None]
) -> None:
    send(work)
    flow_broker.drain_sync()
    assert done == [1]


async def test_a_task_has_the_context_of_the_test_and_not_of_its_sender(flow_broker: FlowBroker) -> None:
    seen: list[str] = []

    @flow_broker.task(task_name="look")
    async def look() -> None:
        seen.append(WHO.get())

    WHO.set("sender")
    await look.kiq()
    await flow_broker.drain()
    assert seen == ["nobody"]


@pytest.mark.parametrize("sends_at_startup", [False, True])
async def test_a_task_sees_the_context_variables_of_the_startup(
    flow_broker: FlowBroker, sends_at_startup: bool
) -> None:
    broker, seen = ProductionBroker(), []

    @broker.task(task_name="look")
    async def look() -> None:
        seen.append(WHO.get())
        WHO.set("task")

    @broker.on_event(TaskiqEvents.WORKER_STARTUP)
    async def connect(_state: TaskiqState) -> None:
        if sends_at_startup:
            await look.kiq()
        assert WHO.get() == "nobody"
        WHO.set("startup")

    flow_broker.adopt(broker)
    WHO.set("sender")
    await look.kiq()
    await look.kiq()
    await flow_broker.drain()
    assert seen == ["startup"] * (3 if sends_at_startup else 2)
    assert WHO.get() == "sender"


def test_a_task_in_the_workers_thread_sees_the_context_variables_of_the_startup(flow_broker: FlowBroker) -> None:
    broker, seen = ProductionBroker(), []

    @broker.on_event(TaskiqEvents.WORKER_STARTUP)
    def connect(_state: TaskiqState) -> None:
        WHO.set("startup")

    @broker.task(task_name="look")
    def look() -> None:
        seen.append(WHO.get())

    flow_broker.adopt(broker)
    async_to_sync(look.kiq)()
    flow_broker.drain_sync()
    assert seen == ["startup"]
    assert WHO.get() == "nobody"


def test_drain_waits_on_any_event_loop_for_what_others_sent(
    flow_broker: FlowBroker, work: Task, done: list[int]
) -> None:
    pipeline = Pipeline(work.broker, work).call_next(work)
    asyncio.run(pipeline.kiq(1))
    asyncio.run(flow_broker.drain())
    assert done == [1, 1]
    run_in_thread(work)
    asyncio.run(flow_broker.wait_all())
    assert done == [1, 1, 1]


async def test_an_asynchronous_test_waits_for_what_threads_sent(
    flow_broker: FlowBroker, work: Task, done: list[int]
) -> None:
    await work.kiq(1)
    await asyncio.to_thread(run_in_thread, work)
    await flow_broker.drain()
    assert sorted(done) == [1, 1]
    await work.kiq(2)
    await asyncio.to_thread(flow_broker.drain_sync)
    assert sorted(done) == [1, 1, 2]


def test_what_a_test_leaves_behind_is_waited_for(inner: InnerRun) -> None:
    code = """
        import asyncio, threading

        def test_sends(flow_broker):
            done = []

            @flow_broker.task(task_name="work")
            async def work(number):
                await asyncio.sleep(0.05)
                done.append(number)
                if number < 3:
                    await work.kiq(number + 1)

            test_sends.done = done
            threading.Thread(target=lambda: asyncio.run(work.kiq(1))).start()
            asyncio.run(work.kiq(3))

        def test_after_it():
            assert sorted(test_sends.done) == [1, 2, 3, 3]
    """
    inner(code, "--storage-backends=memory").assert_outcomes(passed=2)


def test_the_event_loop_of_a_fixture_waits_for_what_was_sent_on_it(inner: InnerRun) -> None:
    code = """
        import asyncio, pytest

        done = []

        @pytest.fixture
        def seeded(flow_broker):
            @flow_broker.task(task_name="seed")
            async def seed(left):
                await asyncio.sleep(0.02)
                done.append(left)
                if left:
                    await seed.kiq(left - 1)

            asyncio.run(seed.kiq(2))

        async def test_asynchronous(seeded, flow_broker):
            await flow_broker.drain()
            assert done == [2, 1, 0]
    """
    inner(code, "--storage-backends=memory").assert_outcomes(passed=1)


# --- web frameworks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def app(work: Task) -> FastAPI:
    """A web application that sends tasks, and starts and shuts its broker down."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await work.broker.startup()
        yield
        await work.broker.shutdown()

    app = FastAPI(lifespan=lifespan)

    @app.post("/work")
    async def send() -> str:
        return (await work.kiq(1)).task_id

    @app.post("/result")
    async def wait() -> Any:
        return (await (await work.kiq(2)).wait_result(check_interval=0.001, timeout=5)).return_value

    return app


def test_endpoints_send_on_an_event_loop_for_each_request(app: FastAPI, done: list[int]) -> None:
    client = TestClient(app)
    client.post("/work")
    assert done == [1], "the end of the request's event loop waits"
    assert client.post("/result").json() == 2


def test_endpoints_send_within_a_lifespan(app: FastAPI, done: list[int], flow_broker: FlowBroker) -> None:
    with TestClient(app) as client:
        client.post("/work")
        assert client.post("/result").json() == 2
    assert sorted(done) == [1, 2]
    flow_broker.drain_sync()


async def test_a_synchronous_client_in_an_asynchronous_test(
    app: FastAPI, done: list[int], flow_broker: FlowBroker, work: Task
) -> None:
    with TestClient(app) as client:
        assert client.post("/result").json() == 2, "though the test's event loop stands still"
        client.post("/work")
    await work.kiq(3)
    await flow_broker.drain()
    assert sorted(done) == [1, 2, 3]


# --- one worker -------------------------------------------------------------------------------------------------------


def test_tasks_run_on_the_event_loop_on_which_they_were_started(flow_broker: FlowBroker) -> None:
    broker, loops = ProductionBroker(), []

    @broker.on_event(TaskiqEvents.WORKER_STARTUP)
    async def connect(state: TaskiqState) -> None:
        loops.append(asyncio.get_running_loop())

    @broker.task(task_name="where")
    async def where(_number: int = 0) -> None:
        loops.append(asyncio.get_running_loop())

    flow_broker.adopt(broker)
    asyncio.run(where.kiq())
    run_in_thread(where)
    flow_broker.drain_sync()
    assert len(loops) == 3
    assert len(set(loops)) == 1, "so that connections which were opened at startup are of use"


def test_a_plain_test_may_wait_for_what_its_task_sets(flow_broker: FlowBroker) -> None:
    async def scenario() -> None:
        done = asyncio.Event()

        @flow_broker.task(task_name="work")
        async def work() -> None:
            done.set()

        await work.kiq()
        await asyncio.wait_for(done.wait(), 10)

    asyncio.run(scenario())


async def test_tasks_of_an_asynchronous_test_run_on_its_event_loop(flow_broker: FlowBroker) -> None:
    here = asyncio.get_running_loop()

    @flow_broker.task(task_name="where")
    async def where() -> None:
        assert asyncio.get_running_loop() is here
        assert threading.current_thread() is threading.main_thread()

    task = await where.kiq()
    await flow_broker.drain()
    assert not (await task.get_result()).is_err


@pytest.mark.parametrize("kind", ["future", "lock"])
def test_what_awaits_something_of_a_loop_that_is_gone_says_so(flow_broker: FlowBroker, kind: str) -> None:
    kept: dict[str, Any] = {}

    @flow_broker.task(task_name="late")
    async def late() -> None:
        await (kept["lock"].acquire() if kind == "lock" else kept["future"])

    async def send() -> str:
        lock = asyncio.Lock()
        await lock.acquire()
        waiting = asyncio.ensure_future(lock.acquire())
        await asyncio.sleep(0)
        kept.update(future=asyncio.get_running_loop().create_future(), lock=lock)
        waiting.cancel()
        return (await late.kiq()).task_id

    task_id = asyncio.run(send())
    flow_broker.drain_sync()
    result = asyncio.run(flow_broker.result_backend.get_result(task_id))
    assert "loop" in str(result.error)


# --- delays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [True, False])
def test_retries_of_what_a_short_loop_sent(
    flow_broker: FlowBroker, request: pytest.FixtureRequest, frozen: bool
) -> None:
    clock: FrozenClock | None = request.getfixturevalue("frozen_clock") if frozen else None
    broker = ProductionBroker().with_middlewares(SimpleRetryMiddleware(default_retry_count=3))
    runs: list[int] = []

    @broker.task(task_name="fails", retry_on_error=True, delay=30 if frozen else 0.02)
    async def fails() -> None:
        runs.append(1)
        raise ValueError

    flow_broker.adopt(broker)
    asyncio.run(fails.kiq())
    if clock is not None:
        with pytest.raises(StuckTasksError, match="on the frozen clock"):
            flow_broker.drain_sync()
        asyncio.run(clock.advance(100))
    flow_broker.drain_sync()
    assert len(runs) == 3


# --- drain_sync -------------------------------------------------------------------------------------------------------


def test_drain_sync_names_what_is_stuck(flow_broker: FlowBroker) -> None:
    flow_broker.shutdown_timeout = 0.01
    end = threading.Event()

    @flow_broker.task(task_name="stuck")
    async def stuck() -> None:
        await asyncio.to_thread(end.wait)

    asyncio.run(stuck.kiq())
    with pytest.raises(StuckTasksError, match=r"(?s)after 0.05 s there still run.*stuck \(.*\) waits in stuck \("):
        flow_broker.drain_sync(timeout=0.05)
    end.set()
    flow_broker.drain_sync()


async def test_drain_sync_is_refused_where_an_event_loop_runs(flow_broker: FlowBroker) -> None:
    with pytest.raises(ConfigurationError, match=r"`await flow_broker\.drain\(\)`"):
        flow_broker.drain_sync()
