"""What the factory refuses, and what it says then."""

import subprocess
import sys
from typing import Any

import pytest

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import (
    ConfigurationError,
    MissingDependencyError,
)
from taskiq_flow.storage import (
    StorageAdapterFactory,
)

create = StorageAdapterFactory.create_storage_adapter


def test_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError) as raised:
        create(TaskiqFlowConfig(storage_url="dynamo://h"))
    known = ", ".join(f"{scheme}://" for scheme in sorted(StorageAdapterFactory._builders))
    assert str(raised.value) == (
        f"the storage URL 'dynamo://h' has an unknown scheme; known schemes: {known}, and any other of SQLAlchemy's"
    )


def test_sqlalchemy_dialect_without_its_driver_names_the_package() -> None:
    config = TaskiqFlowConfig(storage_url="mssql+pymssql://u:secret@h/d", storage_async_mode=False)
    with pytest.raises(MissingDependencyError, match=r"^mssql\+pymssql:// needs 'pymssql', which is not installed"):
        create(config)


@pytest.mark.parametrize(
    ("settings", "arguments", "words"),
    [
        ({"storage_type": "mongo"}, {}, ["'mongo'", "'auto', 'memory', 'redis', 'sqlite' or 'sqlalchemy'"]),
        ({}, {"type": "mongo"}, ["'mongo'", "auto, memory, redis, sqlite, sqlalchemy"]),
        ({"storage_url": "dynamo://u:secret@h"}, {}, ["dynamo://u:***@h", "memory://", "redis://", "sqlite://"]),
        ({"storage_url": "localhost"}, {}, ["'localhost'", "known schemes"]),
        ({"storage_type": "redis", "storage_url": "sqlite:///x"}, {}, ["'redis'", "sqlite:///x"]),
        ({"storage_type": "memory", "storage_url": "redis://h"}, {}, ["'memory'", "redis://h"]),
        ({"storage_type": "sqlite", "storage_url": "postgresql://h/d"}, {}, ["'sqlite'", "postgresql://h/d"]),
        (
            {"storage_url": "sqlite:///x", "storage_redis_url": "redis://:secret@h"},
            {},
            ["storage_url (sqlite:///x) and storage_redis_url (redis://:***@h) are both set and differ: set only one"],
        ),
        ({"storage_sqlite_url": "redis://u:secret@h"}, {}, ["storage_sqlite_url", "redis://u:***@h", "SQLite"]),
        ({"storage_sqlalchemy_url": "redis://u:secret@h"}, {}, ["storage_sqlalchemy_url", "redis://u:***@h", "SQL"]),
        ({"storage_type": "sqlite"}, {"redis_url": "redis://h"}, ["redis_url", "'sqlite'"]),
        ({}, {"redis_url": "http://u:secret@h"}, ["http://u:***@h"]),
        ({}, {"redis_url": "sqlite:///x"}, ["sqlite:///x", "Redis"]),
        ({}, {"redis_url": "memory://"}, ["memory://", "Redis"]),
        ({"storage_redis_url": "postgresql://u:secret@h/d"}, {}, ["postgresql://u:***@h/d", "Redis"]),
        ({"storage_type": "redis", "storage_redis_url": "sqlite:///x"}, {}, ["sqlite:///x", "'redis'"]),
        ({"storage_type": "redis", "storage_url": "dynamo://h"}, {}, ["dynamo://h", "known schemes"]),
        ({"storage_url": "postgresql+asyncpg://h/d", "storage_async_mode": False}, {}, ["asyncpg", "psycopg"]),
        ({"storage_namespace": ""}, {}, ["namespace", "empty"]),
    ],
)
def test_unusable_settings_are_refused_by_name(
    settings: dict[str, Any], arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        create(TaskiqFlowConfig(**settings), **arguments)
    for word in words:
        assert word in str(raised.value)
    assert "secret" not in str(raised.value)


def test_misspelt_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="storage_urll"):
        TaskiqFlowConfig(storage_urll="redis://:secret@h")  # type: ignore[call-arg] # the mistake is the point


@pytest.mark.parametrize(
    ("missing", "url", "extra"),
    [("redis", "redis://h", "redis"), ("asyncpg", "postgresql://h/d", "postgres"), ("asyncmy", "mysql://h/d", "mysql")],
)
def test_missing_package_names_the_extra(missing: str, url: str, extra: str) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import MissingDependencyError
from taskiq_flow.storage import StorageAdapterFactory
try:
    StorageAdapterFactory.create_storage_adapter(TaskiqFlowConfig(storage_url={url!r}))
except MissingDependencyError as error:
    assert isinstance(error, ImportError)
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert f'pip install "taskiq-flow-kit[{extra}]"' in done.stdout
    assert missing in done.stdout
