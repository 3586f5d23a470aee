"""The whole application is adopted: nothing that it is connected to is touched."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from shop import tasks
from shop.app import app
from shop.brokers import mails, outbox
from shop.payments import Payments, PaymentsUnavailableError
from shop.scheduler import scheduler

from taskiq_flow.pytest_plugin import FlowBroker


@pytest.fixture
def shop(flow_broker: FlowBroker) -> FlowBroker:
    """The application's brokers, sources and result backends, on the test's storage."""
    outbox.mailed.clear()
    tasks.counted.clear()
    # The scheduler brings its broker, which brings its result backend, and its sources.
    flow_broker.adopt(scheduler, mails)
    return flow_broker


@pytest.fixture
def client(shop: FlowBroker) -> Iterator[TestClient]:
    """A web client, with the application's lifespan around it."""
    with TestClient(app) as client:
        yield client


@pytest.fixture
def outages(monkeypatch: pytest.MonkeyPatch) -> list[PaymentsUnavailableError]:
    """What the service for payments answers, before it works again."""
    answers: list[PaymentsUnavailableError] = []
    take = Payments.take

    async def take_at_last(self: Payments, order_id: str, cents: int) -> None:
        if answers:
            raise answers.pop()
        await take(self, order_id, cents)

    monkeypatch.setattr(Payments, "take", take_at_last)
    return answers
