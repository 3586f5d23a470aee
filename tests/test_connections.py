"""Who opens, closes: what an adapter was handed stays open, what it opened does not outlive its event loop."""

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.pytest_plugin import StorageBackend
from taskiq_flow.storage import (
    BaseStorageAdapter,
    RedisStorageAdapter,
    SQLAlchemyStorageAdapter,
    StorageAdapterFactory,
)


@pytest.mark.storage_backends("redis")
async def test_client_that_was_handed_in_stays_open(
    storage_backend: StorageBackend, storage_config: TaskiqFlowConfig
) -> None:
    namespace = storage_config.storage_namespace
    async with Redis.from_url(storage_backend.url) as client:
        async with RedisStorageAdapter(client=client, namespace=namespace) as adapter:
            await adapter.set("key", {"phase": "running"})
        stored = str(await client.get(f"{namespace}:key"))
        assert '"value": {"phase": "running"}' in stored, "a person can read it"
        assert '{"expires_at": null, "created_at": ' in stored


@pytest.mark.storage_backends("redis")
async def test_client_that_decodes_works(storage_backend: StorageBackend, storage_config: TaskiqFlowConfig) -> None:
    async with Redis.from_url(storage_backend.url, decode_responses=True) as client:
        adapter = RedisStorageAdapter(client=client, namespace=storage_config.storage_namespace)
        await adapter.set("schlüssel", "wert", ttl_seconds=60)
        assert await adapter.get("schlüssel") == "wert"
        assert await adapter.keys("schl*") == ["schlüssel"]
        assert await adapter.exists("schlüssel")
        assert await adapter.delete("schlüssel")


@pytest.mark.storage_backends("sqlite", "postgres")
async def test_engine_that_was_handed_in_stays_usable(
    storage_backend: StorageBackend, storage_config: TaskiqFlowConfig
) -> None:
    engine = create_async_engine(storage_backend.url)
    namespace, table = storage_config.storage_namespace, storage_config.storage_table
    async with SQLAlchemyStorageAdapter(engine=engine, namespace=namespace, table=table) as adapter:
        await adapter.set("key", {"phase": "running"})
    async with engine.connect() as connection:
        query = text(f"SELECT value FROM {table} WHERE namespace = :namespace")
        rows = (await connection.execute(query, {"namespace": namespace})).scalars().all()
        assert rows == ['{"phase": "running"}'], "a person can read it, and it is committed"
    await engine.dispose()


async def test_synchronous_engine_that_was_handed_in_stays_usable(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'storage.db'}")
    async with SQLAlchemyStorageAdapter(engine=engine) as adapter:
        await adapter.set("key", 1)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT key, value FROM taskiq_flow_storage")).all() == [("key", "1")]
    engine.dispose()


async def _use(adapter: BaseStorageAdapter) -> None:
    await adapter.set("key", 1)
    assert await adapter.get("key") == 1


async def _use_at_once(adapter: BaseStorageAdapter) -> None:
    await asyncio.gather(*(adapter.set(f"key {number}", number) for number in range(50)))


def _open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_fifty_event_loops_leave_nothing_open(make_storage_adapter: Callable[..., BaseStorageAdapter]) -> None:
    adapter = make_storage_adapter()
    asyncio.run(_use_at_once(adapter))  # so that it has all the connections and threads that it will ever keep
    files, threads = _open_files(), threading.active_count()
    for _ in range(50):
        asyncio.run(_use(adapter))  # nobody closes the adapter: each loop closes its own part
    assert _open_files() <= files
    assert threading.active_count() <= threads


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
async def test_adapter_that_is_dropped_closes_itself(storage_config: TaskiqFlowConfig) -> None:
    await _use(StorageAdapterFactory.create_storage_adapter(storage_config))
    await _collected()
    files = _open_files()
    for _ in range(10):
        await _use(StorageAdapterFactory.create_storage_adapter(storage_config))
    await _collected()
    assert _open_files() < files + 10, "SQLite may keep a file open for a while, but not one for each"


async def _collected() -> None:
    gc.collect()
    for _ in range(10):  # closing takes a few turns of the loop, and real input and output
        await asyncio.sleep(0.02)


def test_loops_of_several_threads_at_once(make_storage_adapter: Callable[..., BaseStorageAdapter]) -> None:
    adapter, errors = make_storage_adapter(), []

    def work(number: int) -> None:
        async def scenario() -> None:
            for turn in range(5):
                await adapter.set(f"key {number} {turn}", number)

        try:
            asyncio.run(scenario())
        except BaseException as error:  # noqa: BLE001 - a thread's error must reach the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(asyncio.run(adapter.keys())) == 20
