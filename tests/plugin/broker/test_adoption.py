"""``adopt``: an application's own broker runs its tasks on the test's broker, and is as it was in the end."""

import asyncio
import re
from collections.abc import AsyncGenerator

import pytest
from taskiq import (
    AsyncBroker,
    BrokerMessage,
    SendTaskError,
    TaskiqDepends,
    TaskiqEvents,
    TaskiqMessage,
    TaskiqMiddleware,
    TaskiqState,
)
from taskiq.brokers.inmemory_broker import InmemoryResultBackend
from taskiq.serializers import JSONSerializer

from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.middlewares import CacheMiddleware, PipelineMiddleware, StorageMiddleware
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.storage import BaseStorageAdapter, InMemoryStorageAdapter, StorageEntry


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
