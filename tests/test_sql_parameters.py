"""Parameters of URLs: what libpq's and MySQL's mean to each driver, and which are refused by the constructor."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text

from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.pytest_plugin import StorageBackend
from taskiq_flow.storage import SQLAlchemyStorageAdapter

POSTGRES = pytest.mark.storage_backends("postgres")
DRIVERS = pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])


def with_query(backend: StorageBackend, driver: str, query: str) -> Any:
    url = make_url(backend.url).set(drivername=f"postgresql+{driver}", query={})
    return f"{url.render_as_string(hide_password=False)}?{query}"


@POSTGRES
@DRIVERS
@pytest.mark.parametrize(
    ("query", "setting", "value"),
    [
        ("application_name=shop", "application_name", "shop"),
        ("fallback_application_name=shop", "application_name", "shop"),
        ("options=-c%20search_path%3Dpg_temp%20-c%20work_mem%3D1MB", "work_mem", "1MB"),
        ("client_encoding=utf8", "client_encoding", "UTF8"),
    ],
)
async def test_parameter_reaches_the_session(  # noqa: PLR0917 - fixtures come by name
    query: str, setting: str, value: str, driver: str, storage_backend: StorageBackend, storage_config: Any
) -> None:
    url = with_query(storage_backend, driver, query)
    async with SQLAlchemyStorageAdapter(url, table=storage_config.storage_table) as adapter:
        show = text(f"SELECT current_setting('{setting}')")
        assert await adapter._run(lambda connection: connection.execute(show).scalar()) == value


@POSTGRES
@DRIVERS
@pytest.mark.parametrize(
    "query",
    [
        *(f"sslmode={mode}" for mode in ("disable", "allow", "prefer")),
        "channel_binding=prefer&gssencmode=disable&sslcompression=0&sslsni=1",
        "connect_timeout=10&target_session_attrs=read-write",
        "keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3&tcp_user_timeout=10000",
        "keepalives=0",
        "pgbouncer=true",
        "max_connections=2",
    ],
)
async def test_parameters_of_managed_services_are_understood(
    query: str, driver: str, storage_backend: StorageBackend, storage_config: Any
) -> None:
    where = {"namespace": storage_config.storage_namespace, "table": storage_config.storage_table}
    url = with_query(storage_backend, driver, query)
    async with SQLAlchemyStorageAdapter(url, **where) as adapter:
        await asyncio.gather(*[adapter.set(f"key {number}", number) for number in range(10)])
        assert len(await adapter.keys()) == 10


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://h/d?sslmode=sometimes", "sslmode=sometimes"),
        ("postgresql+psycopg://h/d?sslmode=sometimes", "sslmode=sometimes"),
        ("postgresql://h/d?sslmode=verify-full&sslrootcert=/missing.pem", "sslrootcert=/missing.pem"),
        ("postgresql://h/d?sslmode=require&sslrootcert=system", "sslrootcert=system"),
        ("postgresql://h/d?channel_binding=require", "channel_binding=require, which asyncpg cannot do"),
        ("postgresql://h/d?gssencmode=require", "gssencmode=require, which asyncpg cannot do"),
        ("postgresql://h/d?target_session_attrs=any-at-all", "target_session_attrs=any-at-all"),
        ("postgresql://h/d?service=shop", "service=shop, which asyncpg cannot do"),
        ("postgresql://h/d?connect_timeout=soon", "connect_timeout=soon"),
        ("postgresql://h/d?keepalives_idle=often", "keepalives_idle=often"),
        ("postgresql://h/d?nonsense=1", "'nonsense', which asyncpg does not know"),
        ("postgresql+psycopg://h/d?nonsense=1", "'nonsense', which psycopg (libpq) does not know"),
        ("postgresql://h/d?pgbouncer=perhaps", "pgbouncer=perhaps"),
        ("postgresql://h/d?max_connections=many", "max_connections must be a whole number above 0, not 'many'"),
        ("postgresql://h/d?max_connections=0", "max_connections must be a whole number above 0, not 0"),
        ("mysql://h/d?ssl-mode=sometimes", "ssl-mode=sometimes"),
        ("mysql://h/d?ssl-ca=/missing.pem", "ssl-ca=/missing.pem"),
        ("mysql://h/d?useSSL=true", "'usessl', which asyncmy does not know"),
    ],
)
def test_parameter_that_cannot_be_meant_is_refused_by_name(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        SQLAlchemyStorageAdapter(url)
    assert told in str(raised.value)


def test_certificates_that_nobody_named_are_missed_by_the_constructor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    for driver in ("asyncpg", "psycopg"):
        with pytest.raises(ConfigurationError, match="sslmode=verify-full without sslrootcert"):
            SQLAlchemyStorageAdapter(f"postgresql+{driver}://h/d?sslmode=verify-full")


@pytest.mark.parametrize("query", ["charset=utf8mb4", "ssl-mode=DISABLED", "ssl_mode=PREFERRED", "ssl-mode=REQUIRED"])
@pytest.mark.parametrize(("driver", "async_mode"), [("asyncmy", True), ("pymysql", False)])
def test_parameters_of_mysql_are_understood(query: str, driver: str, async_mode: bool) -> None:
    SQLAlchemyStorageAdapter(f"mysql+{driver}://h/d?{query}", async_mode)


@POSTGRES
@pytest.mark.parametrize(("driver", "async_mode"), [("asyncpg", True), ("psycopg", True), ("psycopg", False)])
async def test_no_more_connections_than_allowed_serve_many_calls(
    driver: str, async_mode: bool, storage_backend: StorageBackend, storage_config: Any
) -> None:
    url = with_query(storage_backend, driver, f"application_name={storage_config.storage_namespace}")
    where = {"namespace": storage_config.storage_namespace, "table": storage_config.storage_table}
    async with SQLAlchemyStorageAdapter(url, async_mode, max_connections=3, **where) as adapter:
        await asyncio.gather(*[adapter.set(f"key {number}", number) for number in range(200)])
        assert len(await adapter.keys()) == 200
        count = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name")
        name = {"name": storage_config.storage_namespace}
        assert await adapter._run(lambda connection: connection.execute(count, name).scalar()) == 3
