"""The web application: `uvicorn shop.app:app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from taskiq_redis.exceptions import ResultIsMissingError

from shop.brokers import mails, orders, results
from shop.payments import Payments
from shop.tasks import charge


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connect, in the web process and in each worker."""
    app.state.payments = Payments()
    if not orders.is_worker_process:
        await orders.startup()
        await mails.startup()
    yield
    if not orders.is_worker_process:
        await mails.shutdown()
        await orders.shutdown()


app = FastAPI(lifespan=lifespan)


class Order(BaseModel):
    """What a customer orders."""

    id: str
    customer: str
    cents: int


@app.post("/orders", status_code=202)
async def place(order: Order) -> dict[str, str]:
    """Take an order; the customer does not wait for the payment."""
    task = await charge.kiq(order.id, order.customer, order.cents)
    return {"status": f"/orders/{task.task_id}"}


@app.get("/orders/{task_id}")
async def status(task_id: str) -> dict[str, object]:
    """Say what became of an order."""
    try:
        result = await results.get_result(task_id)
    except ResultIsMissingError:
        raise HTTPException(404, "not yet, or more than an hour ago") from None
    if result.error is not None:
        raise HTTPException(402, str(result.error))
    return result.return_value
