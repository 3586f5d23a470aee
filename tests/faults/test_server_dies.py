"""A server that is killed, or stopped and started: nothing that it acknowledged is lost, and the adapter goes on."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from itertools import count, cycle
from typing import Any

import anyio
import pytest

from taskiq_flow.exceptions import StorageConnectionError
from taskiq_flow.storage.base import ABSENT, BaseStorageAdapter
from tests.faults.conftest import Amount, Connect, Tell
from tests.faults.ledger import Ledger
from tests.faults.servers import PrivateServer
from tests.faults.storages import IN_THREADS, SERVERS, on

WRITERS = 4
KEYS = 50
END = pytest.mark.parametrize("end", [PrivateServer.kill, PrivateServer.shut_down], ids=["killed", "shut down"])
OTHER_CALLS: tuple[Callable[[BaseStorageAdapter, str], Awaitable[Any]], ...] = (
    lambda adapter, key: adapter.get(key),
    lambda adapter, key: adapter.exists(key),
    lambda adapter, key: adapter.compare_and_set(key, ABSENT, "new"),
    lambda adapter, key: adapter.compare_and_set(key, "new", "newer"),
    lambda adapter, key: adapter.keys(f"{key}*"),
    lambda adapter, key: adapter.delete(key),
    lambda adapter, key: adapter.cleanup(),
)


class Traffic:
    """Writers that never pause, and others that do the rest of what there is to do, on one adapter."""

    def __init__(self, adapter: BaseStorageAdapter, server: PrivateServer) -> None:
        self.ledger = Ledger()
        self.failed = 0
        self._adapter = adapter
        self._server = server
        self._ends = 0
        self._up = True
        self._progress = asyncio.Event()

    async def write(self, writer: int) -> None:
        """Write for ever, each key again and again."""
        for number in count(1):
            await self._call(self.ledger.write(self._adapter, f"{writer}:{number % KEYS}", number))

    async def do_the_rest(self, user: int) -> None:
        """Make calls of all other kinds for ever."""
        for other in cycle(OTHER_CALLS):
            await self._call(other(self._adapter, f"of {user}"))

    async def _call(self, call: Awaitable[Any]) -> None:
        began = (self._up, self._ends)
        try:
            await call
        except StorageConnectionError:
            if began == (True, self._ends):
                raise  # the server was there all the time
            self.failed += 1
            await asyncio.sleep(0.01)  # the server needs the processor to come back
        else:
            self._progress.set()

    async def restart(self, end: Callable[[PrivateServer], None]) -> None:
        """End the server and start it again."""
        self._up, self._ends = False, self._ends + 1
        await asyncio.to_thread(end, self._server)
        await asyncio.to_thread(self._server.start_again)
        self._up = True

    async def goes_on(self) -> None:
        """Wait until a call succeeds."""
        self._progress.clear()
        await self._progress.wait()


@on(*SERVERS, *IN_THREADS)
@END
async def test_acknowledged_writes_survive_and_the_adapter_goes_on(  # noqa: PLR0917 - fixtures come by name
    url: str,
    server: PrivateServer,
    connect: Connect,
    amount: Amount,
    tell: Tell,
    end: Callable[[PrivateServer], None],
) -> None:
    adapter = connect(url, storage_connect_timeout=5.0, storage_operation_timeout=5.0)
    traffic, start = Traffic(adapter, server), time.monotonic()
    restarts = amount(2, 100 if end is PrivateServer.kill else 20)
    async with anyio.create_task_group() as tasks:
        for writer in range(WRITERS):
            tasks.start_soon(traffic.write, writer)
        tasks.start_soon(traffic.do_the_rest, 0)
        for _ in range(restarts):
            await traffic.goes_on()
            await asyncio.sleep(random.uniform(0, 0.1))  # a random moment
            await traffic.restart(end)
        await traffic.goes_on()
        tasks.cancel_scope.cancel()
    ledger = traffic.ledger
    broken = await ledger.broken_promises(adapter)
    tell(
        restarts=restarts,
        acknowledged=ledger.acknowledged,
        failed=traffic.failed,
        lost=len(broken),
        seconds=round(time.monotonic() - start),
    )
    assert not broken


@on(*SERVERS, *IN_THREADS)
@END
async def test_restart_between_calls_costs_no_call(
    url: str, server: PrivateServer, connect: Connect, end: Callable[[PrivateServer], None]
) -> None:
    adapter = connect(url, storage_connect_timeout=5.0, storage_operation_timeout=5.0)
    many = range(10)
    await asyncio.gather(*(adapter.set(str(number), number) for number in many))  # as many connections stay open
    await asyncio.to_thread(end, server)
    await asyncio.to_thread(server.start_again)
    assert await asyncio.gather(*(adapter.get(str(number)) for number in many)) == list(many)
