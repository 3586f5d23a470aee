"""How an order goes through the shop."""

from typing import Any

from taskiq import AsyncBroker

from orders.tasks import in_stock, price, reserve, total, validate
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.storage import BaseStorageAdapter


def order_pipeline(broker: AsyncBroker, order_id: str) -> Pipeline[Any, Any]:
    """Return the pipeline of an order: validate, price each line, keep those in stock, reserve them, add up."""
    return (
        Pipeline(broker, validate, pipeline_id=order_id)
        .map(price, check_interval=0.02)
        .filter(in_stock, check_interval=0.02)
        .call_next(reserve)
        .call_next(total)
    )


async def finished_orders(storage: BaseStorageAdapter) -> list[str]:
    """Return the ids of the orders of which something is stored."""
    return sorted({key.split(":")[1] for key in await storage.keys("pipeline:*")})
