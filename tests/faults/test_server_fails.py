"""A server that refuses, hangs or is full: an error within the time-out that says where, and the adapter goes on."""

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from taskiq_flow.exceptions import StorageBackendError, StorageConnectionError
from taskiq_flow.storage.backend import BackendAdapter
from taskiq_flow.storage.base import ABSENT
from tests.faults.conftest import Connect
from tests.faults.failures import failure
from tests.faults.ledger import value
from tests.faults.servers import PrivateServer
from tests.faults.storages import IN_THREADS, SERVERS, on

NAMES = {
    "redis": "Redis",
    "redis+cluster": "Redis",
    "postgresql+asyncpg": "PostgreSQL",
    "postgresql+psycopg": "PostgreSQL",
    "mysql+asyncmy": "MySQL",
    "mysql+pymysql": "MySQL",
}
PASSWORD = "pässword/of the%test"
QUOTED = "p%C3%A4ssword%2Fof%20the%25test"
SECRETS = (PASSWORD, QUOTED)
REMOTE = pytest.mark.parametrize("scheme", list(NAMES))


def url_at(scheme: str, port: int) -> str:
    return f"{scheme}://user:{QUOTED}@127.0.0.1:{port}/0"


async def every_call_fails(adapter: BackendAdapter, names: Iterable[str], secrets: Iterable[str]) -> None:
    for secret in secrets:
        assert secret not in repr(adapter)
    calls = (
        adapter.get("key"),
        adapter.set("key", "value"),
        adapter.delete("key"),
        adapter.exists("key"),
        adapter.keys("k*"),
        adapter.cleanup(),
        adapter.compare_and_set("key", ABSENT, "value"),
    )
    await asyncio.gather(*(failure(call, StorageConnectionError, names=names, hides=secrets) for call in calls))


@REMOTE
async def test_refused_connection_is_a_storage_connection_error(
    scheme: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    await every_call_fails(connect(url_at(scheme, port)), (NAMES[scheme], f"127.0.0.1:{port}"), SECRETS)
    assert not [secret for secret in SECRETS if secret in caplog.text]


@REMOTE
async def test_server_that_never_answers_times_out(
    scheme: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        port = listener.getsockname()[1]
        await every_call_fails(connect(url_at(scheme, port)), (NAMES[scheme], f"127.0.0.1:{port}"), SECRETS)
    assert not [secret for secret in SECRETS if secret in caplog.text]


@on(*SERVERS, *IN_THREADS)
async def test_refused_password_is_told(
    url: str, server: PrivateServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    adapter = connect(url.replace(server.password, QUOTED))
    await every_call_fails(adapter, (adapter.backend, server.address), SECRETS)
    assert not [secret for secret in SECRETS if secret in caplog.text]


@on(*SERVERS, *IN_THREADS)
async def test_server_that_stops_answering_times_out(
    url: str, server: PrivateServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    # Much, also for connecting: on a busy machine fifteen at once take their time, as old asyncpg does to end calls.
    adapter = connect(url, storage_connect_timeout=2.5, storage_operation_timeout=2.5)
    names, secrets = (adapter.backend, server.address), (server.password,)
    await adapter.set("key", "before")
    with server.paused():
        # More than there may be connections.
        errors = await asyncio.gather(
            *(failure(adapter.get("key"), StorageConnectionError, names=names, hides=secrets) for _ in range(60))
        )
    assert any("get('key') failed: no answer within 2.5 s" in str(error) for error in errors)
    assert server.password not in caplog.text
    async with asyncio.timeout(60):
        while True:  # its circuit is open until a probe, which only time makes due, is answered
            with suppress(StorageConnectionError):
                await adapter.get("key")
                break
            await asyncio.sleep(0.05)
    # No connection is lost to the calls that were given up.
    for _ in range(3):
        assert await asyncio.gather(*(adapter.get("key") for _ in range(20))) == ["before"] * 20
    await adapter.set("key", "after")
    assert await adapter.get("key") == "after"


@on("redis")
async def test_full_redis_refuses_writes(url: str, server: PrivateServer, connect: Connect) -> None:
    adapter = connect(url)
    await adapter.set("kept", "value")
    async with Redis.from_url(url) as admin:
        await admin.config_set("maxmemory-policy", "noeviction")
        await admin.config_set("maxmemory", 1)
        try:
            for call in (adapter.set("kept", "another"), adapter.set("new", value(4095))):
                told = ("Redis", server.address, "set(", "maxmemory")
                await failure(call, StorageBackendError, names=told, hides=[server.password])
            assert await adapter.get("kept") == "value"
            assert await adapter.keys() == ["kept"]
            assert await adapter.delete("kept")
        finally:
            await admin.config_set("maxmemory", 0)
    await adapter.set("new", "value")
