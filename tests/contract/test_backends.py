"""The contract suite on every storage of this package, and on every way in which its adapters can be made."""

from collections.abc import Callable, Iterator
from pathlib import Path
from sqlite3 import sqlite_version
from typing import Any, ClassVar

import fakeredis
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from taskiq_flow.pytest_plugin import StorageAdapterContract
from taskiq_flow.pytest_plugin.contract.concurrency import ConcurrencyRules
from taskiq_flow.pytest_plugin.contract.lifecycle import LifecycleRules
from taskiq_flow.pytest_plugin.contract.suite import Suite
from taskiq_flow.storage import RedisStorageAdapter, SQLAlchemyStorageAdapter
from taskiq_flow.storage.backend import BackendAdapter

MakeAdapter = Callable[..., BackendAdapter]


class TestEveryStorage(StorageAdapterContract):
    """The plugin's own fixtures, on the storages of this run: ``--storage-backends=all`` for all of them."""


class _MadeHere(Suite):
    """An adapter that a subclass makes; what is made is closed after the test."""

    many_keys = 100  # TestEveryStorage has more than a page

    def make(self, path: Path, **settings: Any) -> BackendAdapter:
        raise NotImplementedError

    @pytest.fixture
    def make_storage_adapter(
        self, tmp_path: Path, record_property: Callable[[str, object], None]
    ) -> Iterator[MakeAdapter]:
        record_property("storage_server", f"SQLite {sqlite_version}")  # for the table: see storages.py
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


class TestAsyncEngineHandedIn(_MadeHere, ConcurrencyRules, LifecycleRules):
    lacks: ClassVar = {
        "event_loops": "the engine that was handed in belongs to the event loop on which it was first used"
    }

    def make(self, path: Path, **settings: Any) -> BackendAdapter:
        # Without a pool, so that nothing stays open that only the engine's owner could close.
        engine = create_async_engine(f"sqlite+aiosqlite:///{path / 'storage.db'}", poolclass=NullPool)
        return SQLAlchemyStorageAdapter(engine=engine, **settings)


class TestEngineHandedIn(_MadeHere, ConcurrencyRules, LifecycleRules):
    def make(self, path: Path, **settings: Any) -> BackendAdapter:
        engine = create_engine(f"sqlite:///{path / 'storage.db'}", poolclass=NullPool)
        return SQLAlchemyStorageAdapter(engine=engine, **settings)


class TestRedisClientHandedIn(StorageAdapterContract):
    many_keys = 100
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
