"""What only MySQL and MariaDB do to a writer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from taskiq_flow.clock import FrozenClock
from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.storage import SQLAlchemyStorageAdapter


@asynccontextmanager
async def two_connections(url: URL) -> AsyncIterator[tuple[AsyncConnection, AsyncConnection]]:
    engine = create_async_engine(url)
    async with engine.connect() as one, engine.connect() as two:
        yield one, two
    await engine.dispose()


@pytest.mark.storage_backends("mysql")
@pytest.mark.parametrize("async_mode", [True, False])
async def test_the_victim_of_a_deadlock_tries_again(
    storage_config: TaskiqFlowConfig, frozen_clock: FrozenClock, async_mode: bool
) -> None:
    url = make_url(storage_config.storage_url or "")
    table, namespace = storage_config.storage_table, storage_config.storage_namespace
    lock = f"SELECT 1 FROM {table} WHERE namespace = '{namespace}' AND `key` = '%s' FOR UPDATE"
    # Whoever has changed least is made the victim: they change more than we do.
    rows = ", ".join(f"('{namespace}_theirs', '{number}', '1', 0, NULL, '{{}}')" for number in range(20))

    ours = url if async_mode else url.set(drivername="mysql+pymysql")
    async with SQLAlchemyStorageAdapter(ours, async_mode, namespace=namespace, table=table) as adapter:
        for key in "abc":
            await adapter.set(key, 1, ttl_seconds=1)
        frozen_clock.tick(1)
        async with two_connections(url) as (they, observer):
            await they.exec_driver_sql(f"INSERT INTO {table} VALUES {rows}")
            await they.exec_driver_sql(lock % "b")
            cleaning = asyncio.ensure_future(adapter.cleanup())
            while (await observer.exec_driver_sql(lock % "a" + " SKIP LOCKED")).one_or_none():
                await observer.rollback()
                await asyncio.sleep(0.01)  # another process, the server, gets there in its own time
            # We hold a and wait for b; they hold b and want a.
            await they.exec_driver_sql(lock % "a")
            assert not cleaning.done(), "we are told to try again, and wait for what they hold"
            await they.rollback()
        assert await cleaning == 3
