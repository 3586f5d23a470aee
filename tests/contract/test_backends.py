"""The contract suite on every storage of this package, and on every way in which its adapters can be made."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import fakeredis
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from taskiq_flow.pytest_plugin import StorageAdapterContract
from taskiq_flow.pytest_plugin.contract.concurrency import ConcurrencyRules
from taskiq_flow.pytest_plugin.contract.keys import KeyRules
from taskiq_flow.pytest_plugin.contract.life import LifeRules
from taskiq_flow.pytest_plugin.contract.patterns import PatternRules
from taskiq_flow.pytest_plugin.contract.suite import Suite
from taskiq_flow.storage import RedisStorageAdapter, SQLAlchemyStorageAdapter
from taskiq_flow.storage.backend import BackendAdapter

MYSQL_URL = os.environ.get("TASKIQ_FLOW_TEST_MYSQL_URL", "")

MakeAdapter = Callable[..., BackendAdapter]


class TestEveryStorage(StorageAdapterContract):
    """The plugin's own fixtures: memory, fakeredis, SQLite, and real Redis and PostgreSQL."""


class _MadeHere(Suite):
    """An adapter that a subclass makes; what is made is closed after the test."""

    def make(self, path: Path, **settings: Any) -> BackendAdapter:
        raise NotImplementedError

    @pytest.fixture
    def make_storage_adapter(self, tmp_path: Path) -> Iterator[MakeAdapter]:
        made = []

        def make(**settings: Any) -> BackendAdapter:
            made.append(self.make(tmp_path, **settings))
            return made[-1]

        yield make
        for adapter in made:
            adapter.close_from_outside()

    @pytest.fixture
    def storage_adapter(self, make_storage_adapter: MakeAdapter) -> BackendAdapter:
        return make_storage_adapter()


class TestSQLiteInThreads(_MadeHere, StorageAdapterContract):
    """``async_mode=False``: Python's own driver, in threads."""

    def make(self, path: Path, **settings: Any) -> BackendAdapter:
        return SQLAlchemyStorageAdapter(f"sqlite:///{path / 'storage.db'}", async_mode=False, **settings)


class TestSQLiteInMemory(_MadeHere, StorageAdapterContract):
    lacks: ClassVar = dict.fromkeys(("shared_store", "namespaces"), "each adapter has a database of its own")

    def make(self, path: Path, **settings: Any) -> BackendAdapter:
        return SQLAlchemyStorageAdapter("sqlite+aiosqlite://", **settings)


class TestSQLiteInMemoryInThreads(_MadeHere, StorageAdapterContract):
    lacks: ClassVar = dict.fromkeys(("shared_store", "namespaces"), "each adapter has a database of its own")

    def make(self, path: Path, **settings: Any) -> BackendAdapter:
        return SQLAlchemyStorageAdapter("sqlite://", async_mode=False, **settings)


class TestAsyncEngineHandedIn(_MadeHere, KeyRules, ConcurrencyRules, LifeRules):
    lacks: ClassVar = {
        "event_loops": "the engine that was handed in belongs to the event loop on which it was first used"
    }

    def make(self, path: Path, **settings: Any) -> BackendAdapter:
        # Without a pool, so that nothing stays open that only the engine's owner could close.
        engine = create_async_engine(f"sqlite+aiosqlite:///{path / 'storage.db'}", poolclass=NullPool)
        return SQLAlchemyStorageAdapter(engine=engine, **settings)


class TestEngineHandedIn(_MadeHere, KeyRules, ConcurrencyRules, LifeRules):
    def make(self, path: Path, **settings: Any) -> BackendAdapter:
        engine = create_engine(f"sqlite:///{path / 'storage.db'}", poolclass=NullPool)
        return SQLAlchemyStorageAdapter(engine=engine, **settings)


class TestRedisClientHandedIn(StorageAdapterContract):
    lacks: ClassVar = {
        "event_loops": "the client that was handed in belongs to the event loop on which it was first used"
    }

    @pytest.fixture
    def make_storage_adapter(self) -> MakeAdapter:
        server = fakeredis.FakeServer()
        return lambda **settings: RedisStorageAdapter(client=fakeredis.FakeAsyncRedis(server=server), **settings)

    @pytest.fixture
    def storage_adapter(self, make_storage_adapter: MakeAdapter) -> BackendAdapter:
        return make_storage_adapter()


class TestLongListings(PatternRules):
    """More keys than the Redis adapter fetches at once."""

    many_keys = 2100

    @pytest.fixture
    def storage_adapter(self) -> BackendAdapter:
        server = fakeredis.FakeServer()
        return RedisStorageAdapter(client_factory=lambda: fakeredis.FakeAsyncRedis(server=server))


@pytest.mark.skipif(not MYSQL_URL, reason="TASKIQ_FLOW_TEST_MYSQL_URL names no server")
class TestMySQL(_MadeHere, StorageAdapterContract):
    @pytest.fixture(scope="class")
    @classmethod
    def table(cls) -> Iterator[str]:
        table = f"contract_{uuid4().hex}"
        yield table

        async def drop() -> None:
            engine = create_async_engine(MYSQL_URL)
            async with engine.begin() as connection:
                await connection.execute(text(f"DROP TABLE IF EXISTS {table}"))
            await engine.dispose()

        asyncio.run(drop())

    @pytest.fixture
    def make_storage_adapter(self, table: str) -> Iterator[MakeAdapter]:
        made = []
        own = uuid4().hex

        def make(namespace: str = "", **settings: Any) -> BackendAdapter:
            made.append(SQLAlchemyStorageAdapter(MYSQL_URL, table=table, namespace=own + namespace, **settings))
            return made[-1]

        yield make
        for adapter in made:
            adapter.close_from_outside()
