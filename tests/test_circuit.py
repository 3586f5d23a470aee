"""A server that does not answer is not waited for again, by any adapter or event loop, until a probe is answered."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from taskiq_flow.exceptions import StorageConnectionError
from taskiq_flow.storage import RedisStorageAdapter, SQLAlchemyStorageAdapter, circuit
from taskiq_flow.storage.failures import Failure


class Server:
    """A Redis server that may hang."""

    def __init__(self) -> None:
        self.hangs, self.asked, self.port = True, 0, 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(10_000):
            self.asked += 1
            if not self.hangs:
                writer.write(b"$-1\r\n")
        writer.close()

    def adapter(self, timeout: float = 0.2) -> RedisStorageAdapter:
        return RedisStorageAdapter(f"redis://127.0.0.1:{self.port}", operation_timeout=timeout)


@asynccontextmanager
async def running() -> AsyncIterator[Server]:
    server = Server()
    async with await asyncio.start_server(server.talk, "127.0.0.1", 0) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        yield server


class Clock:
    """The circuits' clock."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(circuit, "_now", clock)
    return clock


async def fails(adapter: RedisStorageAdapter | SQLAlchemyStorageAdapter, key: str = "key") -> str:
    with pytest.raises(StorageConnectionError) as raised:
        await adapter.get(key)
    assert raised.value.failure is Failure.TIMEOUT
    return str(raised.value)


async def test_after_a_time_out_no_adapter_asks_the_server(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    async with running() as server, server.adapter() as adapter, server.adapter() as another:
        assert "no answer within 0.2 s" in await fails(adapter)
        for _ in range(10):
            assert "not asked until a probe is answered" in await fails(another)
        assert server.asked == 1
    assert len([record for record in caplog.records if "has not answered in time" in record.message]) == 1


async def test_other_event_loops_do_not_ask_the_server_either(clock: Clock) -> None:
    async with running() as server, server.adapter() as adapter:
        await fails(adapter)
        told: list[str] = []
        thread = threading.Thread(target=lambda: told.append(asyncio.run(fails(server.adapter()))))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert "not asked" in told[0]


async def test_one_probe_at_a_time_closes_the_circuit(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    async with running() as server, server.adapter() as adapter:
        await fails(adapter)
        clock.seconds += 0.2
        told = await asyncio.gather(*[fails(adapter) for _ in range(5)])
        assert len([each for each in told if "no answer within" in each]) == 1, "the probe"
        assert server.asked == 2
        server.hangs = False
        assert "not asked" in await fails(adapter), "no probe is due"
        clock.seconds += 0.2
        assert await adapter.get("key") is None
        assert await asyncio.gather(*[adapter.get("key") for _ in range(5)]) == [None] * 5
    assert "answers again" in caplog.text


async def test_probe_is_due_after_five_seconds_at_most(clock: Clock) -> None:
    assert circuit.PROBE_INTERVAL == 5
    tried = circuit.Circuit("server")
    with tried.attempt(timeout=60) as attempt:
        attempt.timed_out = True
    clock.seconds += 4.9
    with pytest.raises(circuit.CircuitOpenError), tried.attempt(timeout=60):
        pass
    clock.seconds += 0.1
    with tried.attempt(timeout=60):
        pass
    assert not tried.is_open


async def test_cancelled_probe_lets_another_one_through(clock: Clock) -> None:
    async with running() as server, server.adapter() as adapter:
        await fails(adapter)
        clock.seconds += 5
        probe = asyncio.ensure_future(server.adapter(60).get("key"))
        while server.asked < 2:  # noqa: ASYNC110 - the server is another task
            await asyncio.sleep(0.001)
        probe.cancel()
        await asyncio.wait({probe})
        server.hangs = False
        assert await adapter.get("key") is None


async def test_errors_and_cancelled_callers_do_not_open_it(clock: Clock) -> None:
    async with running() as server, server.adapter(60) as adapter:
        waiting = asyncio.ensure_future(adapter.get("key"))
        while not server.asked:  # noqa: ASYNC110 - the server is another task
            await asyncio.sleep(0.001)
        waiting.cancel()
        await asyncio.wait({waiting})
        server.hangs = False
        assert await adapter.get("key") is None
    async with RedisStorageAdapter(f"redis://127.0.0.1:{server.port}") as adapter:
        for _ in range(2):
            with pytest.raises(StorageConnectionError) as raised:
                await adapter.get("key")
            assert raised.value.failure is Failure.LOST, "nobody listens any more, which is told each time"


async def test_waiting_for_a_connection_does_not_open_it(clock: Clock) -> None:
    async with running() as server:
        url = f"redis://127.0.0.1:{server.port}"
        slow = RedisStorageAdapter(url, operation_timeout=60, max_connections=1)
        holds = asyncio.ensure_future(slow.get("key"))
        while not server.asked:  # noqa: ASYNC110 - the server is another task
            await asyncio.sleep(0.001)
        slow._operation_timeout = 0.1
        await fails(slow)
        server.hangs = False
        async with server.adapter(5) as another:
            assert await another.get("key") is None
        holds.cancel()
        await asyncio.wait({holds})
        await slow.aclose()


async def test_waiting_for_a_connection_does_not_close_it(clock: Clock) -> None:
    async with running() as server:
        url = f"redis://127.0.0.1:{server.port}"
        async with RedisStorageAdapter(url, max_connections=1, operation_timeout=0.2) as adapter:
            calls = await asyncio.gather(*(adapter.get("key") for _ in range(3)), return_exceptions=True)
            assert [type(error) for error in calls] == [StorageConnectionError] * 3
            assert circuit.circuit_of(f"127.0.0.1:{server.port}").is_open


async def test_database_that_accepts_and_never_answers_opens_it(clock: Clock) -> None:
    async with running() as server:
        url = f"postgresql+asyncpg://u:p@127.0.0.1:{server.port}/d"
        async with SQLAlchemyStorageAdapter(url, operation_timeout=0.3, connect_timeout=60) as adapter:
            assert "no answer within 0.3 s" in await fails(adapter)
            assert "not asked" in await fails(adapter)
