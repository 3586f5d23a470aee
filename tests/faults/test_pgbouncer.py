"""PgBouncer in transaction mode, which gives each transaction another connection to the server."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from taskiq_flow.storage import SQLAlchemyStorageAdapter
from tests.faults.servers import PrivateServer

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no program pgbouncer on this machine")
CALLS_OF_ANOTHER_PROCESS = """
import asyncio, sys
from tests.faults.test_pgbouncer import many_calls
asyncio.run(many_calls(sys.argv[1], "another"))
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that another user, as which PgBouncer runs under root, may enter."""
    with tempfile.TemporaryDirectory(prefix="pgbouncer_") as folder:
        yield Path(folder)


@pytest.fixture
def bouncer(postgres_server: PrivateServer, home: Path) -> Iterator[str]:
    """Run PgBouncer before the server; yield its URL."""
    url = make_url(postgres_server.url).set(drivername="postgresql", query={})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (home / "users.txt").write_text(f'"{url.username}" "{url.password}"\n')
    (home / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={url.host} port={url.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = plain\nauth_file = {home}/users.txt\n"
        "pool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 200\n"
    )
    who: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    for path in (home, *home.iterdir()):
        path.chmod(0o755)
    log = (home / "log").open("wb")
    assert PROGRAM is not None
    process = subprocess.Popen([PROGRAM, str(home / "pgbouncer.ini")], stdout=log, stderr=log, cwd="/", **who)
    try:
        deadline = time.monotonic() + 20
        while not listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"pgbouncer does not start here: {(home / 'log').read_text()[-300:]}")
            time.sleep(0.02)
        yield url.set(port=port, host="127.0.0.1").render_as_string(hide_password=False)
    finally:
        process.kill()
        process.wait()
        log.close()


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


async def many_calls(url: str, name: str, calls: int = 150) -> None:
    async with SQLAlchemyStorageAdapter(url, namespace=name, operation_timeout=60) as adapter:

        async def one(number: int) -> None:
            await adapter.set(f"key {number}", number)
            assert await adapter.get(f"key {number}") == number

        await asyncio.gather(*[one(number) for number in range(calls)])
        assert len(await adapter.keys()) == calls
        assert await adapter.compare_and_set("key 1", 1, "one")


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("query", ["", "?pgbouncer=true"])
async def test_calls_of_two_processes_through_pgbouncer_all_succeed(driver: str, query: str, bouncer: str) -> None:
    url = bouncer.replace("postgresql:", f"postgresql+{driver}:") + query
    command = [sys.executable, "-c", CALLS_OF_ANOTHER_PROCESS, url]
    another = await asyncio.create_subprocess_exec(*command)
    await many_calls(url, "one")
    assert await another.wait() == 0
