"""Many processes that write at once, and processes that are killed while they write."""

import asyncio
import os
import random
import time

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.storage.factory import StorageAdapterFactory
from tests.faults.conftest import Amount, Tell
from tests.faults.ledger import Ledger, value
from tests.faults.storages import IN_THREADS, SERVERS, on
from tests.faults.writers import SHARED, doomed_writer, key_of, write_at_once


def new_places(place: TaskiqFlowConfig, count: int) -> list[TaskiqFlowConfig]:
    """Return settings for storages that nobody has used yet: on SQLite new files, elsewhere new tables."""
    url, name = str(place.storage_url), place.storage_namespace
    return [
        place.model_copy(
            update={
                "storage_url": f"{url}.{number}" if url.startswith("sqlite") else url,
                "storage_namespace": f"{name}_{number}",
                "storage_table": f"{name}_{number}",
            }
        )
        for number in range(count)
    ]


@on("sqlite+aiosqlite", "sqlite+pysqlite", *SERVERS, *IN_THREADS)
async def test_processes_race_to_create_the_table_and_lose_no_write(
    scheme: str, place: TaskiqFlowConfig, amount: Amount, tell: Tell
) -> None:
    writers = 8 if scheme.startswith("sqlite") else 16
    rounds, writes = amount(1, 20), amount(5, 20)
    places, began = new_places(place, rounds), time.monotonic()
    write_at_once(places, writers, writes)
    lost = 0
    for config in places:
        async with StorageAdapterFactory.create_storage_adapter(config) as adapter:
            for writer in range(writers):
                for number in range(writes):
                    lost += await adapter.get(f"{writer}:{number}") != value(number)
            lost += await adapter.get(SHARED) not in [value(number) for number in range(writes)]
            assert len(await adapter.keys()) == writers * writes + 1
    acknowledged = 2 * rounds * writers * writes
    tell(
        processes=writers, rounds=rounds, acknowledged=acknowledged, lost=lost, seconds=round(time.monotonic() - began)
    )
    assert not lost


@on("sqlite+aiosqlite", "sqlite+pysqlite")
async def test_acknowledged_writes_of_a_killed_process_are_there(
    place: TaskiqFlowConfig, amount: Amount, tell: Tell
) -> None:
    ledger, kills, began = Ledger(), amount(3, 100), time.monotonic()
    for kill in range(kills):
        with doomed_writer(place, kill) as (process, acknowledged):
            promises = len(os.read(acknowledged, 1)) if kill % 5 else 0  # else also while it makes the table
            await asyncio.sleep(random.uniform(0, 0.1))  # a random moment of its life
            process.kill()
            while more := os.read(acknowledged, 65536):
                promises += len(more)
        for number in range(promises):
            ledger.tried(key_of(kill, number), number)
            ledger.promised(key_of(kill, number), number)
        ledger.tried(key_of(kill, promises), promises)
    async with StorageAdapterFactory.create_storage_adapter(place) as adapter:
        broken = await ledger.broken_promises(adapter)
    tell(kills=kills, acknowledged=ledger.acknowledged, lost=len(broken), seconds=round(time.monotonic() - began))
    assert not broken
