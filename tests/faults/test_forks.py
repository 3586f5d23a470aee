"""Processes that are forked while an adapter has connections: each opens its own, and reads its own answers."""

import asyncio
import os
import signal

import pytest

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.storage.base import BaseStorageAdapter
from taskiq_flow.storage.factory import StorageAdapterFactory
from tests.faults.storages import on

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
CHILDREN, CALLS = 4, 20


async def use(adapter: BaseStorageAdapter, name: str) -> None:
    for number in range(CALLS):
        key = f"{name}:{number}"
        await adapter.set(key, key)
        assert await adapter.get(key) == key


def fork(adapter: BaseStorageAdapter, name: str) -> int:
    if (child := os.fork()) == 0:
        signal.alarm(60)
        status = 1
        try:
            asyncio.run(use(adapter, name))
            asyncio.run(adapter.aclose())
            status = 0
        finally:
            os._exit(status)
    return child


@on("redis", "postgresql+asyncpg", "postgresql+psycopg", "mysql+pymysql", "sqlite+aiosqlite")
def test_forked_processes_read_their_own_answers(place: TaskiqFlowConfig) -> None:
    adapter = StorageAdapterFactory.create_storage_adapter(place)
    asyncio.run(use(adapter, "parent"))
    children = [fork(adapter, f"child {number}") for number in range(CHILDREN)]
    asyncio.run(use(adapter, "parent again"))
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * CHILDREN
    asyncio.run(use(adapter, "parent in the end"))
    assert len(asyncio.run(adapter.keys("child *"))) == CHILDREN * CALLS
    asyncio.run(adapter.aclose())


@on("redis", "postgresql+asyncpg", "postgresql+psycopg")
async def test_process_forked_in_a_running_loop_opens_its_own(place: TaskiqFlowConfig) -> None:
    """As of multiprocessing's fork method, from within a task."""
    adapter = StorageAdapterFactory.create_storage_adapter(place)
    await use(adapter, "parent")
    if (child := os.fork()) == 0:
        signal.alarm(60)
        status = 1
        try:
            asyncio._set_running_loop(None)
            asyncio.run(use(adapter, "child"))
            status = 0
        finally:
            os._exit(status)
    await use(adapter, "parent again")
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert status == 0
    await adapter.aclose()
