"""What becomes of an order while its storage has a bad day; each test runs on every storage."""

from typing import Any

import pytest
from orders.processing import finished_orders, order_pipeline
from orders.stock import StockService

from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.pytest_plugin.faults import StorageFaults
from taskiq_flow.result_backend import StorageResultBackend
from taskiq_flow.storage import BaseStorageAdapter

COFFEE = {"id": "order-1", "lines": [{"sku": "coffee", "quantity": 1}]}


async def test_an_order_survives_a_lost_connection(
    broker: FlowBroker, stock: StockService, storage_adapter: BaseStorageAdapter, storage_faults: StorageFaults
) -> None:
    task = await order_pipeline(broker, "order-1").kiq(COFFEE)
    storage_faults.disconnect()
    result = await task.wait_result(check_interval=0.01, timeout=10)
    assert result.return_value == {"lines": 1, "cents": 890}
    await broker.drain()
    storage_faults.disconnect()
    assert await finished_orders(storage_adapter) == ["order-1"]


class TestStorageIsGone:
    @pytest.fixture
    def flow_result_backend(self, storage_adapter: BaseStorageAdapter) -> StorageResultBackend[Any]:
        """Give up at once; else it would be tried for five seconds."""
        return StorageResultBackend(storage_adapter, retry_for=0)

    @pytest.mark.flow_broker(loses="StorageConnectionError|storage_faults")
    async def test_an_order_does_not_survive_it(
        self, broker: FlowBroker, stock: StockService, storage_faults: StorageFaults
    ) -> None:
        storage_faults.fail("set", times=None)
        task = await order_pipeline(broker, "order-1").kiq(COFFEE)
        await broker.drain()
        assert not await task.is_ready()
        assert stock.stock["coffee"] == 20, "nothing is reserved for an order of which nobody knows"
