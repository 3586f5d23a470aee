"""The application's tests run its tasks on the kit's broker."""

from collections.abc import Iterator

import pytest
from orders.stock import StockService
from taskiq import SimpleRetryMiddleware, async_shared_broker

from taskiq_flow.pytest_plugin.broker import FlowBroker


@pytest.fixture
def stock(flow_broker: FlowBroker) -> StockService:
    """The stock service that the tasks are given."""
    service = StockService()
    flow_broker.add_dependency_context({StockService: service})
    return service


@pytest.fixture
def broker(flow_broker: FlowBroker, stock: StockService) -> Iterator[FlowBroker]:
    """The application's tasks, on a broker of this test's own."""
    flow_broker.add_middlewares(SimpleRetryMiddleware())
    async_shared_broker.default_broker(flow_broker)
    yield flow_broker
    async_shared_broker._default_broker = None  # taskiq has no public way to take it back
