"""SQLite on a full disk, in a file that is held, damaged or not to be had: an error in time, that says where."""

import asyncio
import os
import resource
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from taskiq_flow.exceptions import StorageBackendError, StorageConnectionError
from taskiq_flow.storage.sql import SQLAlchemyStorageAdapter
from tests.faults.failures import failure
from tests.faults.ledger import Ledger

DRIVERS = pytest.mark.parametrize("driver", ["aiosqlite", "pysqlite"])


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Let ``folder`` be a disk of its own, with little room."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr}")
    try:
        yield
    finally:
        # An error that is still referred to may hold the file open.
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def small_files(_folder: Path) -> Iterator[None]:
    """Let this process write no file of more than 1 MB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))  # Python ignores the signal that it brings
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Be another writer that does not come to an end."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def adapter_on(file: Path, driver: str) -> SQLAlchemyStorageAdapter:
    return SQLAlchemyStorageAdapter(f"sqlite+{driver}:///{file}", driver == "aiosqlite", operation_timeout=0.5)


async def write_until_full(ledger: Ledger, adapter: SQLAlchemyStorageAdapter) -> None:
    for number in range(10_000):
        try:
            await ledger.write(adapter, str(number % 20), number)
        except StorageBackendError:
            assert number > 0
            return
    pytest.fail("it is never full")


@DRIVERS
@pytest.mark.parametrize("limit", [small_disk, small_files])
async def test_full_disk_refuses_writes(
    limit: Callable[[Path], AbstractContextManager[None]], driver: str, tmp_path: Path
) -> None:
    ledger = Ledger()
    with limit(tmp_path):
        async with adapter_on(tmp_path / "full.db", driver) as adapter:
            await write_until_full(ledger, adapter)
            too_large = adapter.set("more", "x" * 2_000_000)
            await failure(too_large, StorageBackendError, names=["SQLite", str(tmp_path / "full.db"), "set('more')"])
            assert not await ledger.broken_promises(adapter)
            assert not await adapter.exists("more")
            assert await adapter.cleanup() == 0


@DRIVERS
@pytest.mark.parametrize("calls", [1, pytest.param(20, marks=pytest.mark.long)])
async def test_locked_file_times_out(driver: str, calls: int, tmp_path: Path) -> None:
    file = tmp_path / "held.db"
    names = ["SQLite", str(file)]
    async with adapter_on(file, driver) as adapter:
        for before in ("before", "after"):
            await adapter.set("key", before)
            with held(file):
                refused = [adapter.set("key", "refused"), *(adapter.delete(str(number)) for number in range(calls))]
                failures = (failure(call, StorageConnectionError, names=names) for call in refused)
                await asyncio.gather(*failures)
            assert await adapter.get("key") == before
            assert await adapter.keys() == ["key"]


@DRIVERS
async def test_call_waits_for_another_writer(driver: str, tmp_path: Path) -> None:
    async with adapter_on(tmp_path / "held.db", driver) as adapter:
        await adapter.set("key", "before")
        with held(tmp_path / "held.db"):
            waiting = asyncio.ensure_future(adapter.set("key", "after"))
            await asyncio.sleep(0.1)
            assert not waiting.done()
        await waiting
        assert await adapter.get("key") == "after"


@DRIVERS
async def test_impossible_path_is_a_storage_connection_error(driver: str, tmp_path: Path) -> None:
    for file in (tmp_path / "no folder" / "file.db", tmp_path):
        async with adapter_on(file, driver) as adapter:
            await failure(adapter.set("key", 1), StorageConnectionError, names=["SQLite", str(file)])


@DRIVERS
async def test_file_that_is_not_a_database_is_refused(driver: str, tmp_path: Path) -> None:
    file = tmp_path / "picture.db"
    file.write_bytes(os.urandom(10_000))
    async with adapter_on(file, driver) as adapter:
        for call in (adapter.set("key", 1), adapter.get("key"), adapter.keys()):
            await failure(call, StorageBackendError, names=["SQLite", str(file)])
