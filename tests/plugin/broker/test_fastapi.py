"""An application of FastAPI with taskiq-fastapi: its tasks depend on the request, in the test as in the worker."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import freezegun
import httpx
import pytest
import taskiq_fastapi
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from starlette.requests import HTTPConnection
from taskiq import AsyncBroker, AsyncTaskiqDecoratedTask, TaskiqDepends

from taskiq_flow.pytest_plugin.broker import FlowBroker
from tests.plugin.broker.application import ProductionBroker

pytestmark = pytest.mark.storage_backends("memory")

BY_PATH = "taskiq_flow_example_of_a_test"


class Application:
    """A broker and an app, as a module of an application has them."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.broker: AsyncBroker = ProductionBroker()
        self.app = FastAPI(lifespan=self.lifespan)
        self.app.post("/which")(self.endpoint)
        self.which: AsyncTaskiqDecoratedTask[..., Any] = self.broker.register_task(which, task_name="which")

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[dict[str, str]]:
        self.log.append("begins")
        app.state.database = "database"
        await self.broker.startup()
        yield {"given": "lifespan"}
        await self.broker.shutdown()
        self.log.append("ends")

    async def endpoint(self) -> str:
        return (await self.which.kiq()).task_id


async def which(request: Request = TaskiqDepends(), connection: HTTPConnection = TaskiqDepends()) -> list[str]:
    return [request.app.state.database, connection.app.state.database, request.state.given]


EXPECTED = ["database", "database", "lifespan"]


@pytest.fixture
def application(flow_broker: FlowBroker, monkeypatch: pytest.MonkeyPatch) -> Application:
    """An application that a test has adopted; taskiq-fastapi imports it by path."""
    made = Application()
    module = ModuleType(BY_PATH)
    vars(module)["app"] = made.app
    monkeypatch.setitem(sys.modules, BY_PATH, module)
    taskiq_fastapi.init(made.broker, f"{BY_PATH}:app")
    flow_broker.adopt(made.broker)
    return made


async def result_of(flow_broker: FlowBroker, task_id: str) -> Any:
    await flow_broker.drain()
    result = await flow_broker.result_backend.get_result(task_id)
    assert result.error is None
    return result.return_value


async def test_tasks_depend_on_the_request(flow_broker: FlowBroker, application: Application) -> None:
    sent = await application.which.kiq()
    assert await result_of(flow_broker, sent.task_id) == EXPECTED
    assert application.log == ["begins"], "the worker's lifespan ends with the test"


def test_the_lifespan_of_the_worker_ends_with_the_test(flow_broker: FlowBroker, application: Application) -> None:
    TestClient(application.app).post("/which")
    assert application.log == ["begins"]
    flow_broker.close_from_outside()
    assert application.log == ["begins", "ends"]
    assert not application.broker.dependency_overrides


async def test_a_synchronous_client_and_its_lifespan(flow_broker: FlowBroker, application: Application) -> None:
    with TestClient(application.app) as client:
        task_id = client.post("/which").json()
    assert await result_of(flow_broker, task_id) == EXPECTED
    assert application.log == ["begins", "begins", "ends"], "one in the web process, one in the worker"


async def test_an_asynchronous_client(flow_broker: FlowBroker, application: Application) -> None:
    transport = httpx.ASGITransport(application.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app.example") as client:
        task_id = (await client.post("/which")).json()
    assert await result_of(flow_broker, task_id) == EXPECTED


async def test_startup_sees_the_real_time(flow_broker: FlowBroker) -> None:
    seen: list[datetime] = []

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        import datetime as imported_at_startup

        seen.append(imported_at_startup.datetime.now(UTC))
        assert "Fake" not in imported_at_startup.datetime.__name__
        yield

    broker = ProductionBroker()
    taskiq_fastapi.init(broker, FastAPI(lifespan=lifespan))
    flow_broker.adopt(broker)
    with freezegun.freeze_time("2050-01-01", real_asyncio=True):
        await broker.startup()
        assert datetime.now(UTC).year == 2050
    assert seen[0].year < 2050
