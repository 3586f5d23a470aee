"""The tasks. They are shared: each process gives them the broker that it runs on."""

from typing import Any

from taskiq import TaskiqDepends, async_shared_broker

from orders.stock import PRICES, StockService

Line = dict[str, Any]
"""One line of an order: ``sku``, ``quantity``, and once it is priced, ``cents``."""


class InvalidOrderError(Exception):
    """The order cannot be processed; the message says why."""


@async_shared_broker.task(task_name="orders:validate")
def validate(order: dict[str, Any]) -> list[Line]:
    """Return the lines of an order that makes sense."""
    lines: list[Line] = order.get("lines", [])
    if not lines:
        raise InvalidOrderError(f"order {order.get('id')} has no lines")
    for line in lines:
        if line["sku"] not in PRICES or line["quantity"] < 1:
            raise InvalidOrderError(f"order {order.get('id')} asks for {line['quantity']} of {line['sku']!r}")
    return lines


@async_shared_broker.task(task_name="orders:price")
def price(line: Line) -> Line:
    """Return a line with what it costs."""
    return {**line, "cents": PRICES[line["sku"]] * line["quantity"]}


@async_shared_broker.task(task_name="orders:in_stock")
def in_stock(line: Line, stock: StockService = TaskiqDepends()) -> bool:
    """Return whether a line can be delivered."""
    return stock.has(line["sku"], line["quantity"])


@async_shared_broker.task(task_name="orders:reserve", retry_on_error=True, max_retries=3)
async def reserve(lines: list[Line], stock: StockService = TaskiqDepends()) -> list[Line]:
    """Put all lines aside; tried again where the stock service does not answer."""
    for line in lines:
        stock.reserve(line["sku"], line["quantity"])
    return lines


@async_shared_broker.task(task_name="orders:total")
def total(lines: list[Line]) -> dict[str, int]:
    """Return how many lines are delivered, and what they cost in cents."""
    return {"lines": len(lines), "cents": sum(line["cents"] for line in lines)}


@async_shared_broker.task(task_name="orders:quote", storage_ttl=15 * 60)
def quote(sku: str, quantity: int) -> dict[str, int]:
    """Return an offer, which stands for a quarter of an hour: so long is its result kept."""
    return {"cents": PRICES[sku] * quantity}
