"""The fixture ``flow_broker``: started and shut down by itself, and nothing that its tasks leave behind is lost."""

import asyncio
import re
from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest
from taskiq import (
    AsyncBroker,
    BrokerMessage,
    Context,
    SendTaskError,
    TaskiqDepends,
    TaskiqEvents,
    TaskiqMessage,
    TaskiqMiddleware,
    TaskiqState,
)
from taskiq.brokers.inmemory_broker import InmemoryResultBackend
from taskiq.serializers import JSONSerializer

from taskiq_flow.clock import FrozenClock
from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.middlewares import CacheMiddleware, PipelineMiddleware, StorageMiddleware
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.pytest_plugin.broker.deliveries import StuckTasksError
from taskiq_flow.storage import BaseStorageAdapter, InMemoryStorageAdapter, StorageEntry
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
def test_starts_and_shuts_down_once_a_loop(flow_broker: FlowBroker) -> None:
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


# --- what was lost ----------------------------------------------------------------------------------------------------

LOSSES = """
import asyncio
import pytest
from taskiq import Context, NoResultError, TaskiqDepends, TaskiqMiddleware
from taskiq_flow.exceptions import StorageConnectionError

def failing(*_, **__):
    raise StorageConnectionError("the server is gone")

async def run(broker, function, *arguments):
    task = broker.task(task_name=function.__name__.partition("__")[0])(function)
    await task.kiq(*arguments)
    await broker.drain()

async def unstorable():
    return object()

async def fine():
    return 1

async def without_result():
    raise NoResultError

async def test_unstorable(flow_broker):
    await run(flow_broker, unstorable)

@pytest.mark.flow_broker(loses="cannot be stored without loss")
async def test_unstorable_is_expected(flow_broker):
    await run(flow_broker, unstorable)

@pytest.mark.flow_broker(loses="the moon")
async def test_another_loss_is_expected(flow_broker):
    await run(flow_broker, unstorable)

@pytest.mark.flow_broker(loses=".")
async def test_a_loss_is_expected_and_does_not_happen(flow_broker):
    await run(flow_broker, fine)

async def test_fine(flow_broker):
    await run(flow_broker, fine)

async def test_without_result_on_purpose(flow_broker):
    await run(flow_broker, without_result)

async def test_result_backend_fails(flow_broker, monkeypatch):
    monkeypatch.setattr(flow_broker.result_backend.storage, "set", failing)
    await run(flow_broker, fine)

async def test_storage_fails(flow_broker, monkeypatch):
    monkeypatch.setattr(flow_broker.storage_middleware.storage, "set_entry", failing)
    await run(flow_broker, fine)

async def test_a_middleware_fails(flow_broker):
    class Broken(TaskiqMiddleware):
        def pre_execute(self, message):
            raise ZeroDivisionError("in a middleware")

    flow_broker.add_middlewares(Broken())
    await run(flow_broker, fine)

@pytest.mark.flow_broker(losses="typing error")
async def test_unknown_argument(flow_broker):
    pass
"""


def test_what_is_lost_fails_the_test(inner: InnerRun) -> None:
    result = inner(LOSSES, "--storage-backends=memory", "-p", "no:logging")
    result.assert_outcomes(passed=9, errors=7)
    told = {
        "test_unstorable": "  unstorable (*): its result was not stored: *cannot be stored without loss*",
        "test_another_loss_is_expected": "  unstorable (*): its result was not stored: *",
        "test_a_loss_is_expected_and_does_not_happen": "*was expected to lose results (loses='.'), and has lost none",
        "test_result_backend_fails": "  fine (*): ended without its result being saved: StorageConnectionError: *gone",
        "test_storage_fails": "  fine (*): its result was not stored: the server is gone",
        "test_a_middleware_fails": "  fine (*): ended without its result being saved: ZeroDivisionError: in a middle*",
        "test_unknown_argument": "*marker flow_broker has no argument 'losses'; known: loses",
    }
    for test, line in told.items():
        result.stdout.fnmatch_lines([f"*ERROR at * of {test}[[]memory] *", line])


def test_what_the_end_of_an_event_loop_breaks_off(inner: InnerRun) -> None:
    code = """
        import asyncio

        def test_it(flow_broker):
            @flow_broker.task(task_name="slow")
            async def slow():
                await asyncio.sleep(60)

            asyncio.run(slow.kiq())
    """
    result = inner(code, "--storage-backends=memory")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["  slow (*): was broken off by the end of its event loop"])


@pytest.mark.parametrize("label", ["", ".with_labels(delay=0.01)"])
def test_what_has_not_begun_when_its_event_loop_ends(inner: InnerRun, label: str) -> None:
    code = f"""
        import asyncio

        def test_it(flow_broker):
            @flow_broker.task(task_name="second")
            async def second(): ...

            @flow_broker.task(task_name="first")
            async def first():
                await second.kicker(){label}.kiq()

            asyncio.run(first.kiq())
    """
    result = inner(code, "--storage-backends=memory")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["  second (*): was broken off by the end of its event loop"])


def test_what_is_sent_while_the_broker_shuts_down(inner: InnerRun) -> None:
    code = """
        from taskiq import TaskiqEvents

        async def test_it(flow_broker):
            @flow_broker.task(task_name="task")
            async def task(): ...

            @flow_broker.task(task_name="farewell")
            async def farewell(): ...

            @flow_broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
            async def ending(state):
                await farewell.kiq()

            await task.kiq()
    """
    result = inner(code, "--storage-backends=memory")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["  farewell (*): was sent after the end of the test, when nothing is run any more"])


HINTS = """
import asyncio, pytest

async def test_is_stuck(flow_broker):
    flow_broker.patience = 0.01

    @flow_broker.task(task_name="slow")
    async def slow():
        await asyncio.sleep(60)

    await slow.kiq()

def test_is_broken_off(flow_broker):
    @flow_broker.task(task_name="slow")
    async def slow():
        await asyncio.sleep(60)

    asyncio.run(slow.kiq())

async def test_is_no_data(flow_broker):
    @flow_broker.task(task_name="unstorable")
    async def unstorable():
        return object()

    await unstorable.kiq()
    await flow_broker.drain()
"""


def test_what_to_do_is_said(inner: InnerRun) -> None:
    result = inner(HINTS, "--storage-backends=memory")
    result.assert_outcomes(passed=3, errors=3)
    wait = "what still runs is waited for by `await flow_broker.drain()` at the end of the test, *"
    meant = 'a loss that is meant is declared by @pytest.mark.flow_broker(loses="*'
    told = ["  slow (*): was still running *", wait, meant]
    told += ["  slow (*): was broken off *", wait, meant]
    told += ["  unstorable (*): its result was not stored: *", meant]
    result.stdout.fnmatch_lines(told, consecutive=False)
    result.stdout.no_fnmatch_line("*CancelledError*")  # where a driver stood when its task was cancelled says nothing


# --- drain ------------------------------------------------------------------------------------------------------------


@pytest.mark.storage_backends("memory", "sqlite")
async def test_drain_waits_for_chains_and_maps(flow_broker: FlowBroker) -> None:
    done: list[int] = []

    @flow_broker.task(task_name="numbers")
    async def numbers(count: int) -> list[int]:
        return list(range(count))

    @flow_broker.task(task_name="note")
    async def note(number: int) -> int:
        await asyncio.sleep(0.01)
        done.append(number)
        return number

    await Pipeline(flow_broker, numbers).map(note, check_interval=0.001).kiq(3)
    await flow_broker.drain()
    assert sorted(done) == [0, 1, 2]


@pytest.mark.storage_backends("memory")
@pytest.mark.flow_broker(loses="still running at the end of the test")
async def test_drain_names_what_is_stuck_and_where(flow_broker: FlowBroker) -> None:
    async def deep_inside() -> None:
        await asyncio.Event().wait()

    @flow_broker.task(task_name="stuck")
    async def stuck() -> None:
        await deep_inside()

    task = await stuck.kiq()
    with pytest.raises(StuckTasksError) as caught:
        await flow_broker.drain(timeout=0.05)
    told = str(caught.value)
    assert told.startswith("after 0.05 s there still run\n")
    assert f"stuck ({task.task_id}) waits in deep_inside (" in told
    assert "test_flow_broker.py:" in told
    assert told.endswith(": await asyncio.Event().wait()")
    flow_broker.patience = 0.05  # the end of the test waits for it as well


@pytest.mark.storage_backends("memory")
async def test_drain_names_what_waits_for_the_clock(flow_broker: FlowBroker, frozen_clock: FrozenClock) -> None:
    @flow_broker.task(task_name="later", delay=60)
    async def later() -> None: ...

    await later.kiq()
    await flow_broker.wait_all()
    due = (frozen_clock.now() + timedelta(seconds=60)).isoformat(timespec="milliseconds")[:23]
    with pytest.raises(StuckTasksError, match=rf"later \(.*\) waits for {re.escape(due)}.* on the frozen clock"):
        await flow_broker.drain()


@pytest.mark.storage_backends("memory")
async def test_a_delay_without_a_frozen_clock_is_real(flow_broker: FlowBroker) -> None:
    done: list[int] = []

    @flow_broker.task(task_name="later")
    async def later(number: int) -> None:
        done.append(number)

    await later.kicker().with_labels(delay=0.05).kiq(2)
    await later.kicker().with_labels(delay="no number").kiq(1)
    await flow_broker.drain()
    assert done == [1, 2]


# --- an application's own broker --------------------------------------------------------------------------------------


class Elsewhere(AsyncBroker):
    """An application's broker, which a test must not reach."""

    async def kick(self, message: BrokerMessage) -> None:
        raise AssertionError("sent to production")

    def listen(self) -> AsyncGenerator[bytes, None]:
        raise AssertionError("listening in production")


class Production(InMemoryStorageAdapter):
    """An application's storage, which a test must not reach."""

    async def set_entry(self, entry: StorageEntry) -> None:
        raise AssertionError("stored in production")


class Noted(TaskiqMiddleware):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []

    def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        self.sent.append(message.task_name)
        return message


class Service:
    def __init__(self, name: str) -> None:
        self.name = name


noted = Noted()
theirs = (
    Elsewhere()
    .with_result_backend(InmemoryResultBackend())
    .with_middlewares(StorageMiddleware(Production()), noted, PipelineMiddleware())
)
theirs.add_dependency_context({Service: Service("theirs")})


@theirs.on_event(TaskiqEvents.WORKER_STARTUP)
def connect(state: TaskiqState) -> None:
    state.connected = True


@theirs.task(task_name="theirs:greet")
async def greet(
    name: str, service: Service = TaskiqDepends(Service), state: TaskiqState = TaskiqDepends(TaskiqState)
) -> str:
    return f"hello {name} from {service.name}, {state.connected}"


@theirs.task(task_name="theirs:shout")
async def shout(text: str) -> str:
    return text.upper()


async def test_an_adopted_broker_sends_here(flow_broker: FlowBroker, storage_adapter: BaseStorageAdapter) -> None:
    noted.sent.clear()
    flow_broker.adopt(theirs)
    await theirs.startup()
    pipeline = Pipeline(theirs, greet).call_next(shout)
    task = await pipeline.kiq("world")
    assert (await task.wait_result(check_interval=0.001, timeout=5)).return_value == "HELLO WORLD FROM THEIRS, TRUE"
    await flow_broker.drain()
    await theirs.shutdown()
    assert len(await storage_adapter.keys(f"pipeline:{pipeline.pipeline_id}:*")) == 2
    assert noted.sent == ["theirs:greet", "theirs:shout"]
    kinds = [type(middleware) for middleware in flow_broker.middlewares]
    assert kinds == [StorageMiddleware, Noted, PipelineMiddleware, CacheMiddleware], "in their places"


async def test_dependencies_are_overridden_in_one_test_only(flow_broker: FlowBroker) -> None:
    flow_broker.adopt(theirs)
    theirs.dependency_overrides[Service] = lambda: Service("the test")
    task = await greet.kiq("world")
    result = await task.wait_result(check_interval=0.001, timeout=5)
    assert result.return_value in {"hello world from the test, True", "hello world from theirs, True"}


@pytest.mark.storage_backends("memory")
def test_in_the_end_it_is_as_it_was(flow_broker: FlowBroker) -> None:
    before, middlewares = dict(vars(theirs)), list(theirs.middlewares)

    async def scenario() -> None:
        await (await greet.kiq("world")).wait_result(check_interval=0.001, timeout=5)

    flow_broker.adopt(theirs)
    asyncio.run(scenario())
    assert vars(theirs) != before
    flow_broker.close_from_outside()
    assert vars(theirs) == before
    assert theirs.middlewares == middlewares
    assert all(middleware.broker is theirs for middleware in middlewares)
    with pytest.raises(SendTaskError) as caught:
        asyncio.run(scenario())
    assert "sent to production" in str(caught.value.__cause__)


@pytest.mark.storage_backends("memory")
def test_adoptions_that_cannot_be(flow_broker: FlowBroker) -> None:
    class Other(JSONSerializer):
        pass

    for thing in ("newsletter.broker:broker", pytest, Elsewhere):
        with pytest.raises(
            TypeError, match=rf"was given {re.escape(repr(thing))}, a \w+: it wants a taskiq AsyncBroker"
        ):
            flow_broker.adopt(thing)  # type: ignore[arg-type]
    flow_broker.adopt(theirs)
    for broker in (theirs, flow_broker):
        with pytest.raises(ConfigurationError, match="adopted already"):
            flow_broker.adopt(broker)
    with pytest.raises(ConfigurationError, match="writes messages with Other and ProxyFormatter"):
        flow_broker.adopt(Elsewhere().with_serializer(Other()))

    async def scenario() -> None:
        await greet.kiq("world")
        with pytest.raises(ConfigurationError, match="before the first task is sent"):
            flow_broker.adopt(Elsewhere())

    asyncio.run(scenario())


# --- workers ----------------------------------------------------------------------------------------------------------


async def test_workers_take_turns_with_adapters_of_their_own(
    flow_broker: FlowBroker, storage_adapter: BaseStorageAdapter
) -> None:
    brokers: set[int] = set()
    runs: list[int] = []

    @flow_broker.task(task_name="where")
    async def where(context: Context = TaskiqDepends()) -> None:
        brokers.add(id(context.broker))

    @flow_broker.task(task_name="work", cache_ttl=60)
    async def work(number: int) -> int:
        runs.append(number)
        await asyncio.sleep(0.01)  # let the others find it begun
        return number

    async with flow_broker.workers(3):
        tasks = [await work.kiq(number % 10) for number in range(30)]
        for _ in range(3):
            await where.kiq()
    results = [(await task.get_result()).return_value for task in tasks]
    assert results == [number % 10 for number in range(30)]
    assert len(brokers) == 3
    assert sorted(runs) == list(range(10)), "one worker runs what many are to run at once"
    assert len(await storage_adapter.keys("task:*")) == 33


@pytest.mark.storage_backends("memory", "sqlite")
async def test_workers_show_a_race(flow_broker: FlowBroker, storage_adapter: BaseStorageAdapter) -> None:
    @flow_broker.task(task_name="count")
    async def count() -> None:
        number = await storage_adapter.get("counter") or 0
        await asyncio.sleep(0.01)  # another worker reads the same
        await storage_adapter.set("counter", number + 1)

    async with flow_broker.workers(4):
        for _ in range(8):
            await count.kiq()
    counted = await storage_adapter.get("counter")
    assert isinstance(counted, int)
    assert counted < 8


@pytest.mark.storage_backends("memory")
async def test_workers_that_cannot_be(flow_broker: FlowBroker) -> None:
    with pytest.raises(ConfigurationError, match=r"workers\(0\)"):
        async with flow_broker.workers(0):
            pass
    async with flow_broker.workers(1):
        with pytest.raises(ConfigurationError, match="cannot be nested"):
            async with flow_broker.workers(1):
                pass


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
