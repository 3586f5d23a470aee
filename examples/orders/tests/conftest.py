"""The application's tests run its tasks on the kit's broker."""

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
def broker(flow_broker: FlowBroker, stock: StockService) -> FlowBroker:
    """The application's tasks, on a broker of this test's own."""
    flow_broker.add_middlewares(SimpleRetryMiddleware())
    flow_broker.adopt(async_shared_broker)
    return flow_broker
