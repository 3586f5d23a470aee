"""``broker.startup()`` reaches the storage, so that what is wrong with it is told before a result is lost."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import inspect
from taskiq import InMemoryBroker

from taskiq_flow import (
    BaseStorageAdapter,
    RedisStorageAdapter,
    SQLAlchemyStorageAdapter,
    StorageConnectionError,
    StorageMiddleware,
    StorageResultBackend,
    StorageScheduleSource,
)
from taskiq_flow.pytest_plugin import MakeStorageAdapter, StorageFaults

Parts = Callable[..., Any]


def with_result_backend(storage: BaseStorageAdapter, **options: Any) -> Any:
    return InMemoryBroker().with_result_backend(StorageResultBackend(storage, **options))


def with_middleware(storage: BaseStorageAdapter, **options: Any) -> Any:
    return InMemoryBroker().with_middlewares(StorageMiddleware(storage, **options))


def source(storage: BaseStorageAdapter, **options: Any) -> Any:
    return StorageScheduleSource(storage, **options)


PARTS = pytest.mark.parametrize("make", [with_result_backend, with_middleware, source])


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody listens, and nobody can begin to."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@PARTS
@pytest.mark.parametrize("scheme", ["redis", "postgresql", "mysql"])
async def test_storage_that_cannot_be_reached_stops_the_startup(make: Parts, scheme: str, closed_port: int) -> None:
    url = f"{scheme}://app:secret@127.0.0.1:{closed_port}/0"
    storage = RedisStorageAdapter(url) if scheme == "redis" else SQLAlchemyStorageAdapter(url)
    with pytest.raises(StorageConnectionError, match=f"127.0.0.1:{closed_port}/0: ") as raised:
        await make(storage, retry_for=0).startup()
    assert "secret" not in str(raised.value)
    await storage.aclose()


@PARTS
async def test_startup_works_and_leaves_nothing(make: Parts, storage_adapter: BaseStorageAdapter) -> None:
    part = make(storage_adapter)
    await part.startup()
    assert await storage_adapter.keys() == []
    await part.shutdown()


@pytest.mark.storage_backends("sqlite", "postgres", "mysql")
async def test_startup_creates_the_table(make_storage_adapter: MakeStorageAdapter) -> None:
    storage: Any = make_storage_adapter()
    await StorageResultBackend[Any](storage).startup()
    name = storage._statements.table.name
    assert await storage._runner.run(lambda connection: inspect(connection).has_table(name))


@PARTS
async def test_server_that_is_just_starting_is_asked_again(
    make: Parts, storage_adapter: BaseStorageAdapter, storage_faults: StorageFaults
) -> None:
    fault = storage_faults.fail(times=2)
    await make(storage_adapter, retry_for=30).startup()
    assert fault.happened == 2


@PARTS
async def test_check_can_be_switched_off(make: Parts, closed_port: int) -> None:
    storage = RedisStorageAdapter(f"redis://127.0.0.1:{closed_port}")
    await make(storage, check_on_startup=False).startup()
    await storage.aclose()


async def test_middleware_that_is_off_reaches_nothing(closed_port: int) -> None:
    storage = RedisStorageAdapter(f"redis://127.0.0.1:{closed_port}")
    await with_middleware(storage, enabled=False).startup()
    await storage.aclose()
