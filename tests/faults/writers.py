"""Writers that are processes of their own."""

import asyncio
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

import psutil

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.storage.factory import StorageAdapterFactory
from tests.faults.ledger import value

__all__ = ["PROCESSES", "SHARED", "doomed_writer", "key_of", "write_at_once"]

SHARED = "shared by all"

# A new process is forked, in milliseconds, from one that has imported everything already and has no threads.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["taskiq_flow.storage.sql", "taskiq_flow.storage.redis", "aiosqlite", __name__])

_start: Barrier


def write_at_once(rounds: list[TaskiqFlowConfig], writers: int, writes: int) -> None:
    """Let that many processes write at once, in each round to another storage; each their own keys and a shared one.

    :raises Exception: one of them got an error.
    """
    start = PROCESSES.Barrier(writers)
    with ProcessPoolExecutor(writers, PROCESSES, initializer=_remember, initargs=(start,)) as pool:
        list(pool.map(_write_rounds, [rounds] * writers, range(writers), [writes] * writers))


def _remember(start: Barrier) -> None:
    global _start  # noqa: PLW0603 - it can only be inherited, not sent
    _start = start


def _write_rounds(rounds: list[TaskiqFlowConfig], writer: int, writes: int) -> None:
    try:
        for config in rounds:
            asyncio.run(_write_one_round(config, writer, writes))
    except BaseException:
        _start.abort()
        raise


async def _write_one_round(config: TaskiqFlowConfig, writer: int, writes: int) -> None:
    async with StorageAdapterFactory.create_storage_adapter(config) as adapter:
        _start.wait(60)  # all are there: who is first to create the table?
        for number in range(writes):
            await adapter.set(f"{writer}:{number}", value(number))
            await adapter.set(SHARED, value(number))


@contextmanager
def doomed_writer(config: TaskiqFlowConfig, life: int) -> Iterator[tuple[psutil.Process, int]]:
    """Run a process that writes value(0), value(1), … under key_of(life, 0), key_of(life, 1), ….

    :return: the process, to be killed, and the file descriptor from which a byte for each acknowledged write comes.
    """
    acknowledged, promise = multiprocessing.Pipe(duplex=False)
    with acknowledged, promise:
        process = PROCESSES.Process(target=_write_for_ever, args=(config, life, promise))
        process.start()
        promise.close()
        assert process.pid is not None
        try:
            yield psutil.Process(process.pid), acknowledged.fileno()
        finally:
            process.kill()
            process.join()
            process.close()


def key_of(life: int, number: int) -> str:
    """Return the key of a write: few enough keys that each is written again and again."""
    return f"{life}:{number % 50}"


def _write_for_ever(config: TaskiqFlowConfig, life: int, promise: Connection) -> None:
    asyncio.run(_write_and_promise(config, life, promise.fileno()))


async def _write_and_promise(config: TaskiqFlowConfig, life: int, promise: int) -> None:
    adapter, number = StorageAdapterFactory.create_storage_adapter(config), 0
    while True:
        await adapter.set(key_of(life, number), value(number))
        os.write(promise, b".")
        number += 1
