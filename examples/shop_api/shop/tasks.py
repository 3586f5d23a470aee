"""What the shop does after the customer has left."""

from datetime import UTC, datetime, timedelta

from fastapi import Request
from taskiq import TaskiqDepends

from shop.brokers import mails, orders, reminders

REVIEW_AFTER = timedelta(days=3)

counted: list[datetime] = []
"""When the stock was counted."""


@orders.task(task_name="shop:charge", retry_on_error=True)
async def charge(order_id: str, customer: str, cents: int, request: Request = TaskiqDepends()) -> dict[str, object]:
    """Take the money, tell the customer, and ask for a review some days later."""
    await request.app.state.payments.take(order_id, cents)
    await confirm.kiq(customer, order_id)
    await ask_for_review.schedule_by_time(reminders, datetime.now(UTC) + REVIEW_AFTER, customer, order_id)
    return {"order": order_id, "paid": cents}


@orders.task(task_name="shop:count_stock", schedule=[{"cron": "0 3 * * *"}])
async def count_stock() -> None:
    """Count what is left, each night at three."""
    counted.append(datetime.now(UTC))


@orders.task(task_name="shop:ask_for_review")
async def ask_for_review(customer: str, order_id: str) -> None:
    """Ask a customer whether all is well."""
    await review.kiq(customer, order_id)


@mails.task(task_name="mail:confirm")
async def confirm(customer: str, order_id: str) -> str:
    """Mail that an order was paid."""
    return f"Dear {customer}, your order {order_id} is paid."


@mails.task(task_name="mail:review")
async def review(customer: str, order_id: str) -> str:
    """Mail a question about an order."""
    return f"Dear {customer}, how do you like what came with order {order_id}?"
