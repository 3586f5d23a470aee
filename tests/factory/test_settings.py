"""What settings and arguments lead to."""

from typing import Any

import pytest

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import (
    InvalidTTLError,
)
from taskiq_flow.storage import (
    BaseStorageAdapter,
    InMemoryStorageAdapter,
    RedisStorageAdapter,
    SQLAlchemyStorageAdapter,
    StorageAdapterFactory,
)

create = StorageAdapterFactory.create_storage_adapter


@pytest.mark.parametrize(
    ("url", "kind", "address"),
    [
        ("memory://", InMemoryStorageAdapter, "memory://"),
        ("memory://shared", InMemoryStorageAdapter, "memory://shared"),
        ("redis://h:1/2", RedisStorageAdapter, "redis://h:1/2"),
        ("rediss://u:secret@h:1/2", RedisStorageAdapter, "rediss://u:***@h:1/2"),
        ("valkey://h:1", RedisStorageAdapter, "valkey://h:1"),
        ("redis+cluster://h:1", RedisStorageAdapter, "redis+cluster://h:1"),
        ("unix:///run/redis.sock?db=1&password=secret", RedisStorageAdapter, "unix:///run/redis.sock?***"),
        ("sqlite:///a.db", SQLAlchemyStorageAdapter, "sqlite+aiosqlite:///a.db"),
        ("sqlite+aiosqlite:///a.db", SQLAlchemyStorageAdapter, "sqlite+aiosqlite:///a.db"),
        ("postgres://u:secret@h/db", SQLAlchemyStorageAdapter, "postgresql+asyncpg://u:***@h/db"),
        ("postgresql+asyncpg://u:secret@h/db?ssl=x", SQLAlchemyStorageAdapter, "postgresql+asyncpg://u:***@h/db"),
    ],
)
def test_url_chooses_by_its_scheme(
    url: str, kind: type[BaseStorageAdapter], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_URL", url)
    adapter = create()
    assert isinstance(adapter, kind)
    assert repr(adapter) == f"{kind.__name__}({address}, namespace='taskiq_flow')"
    assert "secret" not in repr(TaskiqFlowConfig()) + str(TaskiqFlowConfig())


def test_environment_reaches_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TTL_SECONDS": "90.5", "NAMESPACE": "shop", "TABLE": "results", "URL": "sqlite:///x"}.items():
        monkeypatch.setenv(f"TASKIQ_FLOW_STORAGE_{name}", value)
    adapter = create()
    assert isinstance(adapter, SQLAlchemyStorageAdapter)
    assert (adapter.ttl_seconds, adapter.namespace, adapter._statements.table.name) == (90.5, "shop", "results")


def test_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_URL", "")
    assert isinstance(create(), InMemoryStorageAdapter)


def test_arguments_take_precedence_over_settings() -> None:
    config = TaskiqFlowConfig(storage_url="sqlite:///x", storage_ttl_seconds=1)
    assert isinstance(create(config, redis_url="redis://h"), RedisStorageAdapter)
    assert create(config, ttl_seconds=2).ttl_seconds == 2
    assert create(config).ttl_seconds == 1
    assert config.storage_ttl_seconds == 1, "the settings themselves stay as they were"
    assert isinstance(create(TaskiqFlowConfig(storage_type="redis"), type="memory"), InMemoryStorageAdapter)


def test_type_argument_decides_which_url_is_used() -> None:
    config = TaskiqFlowConfig(storage_type="redis", storage_redis_url="redis://h/1")
    assert isinstance(create(config, type="memory"), InMemoryStorageAdapter)
    assert isinstance(create(config, type="sqlite"), SQLAlchemyStorageAdapter)
    config = TaskiqFlowConfig(storage_type="memory", storage_redis_url="redis://h/1")
    assert isinstance(create(config), InMemoryStorageAdapter)
    for kind in ("redis", "auto"):
        assert "redis://h/1" in repr(create(config, type=kind)), "and not the default of localhost"


@pytest.mark.parametrize("url", ["memory://", "redis://h", "sqlite:///x", "postgresql://h/x"])
def test_default_time_to_live_is_the_same_everywhere(url: str) -> None:
    assert create(TaskiqFlowConfig(storage_url=url)).ttl_seconds is None
    assert create(TaskiqFlowConfig(storage_url=url, storage_ttl_seconds=60)).ttl_seconds == 60
    with pytest.raises(InvalidTTLError, match="ttl_seconds must be above 0"):
        create(TaskiqFlowConfig(storage_url=url), ttl_seconds=0)


@pytest.mark.parametrize(
    ("settings", "arguments", "address"),
    [
        ({"storage_url": "memory://"}, {"type": "memory"}, "memory://"),
        ({"storage_url": "memory://a://b"}, {}, "memory://a://b"),
        ({"storage_url": "sqlite:///x"}, {"type": "sqlite"}, "sqlite+aiosqlite:///x"),
        ({"storage_url": "postgresql://h/d"}, {"type": "sqlalchemy"}, "postgresql+asyncpg://h/d"),
        ({}, {"type": "sqlite"}, "sqlite+aiosqlite:///taskiq-flow.db"),
        ({}, {"type": "sqlalchemy"}, "sqlite+aiosqlite:///taskiq-flow.db"),
        ({}, {"type": "redis"}, "redis://localhost:6379"),
        ({}, {"type": "redis", "redis_url": "redis://h"}, "redis://h"),
    ],
)
def test_type_and_url_that_fit_are_used(settings: dict[str, Any], arguments: dict[str, Any], address: str) -> None:
    adapter = create(TaskiqFlowConfig(**settings), **arguments)
    assert repr(adapter) == f"{type(adapter).__name__}({address}, namespace='taskiq_flow')"


async def test_memory_without_a_name_is_not_shared() -> None:
    one, another = (create(TaskiqFlowConfig(storage_url="memory://")) for _ in range(2))
    await one.set("key", 1)
    assert await another.keys() == []


@pytest.mark.parametrize("url", ["redis://h", "sqlite:///x"])
def test_timeouts_reach_the_adapter(url: str) -> None:
    config = TaskiqFlowConfig(storage_url=url, storage_connect_timeout=1.5, storage_operation_timeout=2.5)
    adapter: Any = create(config)
    assert adapter._operation_timeout == 2.5
    if isinstance(adapter, SQLAlchemyStorageAdapter):
        assert adapter._connect_timeout == 1.5


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({"storage_sqlite_url": "sqlite:///a.db"}, "sqlite+aiosqlite:///a.db"),
        ({"storage_sqlalchemy_url": "postgresql://h/d"}, "postgresql+asyncpg://h/d"),
        ({"storage_sqlite_url": "sqlite:///a.db", "storage_type": "sqlite"}, "sqlite+aiosqlite:///a.db"),
        ({"storage_sqlalchemy_url": "sqlite:///a.db", "storage_type": "sqlalchemy"}, "sqlite+aiosqlite:///a.db"),
        (
            {"storage_sqlite_url": "sqlite:///a.db", "storage_redis_url": "redis://h", "storage_type": "redis"},
            "redis://h",
        ),
        ({"storage_sqlite_url": "sqlite:///a.db", "storage_type": "memory"}, "memory://"),
    ],
)
def test_url_settings_of_taskiq_flow_work(settings: dict[str, Any], address: str) -> None:
    assert f"({address}, " in repr(create(TaskiqFlowConfig(**settings)))
