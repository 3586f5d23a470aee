"""``workers``: several receivers on one storage, with adapters of their own."""

import asyncio

import pytest
from taskiq import (
    Context,
    TaskiqDepends,
)

from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.storage import BaseStorageAdapter


async def test_workers_take_turns_with_adapters_of_their_own(
    flow_broker: FlowBroker, storage_adapter: BaseStorageAdapter
) -> None:
    brokers: set[int] = set()
    runs: list[int] = []

    @flow_broker.task(task_name="where")
    async def where(context: Context = TaskiqDepends()) -> None:
        brokers.add(id(context.broker))

    @flow_broker.task(task_name="work", cache_ttl=60)
    async def work(number: int) -> int:
        runs.append(number)
        await asyncio.sleep(0.01)  # let the others find it begun
        return number

    async with flow_broker.workers(3):
        tasks = [await work.kiq(number % 10) for number in range(30)]
        for _ in range(3):
            await where.kiq()
    results = [(await task.get_result()).return_value for task in tasks]
    assert results == [number % 10 for number in range(30)]
    assert len(brokers) == 3
    assert sorted(runs) == list(range(10)), "one worker runs what many are to run at once"
    assert len(await storage_adapter.keys("task:*")) == 33


@pytest.mark.storage_backends("memory", "sqlite")
async def test_workers_show_a_race(flow_broker: FlowBroker, storage_adapter: BaseStorageAdapter) -> None:
    @flow_broker.task(task_name="count")
    async def count() -> None:
        number = await storage_adapter.get("counter") or 0
        await asyncio.sleep(0.01)  # another worker reads the same
        await storage_adapter.set("counter", number + 1)

    async with flow_broker.workers(4):
        for _ in range(8):
            await count.kiq()
    counted = await storage_adapter.get("counter")
    assert isinstance(counted, int)
    assert counted < 8


@pytest.mark.storage_backends("memory")
async def test_workers_that_cannot_be(flow_broker: FlowBroker) -> None:
    with pytest.raises(ConfigurationError, match=r"workers\(0\)"):
        async with flow_broker.workers(0):
            pass
    async with flow_broker.workers(1):
        with pytest.raises(ConfigurationError, match="cannot be nested"):
            async with flow_broker.workers(1):
                pass
