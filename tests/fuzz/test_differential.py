"""Every storage against the plain model: a few hundred random steps here, ``make fuzz`` for many thousands.

``FLOW_FUZZ_STEPS`` says how many steps each storage gets; ``FLOW_FUZZ_SEED`` repeats a run.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskiq_flow.pytest_plugin import StorageBackend
from taskiq_flow.storage import BaseStorageAdapter, RedisStorageAdapter, SQLAlchemyStorageAdapter
from tests.fuzz.machine import Storage, Tally, explore
from tests.redis_servers import cluster

STEPS = int(os.environ.get("FLOW_FUZZ_STEPS") or 0)

# Where a storage answers wrong, the shortest example is looked for, for five minutes at most.
pytestmark = pytest.mark.timeout(600 + STEPS)

Compare = Callable[[Storage], None]


@pytest.fixture
def compare(record_property: Callable[[str, object], None]) -> Compare:
    """Run the machine on a storage, and leave a line for the end of the report (see ``conftest.py``)."""
    # Without a number of steps this is a test like any other, and the same each time.
    seed = int(os.environ.get("FLOW_FUZZ_SEED") or (random.randrange(2**32) if STEPS else 3))

    def run(storage: Storage) -> None:
        tally = Tally()
        try:
            explore(storage, tally, steps=STEPS or 320, seed=seed)
        finally:
            record_property("fuzz", f"{storage.name}: {tally} (FLOW_FUZZ_SEED={seed})")
            if STEPS:
                record_property("fuzz answers", dict(sorted(tally.answers.items())))

    return run


def test_every_storage(
    compare: Compare, storage_backend: StorageBackend, make_storage_adapter: Callable[..., BaseStorageAdapter]
) -> None:
    compare(Storage(storage_backend.name, make_storage_adapter))


def test_sqlite_in_threads(compare: Compare, tmp_path: Path) -> None:
    def make(**settings: Any) -> BaseStorageAdapter:
        return SQLAlchemyStorageAdapter(f"sqlite:///{tmp_path / 'storage.db'}", async_mode=False, **settings)

    compare(Storage("sqlite, async_mode=False", make))


def test_sqlite_in_memory(compare: Compare) -> None:
    def make(**settings: Any) -> BaseStorageAdapter:
        return SQLAlchemyStorageAdapter("sqlite+aiosqlite://", **settings)

    compare(Storage("sqlite in memory", make, is_shared=False))


@pytest.mark.long
def test_redis_cluster(compare: Compare, tmp_path: Path) -> None:
    with cluster(tmp_path) as ports:

        def make(**settings: Any) -> BaseStorageAdapter:
            return RedisStorageAdapter(f"redis+cluster://127.0.0.1:{ports[0]}", **settings)

        compare(Storage("redis cluster", make))
