"""TLS to PostgreSQL, with certificates that are checked as libpq says, by each driver."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import trustme
from sqlalchemy import make_url, text

from taskiq_flow.exceptions import StorageConnectionError
from taskiq_flow.storage import SQLAlchemyStorageAdapter
from taskiq_flow.storage.failures import Failure
from tests.faults.servers import PrivateServer


@pytest.fixture(params=["127.0.0.1", "elsewhere"])
def certified(request: pytest.FixtureRequest, postgres_server: PrivateServer, tmp_path: Path) -> Iterator[str]:
    """Let the server have a certificate for that host; yield the host."""
    authority, another = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    another.cert_pem.write_to_path(str(tmp_path / "another.pem"))
    certificate = authority.issue_cert(request.param)
    data = Path(asyncio.run(execute(postgres_server, "SHOW data_directory")))
    certificate.private_key_pem.write_to_path(str(data / "tls.key"))
    certificate.cert_chain_pems[0].write_to_path(str(data / "tls.pem"))
    owner = psutil.Process(postgres_server.pid).uids().real
    for file in ("tls.key", "tls.pem"):
        (data / file).chmod(0o600)
        if owner != (data / file).stat().st_uid:
            import os

            os.chown(data / file, owner, -1)
    settings = {"ssl_cert_file": "tls.pem", "ssl_key_file": "tls.key", "ssl": "on"}
    for name, value in settings.items():
        asyncio.run(execute(postgres_server, f"ALTER SYSTEM SET {name} = '{value}'"))
    asyncio.run(execute(postgres_server, "SELECT pg_reload_conf()"))
    yield request.param
    for name in settings:
        asyncio.run(execute(postgres_server, f"ALTER SYSTEM RESET {name}"))
    asyncio.run(execute(postgres_server, "SELECT pg_reload_conf()"))


async def execute(server: PrivateServer, statement: str) -> str:
    import asyncpg

    url = make_url(server.url)
    connection = await asyncpg.connect(
        host=url.host, port=url.port, user=url.username, password=url.password, database=url.database
    )
    try:
        return str(await connection.fetchval(statement))
    finally:
        await connection.close()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_certificates_are_checked_as_libpq_does(
    driver: str, certified: str, postgres_server: PrivateServer, tmp_path: Path
) -> None:
    has_tls = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    ours, other = f"&sslrootcert={tmp_path}/ca.pem", f"&sslrootcert={tmp_path}/another.pem"
    outcomes: dict[str, bool | Failure] = {
        "sslmode=disable": False,
        "sslmode=prefer": True,
        "sslmode=require": True,
        f"sslmode=require{other}": Failure.REFUSED,
        f"sslmode=verify-ca{ours}": True,
        f"sslmode=verify-full{ours}": True if certified == "127.0.0.1" else Failure.REFUSED,
        f"sslmode=verify-full{other}": Failure.REFUSED,
    }
    url = make_url(postgres_server.url).set(drivername=f"postgresql+{driver}", query={})
    seen: dict[str, bool | Failure] = {}
    for query in outcomes:
        adapter = SQLAlchemyStorageAdapter(f"{url.render_as_string(hide_password=False)}?{query}")
        try:
            await adapter.exists("key")
            seen[query] = bool(await adapter._run(lambda connection: connection.execute(has_tls).scalar()))
        except StorageConnectionError as error:
            seen[query] = error.failure
        await adapter.aclose()
    assert seen == outcomes
