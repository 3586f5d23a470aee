"""The public interface that taskiq-flow 1.2 documents: names, signatures, defaults, and its examples."""

import asyncio
import dataclasses
import inspect
import socket
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from taskiq import InMemoryBroker
from taskiq_redis import ListQueueBroker

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.middlewares import CacheMiddleware, PipelineMiddleware, StorageMiddleware
from taskiq_flow.pytest_plugin import StorageBackend
from taskiq_flow.storage import (
    BaseStorageAdapter,
    InMemoryStorageAdapter,
    RedisStorageAdapter,
    SQLAlchemyStorageAdapter,
    SQLiteStorageAdapter,
    StorageEntry,
)
from taskiq_flow.storage.factory import StorageAdapterFactory

pytestmark = pytest.mark.usefixtures("clean_environment")


# --- names and signatures ---------------------------------------------------------------------------------------------


def test_modules_have_the_documented_names() -> None:
    import taskiq_flow.middlewares
    import taskiq_flow.middlewares.storage
    import taskiq_flow.storage
    import taskiq_flow.storage.factory

    assert taskiq_flow.storage.StorageAdapterFactory is taskiq_flow.storage.factory.StorageAdapterFactory
    assert taskiq_flow.middlewares.StorageMiddleware is taskiq_flow.middlewares.storage.StorageMiddleware
    assert SQLiteStorageAdapter is SQLAlchemyStorageAdapter


def test_base_adapter_has_six_abstract_methods() -> None:
    assert BaseStorageAdapter.__abstractmethods__ == {"get", "set", "delete", "exists", "keys", "cleanup"}
    parameters = {
        name: {
            each.name: each.default for each in inspect.signature(getattr(BaseStorageAdapter, name)).parameters.values()
        }
        for name in BaseStorageAdapter.__abstractmethods__
    }
    empty = inspect.Parameter.empty
    assert parameters == {
        "get": {"self": empty, "key": empty},
        "set": {"self": empty, "key": empty, "value": empty, "ttl_seconds": None},
        "delete": {"self": empty, "key": empty},
        "exists": {"self": empty, "key": empty},
        "keys": {"self": empty, "pattern": "*"},
        "cleanup": {"self": empty, "ttl_seconds": 3600},
    }


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (RedisStorageAdapter, {"redis_url": "redis://localhost:6379", "ttl_seconds": None}),
        (SQLiteStorageAdapter, {"db_url": "sqlite+aiosqlite:///taskiq-flow.db", "async_mode": True}),
        (StorageMiddleware, {"storage": None, "enabled": True}),
        (
            StorageAdapterFactory.create_storage_adapter,
            {"config": None, "broker": None, "redis_url": None, "ttl_seconds": None},
        ),
        (
            StorageAdapterFactory.create_cache_adapter,
            {"config": None, "redis_url": None, "default_ttl": 3600, "lock_timeout": 10},
        ),
        (StorageAdapterFactory.create_default_middlewares, {"config": None, "broker": None}),
    ],
)
def test_parameters_and_defaults(function: Any, expected: dict[str, Any]) -> None:
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in expected} == expected
    assert list(parameters)[: len(expected)] == list(expected), "they may be given by position, too"


def test_storage_entry_has_the_documented_attributes_and_methods() -> None:
    assert [field.name for field in dataclasses.fields(StorageEntry)] == [
        "key",
        "value",
        "created_at",
        "expires_at",
        "metadata",
    ]
    assert inspect.signature(StorageEntry.is_expired).return_annotation is bool
    assert inspect.signature(StorageEntry.remaining_ttl).return_annotation == float | None


def test_hook_of_the_middleware() -> None:
    assert list(inspect.signature(StorageMiddleware.post_save).parameters) == ["self", "message", "result"]


# --- code blocks ------------------------------------------------------------------------------------------------------


def test_storage_entry() -> None:
    entry = StorageEntry(
        key="pipeline:my_run:task:abc123",
        value={"status": "completed", "result": 42},
        expires_at=datetime.now(timezone.utc) + timedelta(hours=1),
        metadata={"pipeline_id": "my_run"},
    )
    assert entry.is_expired() is False
    remaining = entry.remaining_ttl()
    assert remaining is not None
    assert 3590 < remaining <= 3600
    assert entry.created_at.tzinfo is timezone.utc
    assert StorageEntry(key="k", value=1).remaining_ttl() is None
    assert StorageEntry(key="k", value=1, expires_at=datetime.now(timezone.utc)).is_expired() is True


def test_custom_adapter() -> None:
    class MyAdapter(BaseStorageAdapter):
        async def get(self, key: str) -> Any | None: ...
        async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None: ...
        async def delete(self, key: str) -> bool:
            return False

        async def exists(self, key: str) -> bool:
            return False

        async def keys(self, pattern: str = "*") -> list[str]:
            return []

        async def cleanup(self, ttl_seconds: int = 3600) -> int:
            return 0

    async def use() -> None:
        async with MyAdapter() as adapter:
            assert await adapter.get("key") is None

    asyncio.run(use())


async def test_in_memory_adapter() -> None:
    storage = InMemoryStorageAdapter()
    await storage.set("key", {"a": 1}, ttl_seconds=60)
    assert await storage.get("key") == {"a": 1}
    assert await storage.keys("*") == ["key"]


@pytest.mark.storage_backends("redis")
async def test_redis_adapter(storage_backend: StorageBackend, storage_config: TaskiqFlowConfig) -> None:
    storage = RedisStorageAdapter(
        redis_url=storage_backend.url,
        ttl_seconds=3600,
        namespace=storage_config.storage_namespace,
    )

    await storage.set("pipeline:run42:status", {"phase": "running"}, ttl_seconds=86400)
    status = await storage.get("pipeline:run42:status")
    keys = await storage.keys("pipeline:run42:*")

    assert status == {"phase": "running"}
    assert keys == ["pipeline:run42:status"]
    await storage.aclose()


async def test_sqlite_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = SQLiteStorageAdapter(
        db_url="sqlite+aiosqlite:///taskiq-flow.db",
        async_mode=True,
    )
    await storage.set("pipeline:run42:status", {"phase": "completed"})
    assert await storage.get("pipeline:run42:status") == {"phase": "completed"}
    assert (tmp_path / "taskiq-flow.db").exists()
    await storage.aclose()

    pg = SQLiteStorageAdapter(db_url="postgresql+asyncpg://user:pw@host/db", async_mode=True)
    assert repr(pg) == "SQLAlchemyStorageAdapter(postgresql+asyncpg://user:***@host/db, namespace='taskiq_flow')"


@pytest.mark.storage_backends("postgres")
async def test_any_sqlalchemy_url(storage_backend: StorageBackend, storage_config: TaskiqFlowConfig) -> None:
    pg = SQLiteStorageAdapter(
        db_url=storage_backend.url,
        async_mode=True,
        namespace=storage_config.storage_namespace,
        table=storage_config.storage_table,
    )
    await pg.set("pipeline:run42:status", {"phase": "completed"})
    assert await pg.get("pipeline:run42:status") == {"phase": "completed"}
    await pg.aclose()


@pytest.mark.storage_backends("redis")
async def test_factory_block_on_a_server(
    storage_backend: StorageBackend, storage_config: TaskiqFlowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_NAMESPACE", storage_config.storage_namespace)
    config = TaskiqFlowConfig()
    redis_broker = ListQueueBroker(storage_backend.url)
    for redis_url in (storage_backend.url, None):
        async with StorageAdapterFactory.create_storage_adapter(
            config=config,
            broker=redis_broker,
            redis_url=redis_url,
            ttl_seconds=7200,
        ) as adapter:
            await adapter.set("key", "value")
            entry = await adapter.get_entry("key")
            assert entry is not None
            assert entry.expires_at == entry.created_at + timedelta(hours=2)


async def test_factory_blocks() -> None:
    config = TaskiqFlowConfig()
    adapter: BaseStorageAdapter = StorageAdapterFactory.create_storage_adapter(config=config)
    assert isinstance(adapter, InMemoryStorageAdapter)

    redis_broker = ListQueueBroker("redis://localhost:6379")
    adapter = StorageAdapterFactory.create_storage_adapter(
        config=config,
        broker=redis_broker,
        redis_url="redis://localhost:6379",
        ttl_seconds=7200,
    )
    assert isinstance(adapter, RedisStorageAdapter)
    assert adapter.ttl_seconds == 7200
    assert "redis://localhost:6379" in repr(adapter)


def test_quick_setup() -> None:
    storage: BaseStorageAdapter = StorageAdapterFactory.create_storage_adapter()
    assert isinstance(storage, InMemoryStorageAdapter)

    config = TaskiqFlowConfig(
        storage_type="redis",
        storage_redis_url="redis://localhost:6379",
    )
    storage = StorageAdapterFactory.create_storage_adapter(config=config)
    assert isinstance(storage, RedisStorageAdapter)


async def test_middleware_block() -> None:
    broker = InMemoryBroker()
    storage = InMemoryStorageAdapter()
    middleware = StorageMiddleware(storage=storage, enabled=True)
    broker.add_middlewares(middleware)

    await _leaves_its_result(broker, storage)


async def test_middleware_in_a_broker() -> None:
    broker = InMemoryBroker(await_inplace=True)
    middleware = StorageMiddleware(storage=InMemoryStorageAdapter())
    broker.add_middlewares(middleware, PipelineMiddleware())

    await _leaves_its_result(broker, middleware.storage)


async def test_default_middlewares() -> None:
    broker = InMemoryBroker(await_inplace=True)
    middlewares = StorageAdapterFactory.create_default_middlewares()
    broker.add_middlewares(
        middlewares["storage"],  # StorageMiddleware
        middlewares["cache"],  # CacheMiddleware
        PipelineMiddleware(),
    )

    storage = middlewares["storage"]
    assert isinstance(storage, StorageMiddleware)
    assert isinstance(middlewares["cache"], CacheMiddleware)
    await _leaves_its_result(broker, storage.storage)


async def _leaves_its_result(broker: InMemoryBroker, storage: BaseStorageAdapter) -> None:
    @broker.task(task_name="answer")
    async def answer() -> int:
        return 42

    await broker.startup()
    task = await answer.kiq()
    await broker.wait_all()
    assert await storage.keys() == [f"task:{task.task_id}"]
    record = await storage.get(f"task:{task.task_id}")
    assert record is not None
    assert (record["status"], record["result"]) == ("completed", 42)
    await broker.shutdown()


# --- defaults and meanings --------------------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody listens, and nobody can begin to."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_priority_of_auto(closed_port: int) -> None:
    broker = ListQueueBroker(f"redis://127.0.0.1:{closed_port}/3")
    create = StorageAdapterFactory.create_storage_adapter
    assert isinstance(create(TaskiqFlowConfig(storage_type="redis")), RedisStorageAdapter)
    assert isinstance(create(TaskiqFlowConfig(), broker), RedisStorageAdapter)
    assert isinstance(create(TaskiqFlowConfig(storage_type="sqlite")), SQLiteStorageAdapter)
    assert isinstance(create(TaskiqFlowConfig(storage_type="sqlalchemy")), SQLiteStorageAdapter)
    assert isinstance(create(TaskiqFlowConfig(), InMemoryBroker()), InMemoryStorageAdapter)
