"""Adopted result backends: the same objects, which answer from the test's storage, by their own settings."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import taskiq_redis.exceptions
from taskiq import AsyncResultBackend, ResultGetError
from taskiq.brokers.inmemory_broker import InmemoryResultBackend
from taskiq.depends.progress_tracker import TaskProgress, TaskState
from taskiq_redis import RedisAsyncResultBackend

from taskiq_flow.clock import FrozenClock
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.result_backend import ResultIsMissingError, StorageResultBackend
from tests.plugin.broker.application import ProductionBroker, ProductionResults, ProductionStorage

pytestmark = pytest.mark.storage_backends("memory", "sqlite")

NOWHERE = "redis://production.invalid"
BACKENDS: dict[str, Callable[..., AsyncResultBackend[Any]]] = {
    "Redis": lambda **settings: RedisAsyncResultBackend(NOWHERE, **settings),
    "in memory": lambda **_: InmemoryResultBackend(),
    "the kit's": lambda **settings: StorageResultBackend(ProductionStorage(), **settings),
    "the application's own": ProductionResults,
}


async def run(flow_broker: FlowBroker, backend: AsyncResultBackend[Any]) -> Any:
    """Adopt a broker with this backend, let a task return something, and return what its sender got."""
    broker = ProductionBroker().with_result_backend(backend)

    @broker.task(task_name="answer")
    async def answer() -> int:
        return 42

    flow_broker.adopt(broker)
    sent = await answer.kiq()
    await flow_broker.drain()
    return sent


@pytest.mark.parametrize("kind", BACKENDS)
async def test_a_result_backend_answers_from_the_tests_storage(flow_broker: FlowBroker, kind: str) -> None:
    backend = BACKENDS[kind]()
    sent = await run(flow_broker, backend)
    assert await backend.is_result_ready(sent.task_id)
    assert (await backend.get_result(sent.task_id)).return_value == 42
    assert (await sent.get_result()).return_value == 42
    await backend.set_progress(sent.task_id, TaskProgress(state=TaskState.STARTED, meta="half"))
    progress = await backend.get_progress(sent.task_id)
    assert progress is not None
    assert progress.meta == "half"
    await backend.shutdown()


def test_in_the_end_a_result_backend_is_as_it_was(flow_broker: FlowBroker) -> None:
    backends = [make() for make in BACKENDS.values()]
    before = [{**vars(backend), "class": type(backend)} for backend in backends]
    flow_broker.adopt(*backends)
    assert all(isinstance(backend, each["class"]) for backend, each in zip(backends, before, strict=True))
    flow_broker.close_from_outside()
    assert [{**vars(backend), "class": type(backend)} for backend in backends] == before


async def test_result_backends_are_apart(flow_broker: FlowBroker) -> None:
    one, two = RedisAsyncResultBackend[Any](NOWHERE), RedisAsyncResultBackend[Any](NOWHERE)
    flow_broker.adopt(two)
    sent = await run(flow_broker, one)
    assert [await backend.is_result_ready(sent.task_id) for backend in (one, two)] == [True, False]


@pytest.mark.parametrize("settings", [{"result_ex_time": 60}, {"result_px_time": 60_000}])
async def test_results_live_as_long_as_their_backend_says(
    flow_broker: FlowBroker, frozen_clock: FrozenClock, settings: dict[str, int]
) -> None:
    sent = await run(flow_broker, RedisAsyncResultBackend(NOWHERE, **settings))  # type: ignore[arg-type]
    frozen_clock.tick(59.999)
    assert await sent.is_ready()
    frozen_clock.tick(0.001)
    assert not await sent.is_ready()


async def test_results_that_are_not_kept_are_read_once(flow_broker: FlowBroker) -> None:
    sent = await run(flow_broker, RedisAsyncResultBackend(NOWHERE, keep_results=False))
    await sent.get_result()
    assert not await sent.is_ready()


class OtherLibraryError(Exception):
    """What another library's ``ResultIsMissingError`` is."""


def backend_of_a_library(error: type[Exception] | None) -> AsyncResultBackend[Any]:
    """Return a backend from a module that raises this error."""
    import sys

    module = sys.modules["taskiq_of_a_test"] = ModuleType("taskiq_of_a_test")
    if error is not None:
        vars(module)["ResultIsMissingError"] = error
    kind = type("Results", (ProductionResults,), {"__module__": module.__name__})
    made: AsyncResultBackend[Any] = kind()
    return made


@pytest.mark.parametrize(
    ("make", "errors"),
    [
        (BACKENDS["Redis"], [taskiq_redis.exceptions.ResultIsMissingError, ResultGetError]),
        (BACKENDS["in memory"], [KeyError, ResultGetError]),
        (lambda: backend_of_a_library(OtherLibraryError), [OtherLibraryError, ResultGetError]),
        (lambda: backend_of_a_library(None), [ResultGetError]),
        (BACKENDS["the kit's"], [ResultGetError]),
    ],
    ids=["Redis", "in memory", "another library's", "an unknown library's", "the kit's"],
)
async def test_a_missing_result_is_the_error_that_an_application_catches(
    flow_broker: FlowBroker, make: Callable[[], AsyncResultBackend[Any]], errors: list[type[Exception]]
) -> None:
    backend = make()
    flow_broker.adopt(backend)
    expected: list[type[Exception]] = [ResultIsMissingError, *errors]
    for error in expected:
        with pytest.raises(error, match="there is no result for task no-such-id"):
            await backend.get_result("no-such-id")
