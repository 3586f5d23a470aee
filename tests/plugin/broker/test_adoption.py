"""``adopt``: an application's brokers run their tasks in the test, stay themselves, and are as they were in the end."""

import asyncio
import json
import re
from functools import partial
from typing import Any

import pytest
from taskiq import (
    AsyncBroker,
    BrokerMessage,
    Context,
    InMemoryBroker,
    SendTaskError,
    SmartRetryMiddleware,
    TaskiqDepends,
    TaskiqEvents,
    TaskiqMessage,
    TaskiqMiddleware,
    TaskiqState,
    async_shared_broker,
)
from taskiq.abc.formatter import TaskiqFormatter
from taskiq.brokers.inmemory_broker import InmemoryResultBackend
from taskiq.brokers.shared_broker import AsyncSharedBroker
from taskiq.serializers import JSONSerializer, PickleSerializer

from taskiq_flow.clock import FrozenClock
from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.middlewares import CacheMiddleware, PipelineMiddleware, StorageMiddleware
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.storage import BaseStorageAdapter
from tests.inner import InnerRun
from tests.plugin.broker.application import Noted, ProductionBroker, ProductionStorage, ReachedError

ON_MEMORY = pytest.mark.storage_backends("memory")


class Service:
    def __init__(self, name: str) -> None:
        self.name = name


noted = Noted()
theirs = (
    ProductionBroker()
    .with_result_backend(InmemoryResultBackend())
    .with_middlewares(StorageMiddleware(ProductionStorage()), noted, PipelineMiddleware())
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
    noted.seen.clear()
    flow_broker.adopt(theirs)
    await theirs.startup()
    pipeline = Pipeline(theirs, greet).call_next(shout)
    task = await pipeline.kiq("world")
    assert (await task.wait_result(check_interval=0.001, timeout=5)).return_value == "HELLO WORLD FROM THEIRS, TRUE"
    await flow_broker.drain()
    await theirs.shutdown()
    assert len(await storage_adapter.keys(f"pipeline:{pipeline.pipeline_id}:*")) == 2
    assert noted.seen == ["sends theirs:greet", "runs theirs:greet", "sends theirs:shout", "runs theirs:shout"]
    kinds = [type(middleware) for middleware in theirs.middlewares]
    assert kinds == [StorageMiddleware, Noted, PipelineMiddleware, CacheMiddleware], "in their places"


async def test_dependencies_are_overridden_in_one_test_only(flow_broker: FlowBroker) -> None:
    flow_broker.adopt(theirs)
    theirs.dependency_overrides[Service] = lambda: Service("the test")
    task = await greet.kiq("world")
    result = await task.wait_result(check_interval=0.001, timeout=5)
    assert result.return_value in {"hello world from the test, True", "hello world from theirs, True"}


def everything_of(broker: AsyncBroker) -> dict[str, Any]:
    """Return what a broker has, and what its containers hold."""
    held = {name: list(value) for name, value in vars(broker).items() if isinstance(value, list | dict)}
    return {"class": type(broker), **vars(broker), **{f"{name}'s": value for name, value in held.items()}}


@ON_MEMORY
def test_in_the_end_a_broker_is_as_it_was(flow_broker: FlowBroker) -> None:
    before, handlers = everything_of(theirs), {event: list(those) for event, those in theirs.event_handlers.items()}

    async def scenario() -> None:
        await (await greet.kiq("world")).wait_result(check_interval=0.001, timeout=5)

    flow_broker.adopt(theirs)
    theirs.dependency_overrides[Service] = lambda: Service("the test")
    theirs.add_event_handler(TaskiqEvents.CLIENT_STARTUP, connect)
    asyncio.run(scenario())
    assert isinstance(theirs, ProductionBroker)
    assert theirs.is_worker_process
    assert theirs.state.connected
    flow_broker.close_from_outside()
    assert everything_of(theirs) == before
    assert {event: those for event, those in theirs.event_handlers.items() if those} == handlers
    assert not theirs.state
    assert not theirs.dependency_overrides
    assert all(middleware.broker is theirs for middleware in theirs.middlewares)
    with pytest.raises(SendTaskError) as caught:
        asyncio.run(scenario())
    assert isinstance(caught.value.__cause__, ReachedError)


@ON_MEMORY
def test_adoptions_that_cannot_be(flow_broker: FlowBroker) -> None:
    for thing in ("newsletter.broker:broker", pytest, ProductionBroker, None):
        with pytest.raises(TypeError, match=rf"was given {re.escape(repr(thing))}, a \w+: it wants objects of taskiq"):
            flow_broker.adopt(theirs, thing)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="was given nothing"):
        flow_broker.adopt()
    assert type(theirs) is ProductionBroker, "nothing was adopted"
    flow_broker.adopt(theirs)
    for broker in (theirs, flow_broker):
        with pytest.raises(ConfigurationError, match="adopted already"):
            flow_broker.adopt(broker)

    async def scenario() -> None:
        await greet.kiq("world")
        with pytest.raises(ConfigurationError, match="before the first task is sent"):
            flow_broker.adopt(ProductionBroker())

    asyncio.run(scenario())


# --- two brokers ------------------------------------------------------------------------------------------------------


def two_brokers(*middlewares: TaskiqMiddleware) -> tuple[AsyncBroker, AsyncBroker]:
    """Return two brokers with one middleware each."""
    one, two = (ProductionBroker().with_middlewares(middleware) for middleware in middlewares)
    return one, two


@ON_MEMORY
async def test_a_message_meets_the_middlewares_of_its_broker(flow_broker: FlowBroker) -> None:
    seen: list[str] = []
    one, two = two_brokers(Noted("one ", seen), Noted("two ", seen))
    tasks = [broker.register_task(lambda: None, task_name=name) for name, broker in (("a", one), ("b", two))]
    flow_broker.add_middlewares(Noted("test ", seen))
    flow_broker.adopt(one, two)
    for task in tasks:
        await task.kiq()
    await flow_broker.drain()
    assert sorted(seen) == ["one runs a", "one sends a", "two runs b", "two sends b"]


@ON_MEMORY
async def test_one_middleware_of_two_brokers_sees_each_message_once(flow_broker: FlowBroker) -> None:
    shared = Noted()
    one, two = two_brokers(shared, shared)
    tasks = [broker.register_task(lambda: None, task_name=name) for name, broker in (("a", one), ("b", two))]
    flow_broker.adopt(one)
    flow_broker.adopt(two)
    for task in tasks:
        await task.kiq()
    await flow_broker.drain()
    assert sorted(shared.seen) == ["runs a", "runs b", "sends a", "sends b"]


@ON_MEMORY
@pytest.mark.parametrize("kind", ["of one broker", "of its own each", "shared"])
async def test_retries_of_two_brokers_do_not_multiply(
    flow_broker: FlowBroker, frozen_clock: FrozenClock, kind: str
) -> None:
    def retry() -> SmartRetryMiddleware:
        return SmartRetryMiddleware(default_retry_count=5, default_retry_label=True, default_delay=1, use_jitter=True)

    shared = retry()
    middlewares = {"of one broker": [retry()], "of its own each": [retry(), retry()], "shared": [shared, shared]}[kind]
    brokers = [ProductionBroker().with_middlewares(each) for each in middlewares]
    runs: list[int] = []

    @brokers[0].task(task_name="fails")
    async def fails() -> None:
        runs.append(1)
        raise ValueError

    flow_broker.adopt(*brokers)
    await fails.kiq()
    await frozen_clock.advance(100)
    assert len(runs) == 5


@ON_MEMORY
async def test_a_name_means_the_task_of_the_broker_that_sent_it(flow_broker: FlowBroker) -> None:
    brokers = [ProductionBroker(), ProductionBroker(), flow_broker]
    ran: list[int] = []
    tasks = [
        broker.register_task(lambda number=number: ran.append(number), task_name="same")
        for number, broker in enumerate(brokers)
    ]
    flow_broker.adopt(*brokers[:2])
    for task in reversed(tasks):
        await task.kiq()
        await flow_broker.drain()
    assert ran == [2, 1, 0]


class Shouting(TaskiqFormatter):
    """A format of an application's own."""

    def dumps(self, message: TaskiqMessage) -> BrokerMessage:
        text = json.dumps(message.model_dump(mode="json"))
        return BrokerMessage(
            task_id=message.task_id, task_name=message.task_name, message=b"!" + text.encode(), labels=message.labels
        )

    def loads(self, message: bytes) -> TaskiqMessage:
        assert message.startswith(b"!")
        return TaskiqMessage.model_validate_json(message[1:])


@ON_MEMORY
async def test_each_broker_has_its_own_serializer_formatter_and_ids(flow_broker: FlowBroker) -> None:
    pickling = ProductionBroker().with_serializer(PickleSerializer()).with_id_generator(lambda: "pickled")
    shouting = ProductionBroker().with_formatter(Shouting()).with_id_generator(lambda: "shouted")
    plain = ProductionBroker().with_serializer(JSONSerializer())
    ran: list[Any] = []

    def note(number: int) -> None:
        ran.append(number)

    tasks = [broker.register_task(note, task_name="note") for broker in (pickling, shouting, plain)]
    flow_broker.adopt(pickling, shouting, plain)
    sent = [await task.kiq(number) for number, task in enumerate(tasks)]
    await flow_broker.drain()
    assert sorted(ran) == [0, 1, 2]
    assert [task.task_id for task in sent[:2]] == ["pickled", "shouted"]


@ON_MEMORY
async def test_each_broker_has_its_own_state_and_dependencies(flow_broker: FlowBroker) -> None:
    brokers = []
    for name in ("one", "two"):
        broker = ProductionBroker()
        broker.add_dependency_context({Service: Service(name)})

        @broker.on_event(TaskiqEvents.CLIENT_STARTUP)
        def connect(state: TaskiqState, name: str = name) -> None:
            state.name = f"state of {name}"

        @broker.task(task_name="which")
        async def which(
            service: Service = TaskiqDepends(Service),
            state: TaskiqState = TaskiqDepends(TaskiqState),
            context: Context = TaskiqDepends(),
        ) -> list[Any]:
            return [service.name, state.name, context.broker.is_worker_process]

        brokers.append(broker)
    flow_broker.adopt(*brokers)
    for broker, name in zip(brokers, ("one", "two"), strict=True):
        task = broker.find_task("which")
        assert task is not None
        sent = await task.kiq()
        await flow_broker.drain()
        assert (await sent.get_result()).return_value == [name, f"state of {name}", True]


# --- as a worker ------------------------------------------------------------------------------------------------------


def noting(events: list[str], event: str, _state: TaskiqState) -> None:
    events.append(event)


@ON_MEMORY
def test_handlers_run_once_each_however_often_it_is_started(flow_broker: FlowBroker) -> None:
    broker = ProductionBroker()
    events: list[str] = []
    for event in (
        TaskiqEvents.CLIENT_STARTUP,
        TaskiqEvents.WORKER_STARTUP,
        TaskiqEvents.CLIENT_SHUTDOWN,
        TaskiqEvents.WORKER_SHUTDOWN,
    ):
        broker.add_event_handler(event, partial(noting, events, event.value))
    work = broker.register_task(lambda: events.append("work"), task_name="work")

    async def scenario() -> None:
        await broker.startup()
        await work.kiq()
        await broker.startup()
        await flow_broker.drain()
        await broker.shutdown()

    flow_broker.adopt(broker)
    asyncio.run(scenario())
    asyncio.run(scenario())
    started = [TaskiqEvents.CLIENT_STARTUP.value, TaskiqEvents.WORKER_STARTUP.value]
    assert events == [*started, "work", "work"]
    flow_broker.close_from_outside()
    assert events[4:] == [TaskiqEvents.CLIENT_SHUTDOWN.value, TaskiqEvents.WORKER_SHUTDOWN.value]


@ON_MEMORY
async def test_a_startup_may_start_its_broker_and_send(flow_broker: FlowBroker) -> None:
    broker, ran = ProductionBroker(), []

    @broker.task(task_name="work")
    def work(when: str) -> None:
        ran.append(when)

    @broker.on_event(TaskiqEvents.WORKER_STARTUP)
    async def starting(_state: TaskiqState) -> None:
        await broker.startup()
        await work.kiq("at startup")
        assert ran == [], "a worker begins when it has started"

    flow_broker.adopt(broker)
    await work.kiq("later")
    await flow_broker.drain()
    assert sorted(ran) == ["at startup", "later"]


@ON_MEMORY
async def test_methods_that_an_application_overrides_still_run(flow_broker: FlowBroker) -> None:
    calls: list[str] = []

    class Own(ProductionBroker):
        async def startup(self) -> None:
            calls.append("startup")
            await super().startup()

        async def kick(self, message: BrokerMessage) -> None:
            calls.append(f"kick {message.task_name}")
            await super().kick(message)

    # What an application wrote on top of a library's class runs; here, the first of its own classes is the library.
    broker = Own()
    work = broker.register_task(lambda: calls.append("work"), task_name="work")
    flow_broker.adopt(broker)
    await work.kiq()
    await flow_broker.drain()
    assert calls == ["kick work", "startup", "work"]


def test_monkeypatch_replaces_a_method_of_an_adopted_broker(inner: InnerRun) -> None:
    code = """
        import pytest
        from taskiq import SendTaskError
        from taskiq.result_backends.dummy import DummyResultBackend
        from tests.plugin.broker.application import ProductionBroker

        broker = ProductionBroker()
        before = dict(vars(broker))
        work = broker.register_task(lambda: None, task_name="work")

        async def away(*arguments):
            raise ConnectionError("away")

        async def replaced(flow_broker, monkeypatch):
            flow_broker.adopt(broker)
            monkeypatch.setattr(broker, "kick", away)
            monkeypatch.setattr(broker, "result_backend", DummyResultBackend())
            with pytest.raises(SendTaskError):
                await work.kiq()

        async def test_monkeypatch_first(monkeypatch, flow_broker):
            await replaced(flow_broker, monkeypatch)

        async def test_flow_broker_first(flow_broker, monkeypatch):
            assert vars(broker) == before
            await replaced(flow_broker, monkeypatch)

        async def test_by_hand(flow_broker):
            assert vars(broker) == before
            flow_broker.adopt(broker)
            broker.kick = away

        def test_afterwards():
            assert vars(broker) == before
            assert type(broker) is ProductionBroker
    """
    inner(code, "--storage-backends=memory").assert_outcomes(passed=4)


@ON_MEMORY
@pytest.mark.parametrize("whose", ["adopted", "test"])
async def test_in_place_a_task_is_over_when_it_is_sent(flow_broker: FlowBroker, whose: str) -> None:
    broker: AsyncBroker = InMemoryBroker(await_inplace=True) if whose == "adopted" else ProductionBroker()
    ran: list[str] = []

    @broker.task(task_name="inner")
    async def inner() -> None:
        await asyncio.sleep(0)
        ran.append("inner")

    @broker.task(task_name="outer")
    async def outer() -> None:
        await inner.kiq()
        ran.append("outer")

    flow_broker.adopt(broker)
    flow_broker.await_inplace = whose == "test"
    task = await outer.kiq()
    assert ran == ["inner", "outer"]
    assert not (await task.get_result()).is_err


@ON_MEMORY
async def test_an_adopted_in_memory_broker_waits_for_its_tasks(flow_broker: FlowBroker) -> None:
    broker, ran = InMemoryBroker(), []

    @broker.task(task_name="work")
    async def work() -> None:
        await asyncio.sleep(0.01)
        ran.append("work")

    flow_broker.adopt(broker)
    await work.kiq()
    await broker.wait_all()
    assert ran == ["work"]


@ON_MEMORY
@pytest.mark.parametrize("has_default", [False, True])
async def test_shared_tasks_run_on_the_broker_that_they_are_shared_with(
    flow_broker: FlowBroker, has_default: bool
) -> None:
    shared, seen = AsyncSharedBroker(), Noted()
    broker = ProductionBroker().with_middlewares(seen)
    if has_default:
        shared.default_broker(broker)

    @shared.task(task_name="shared:double")
    async def double(number: int) -> int:
        return 2 * number

    try:
        flow_broker.adopt(shared)
        task = await double.kiq(4)
        await flow_broker.drain()
        assert (await task.get_result()).return_value == 8
        assert seen.seen == (["sends shared:double", "runs shared:double"] if has_default else [])
    finally:
        AsyncBroker.global_task_registry.pop("shared:double")


@ON_MEMORY
def test_a_shared_broker_has_its_default_again(flow_broker: FlowBroker) -> None:
    flow_broker.adopt(async_shared_broker)
    assert async_shared_broker._default_broker is flow_broker
    flow_broker.close_from_outside()
    assert async_shared_broker._default_broker is None


@ON_MEMORY
async def test_workers_share_the_messages_of_adopted_brokers(flow_broker: FlowBroker) -> None:
    seen: list[str] = []
    one, two = two_brokers(Noted("one ", seen), Noted("two ", seen))
    used: set[int] = set()

    async def where(context: Context = TaskiqDepends()) -> None:
        used.add(id(context.broker))

    tasks = [broker.register_task(where, task_name="where") for broker in (one, two)]
    flow_broker.adopt(one, two)
    async with flow_broker.workers(2):
        for _ in range(2):
            for task in tasks:
                await task.kiq()
                await task.kiq()
    assert len(used) == 4, "two workers, each with a broker for each"
    assert sorted(set(seen)) == ["one runs where", "one sends where", "two runs where", "two sends where"]
    assert len(seen) == 16
