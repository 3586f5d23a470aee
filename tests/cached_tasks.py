"""What the tests of ``CacheMiddleware`` share."""

from typing import Any

import pytest
from taskiq import AsyncTaskiqTask, TaskiqResult

from taskiq_flow.pytest_plugin.broker import FlowBroker

memory_only = pytest.mark.storage_backends("memory")


class OutOfStockError(Exception):
    def __init__(self, sku: str) -> None:
        super().__init__(f"{sku} is out of stock")
        self.sku = sku


async def end(broker: FlowBroker, task: AsyncTaskiqTask[Any]) -> TaskiqResult[Any]:
    """Return a task's result when all is stored."""
    await broker.drain()
    return await task.get_result()


def is_cached(result: TaskiqResult[Any]) -> bool:
    return result.labels.get("cached") is True


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "taskiq_flow.middlewares.cache"]
