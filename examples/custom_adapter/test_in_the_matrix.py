"""A test of an application runs on the directory as it runs on the storages of the kit."""

import asyncio

import pytest

from taskiq_flow.clock import FrozenClock
from taskiq_flow.exceptions import StorageConnectionError
from taskiq_flow.pytest_plugin import FlowBroker, StorageFaults
from taskiq_flow.storage import BaseStorageAdapter

pytestmark = pytest.mark.storage_backends("memory", "sqlite", "directory")


def test_a_session_ends_after_a_minute(storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock) -> None:
    async def session() -> None:
        await storage_adapter.set("session", {"user": 1}, ttl_seconds=60)
        frozen_clock.tick(59.999)
        assert await storage_adapter.get("session") == {"user": 1}
        frozen_clock.tick(0.001)
        assert await storage_adapter.get("session") is None

    asyncio.run(session())


def test_a_task_keeps_its_result(flow_broker: FlowBroker) -> None:
    @flow_broker.task(task_name="double")
    def double(number: int) -> int:
        return 2 * number

    async def run() -> None:
        task = await double.kiq(21)
        await flow_broker.drain()
        assert (await task.get_result()).return_value == 42

    asyncio.run(run())


def test_a_call_fails(storage_adapter: BaseStorageAdapter, storage_faults: StorageFaults) -> None:
    storage_faults.fail("get")
    with pytest.raises(StorageConnectionError):
        asyncio.run(storage_adapter.get("session"))
