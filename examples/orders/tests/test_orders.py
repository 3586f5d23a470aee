"""What the application promises about its orders; each test runs on every storage."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from orders.processing import finished_orders, order_pipeline
from orders.stock import StockService, StockServiceError
from orders.tasks import InvalidOrderError, quote

from taskiq_flow.clock import FrozenClock
from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.storage import BaseStorageAdapter, StorageAdapterFactory

BREAKFAST = {
    "id": "order-1",
    "lines": [
        {"sku": "tea", "quantity": 2},
        {"sku": "pot", "quantity": 1},  # out of stock
        {"sku": "cup", "quantity": 3},
    ],
}


async def finish(broker: FlowBroker, order: dict[str, Any]) -> Any:
    """Send an order through the shop and return its end result, once all that it leaves behind is stored."""
    task = await order_pipeline(broker, order["id"]).kiq(order)
    result = await task.wait_result(check_interval=0.01, timeout=10)
    await broker.wait_all()
    return result


async def test_order_is_priced_and_added_up(broker: FlowBroker) -> None:
    result = await finish(broker, BREAKFAST)
    assert result.return_value == {"lines": 2, "cents": 2 * 450 + 3 * 1290}


async def test_stock_is_reserved_once(broker: FlowBroker, stock: StockService) -> None:
    await finish(broker, BREAKFAST)
    assert stock.stock == {"tea": 98, "coffee": 20, "cup": 0, "pot": 0}


async def test_every_task_of_the_run_is_stored(broker: FlowBroker, storage_adapter: BaseStorageAdapter) -> None:
    await finish(broker, BREAKFAST)
    records = [await storage_adapter.get(key) for key in await storage_adapter.keys("pipeline:order-1:*")]
    names = sorted(record["task_name"] for record in records if record)
    assert names == [
        "orders:in_stock",
        "orders:in_stock",
        "orders:in_stock",
        "orders:price",
        "orders:price",
        "orders:price",
        "orders:reserve",
        "orders:total",
        "orders:validate",
        "taskiq_pipelines.shared.filter_tasks",
        "taskiq_pipelines.shared.wait_tasks",
    ]


async def test_two_orders_at_once_stay_apart(broker: FlowBroker, storage_adapter: BaseStorageAdapter) -> None:
    coffee = {"id": "order-2", "lines": [{"sku": "coffee", "quantity": 1}]}
    first, second = await asyncio.gather(finish(broker, BREAKFAST), finish(broker, coffee))
    assert (first.return_value["cents"], second.return_value["cents"]) == (4770, 890)
    assert await finished_orders(storage_adapter) == ["order-1", "order-2"]
    assert len(await storage_adapter.keys("pipeline:order-2:*")) == 7


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([], "order order-3 has no lines"),
        ([{"sku": "elephant", "quantity": 1}], "order order-3 asks for 1 of 'elephant'"),
        ([{"sku": "tea", "quantity": 0}], "order order-3 asks for 0 of 'tea'"),
    ],
)
async def test_invalid_order_fails_and_its_reason_is_kept(
    broker: FlowBroker, storage_adapter: BaseStorageAdapter, lines: list[dict[str, Any]], complaint: str
) -> None:
    result = await finish(broker, {"id": "order-3", "lines": lines})
    assert isinstance(result.error, InvalidOrderError)

    (key,) = await storage_adapter.keys("pipeline:order-3:*")
    stored = await broker.storage_middleware.load(key.rpartition(":")[2], "order-3")
    assert stored is not None
    assert stored.is_err
    assert isinstance(stored.error, InvalidOrderError)
    assert str(stored.error) == complaint


async def test_reservation_is_tried_again(broker: FlowBroker, stock: StockService, monkeypatch: Any) -> None:
    reserve, failures = stock.reserve, [StockServiceError("busy"), StockServiceError("still busy")]

    def reserve_at_last(sku: str, quantity: int) -> None:
        if failures:
            raise failures.pop()
        reserve(sku, quantity)

    monkeypatch.setattr(stock, "reserve", reserve_at_last)
    result = await finish(broker, BREAKFAST)
    assert result.return_value == {"lines": 2, "cents": 4770}
    assert stock.stock["cup"] == 0


async def test_service_that_stays_away_fails_the_order(
    broker: FlowBroker, stock: StockService, monkeypatch: Any
) -> None:
    def refuse(sku: str, quantity: int) -> None:
        raise StockServiceError(f"no answer about {quantity} of {sku!r}")

    monkeypatch.setattr(stock, "reserve", refuse)
    result = await finish(broker, BREAKFAST)
    assert isinstance(result.error, StockServiceError)


async def test_quote_stands_for_a_quarter_of_an_hour(
    broker: FlowBroker, storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock
) -> None:
    task = await quote.kiq("tea", 3)
    await broker.wait_all()
    key = f"task:{task.task_id}"
    frozen_clock.tick(15 * 60 - 0.001)
    record = await storage_adapter.get(key)
    assert record is not None
    assert record["result"] == {"cents": 1350}
    frozen_clock.tick(0.001)
    assert await storage_adapter.get(key) is None
    assert await storage_adapter.cleanup() == 1


async def test_orders_are_kept_for_good(
    broker: FlowBroker, storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock
) -> None:
    await finish(broker, BREAKFAST)
    frozen_clock.tick(365 * 24 * 60 * 60)
    assert await storage_adapter.cleanup() == 0
    assert await finished_orders(storage_adapter) == ["order-1"]


async def test_another_worker_sees_the_order(
    broker: FlowBroker, make_storage_adapter: Callable[..., BaseStorageAdapter]
) -> None:
    await finish(broker, BREAKFAST)
    assert await finished_orders(make_storage_adapter()) == ["order-1"]


async def test_the_applications_own_settings_lead_to_the_same_storage(
    broker: FlowBroker, storage_config: TaskiqFlowConfig
) -> None:
    await finish(broker, BREAKFAST)
    async with StorageAdapterFactory.create_storage_adapter(storage_config) as storage:
        assert await finished_orders(storage) == ["order-1"]
