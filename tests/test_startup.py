"""``broker.startup()`` reaches the storage once: what cannot be used is told then."""

import logging
from typing import Any

import pytest
from taskiq import InMemoryBroker

from taskiq_flow.exceptions import StorageBackendError, StorageConnectionError
from taskiq_flow.middlewares import StorageMiddleware
from taskiq_flow.result_backend import StorageResultBackend
from taskiq_flow.schedule_source import StorageScheduleSource
from taskiq_flow.storage import BaseStorageAdapter, InMemoryStorageAdapter
from taskiq_flow.storage.failures import Failure
from tests.adapters import SixMethods


class Failing(InMemoryStorageAdapter):
    """Fails as often as it is told to."""

    def __init__(self, error: Exception, times: float) -> None:
        super().__init__()
        self.error, self.times, self.calls = error, times, 0

    async def exists(self, key: str) -> bool:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return await super().exists(key)


async def start(kind: str, storage: BaseStorageAdapter, **settings: Any) -> None:
    broker = InMemoryBroker()
    if kind == "source":
        await StorageScheduleSource(storage, **settings).startup()
    elif kind == "backend":
        broker = broker.with_result_backend(StorageResultBackend(storage, **settings))
    else:
        broker.add_middlewares(StorageMiddleware(storage, **settings))
    await broker.startup()
    await broker.shutdown()


KINDS = pytest.mark.parametrize("kind", ["backend", "source", "middleware"])
WRONG = StorageConnectionError("postgres at postgres://db/shop: connecting failed: no such host")


@KINDS
@pytest.mark.parametrize(
    "error", [WRONG, StorageBackendError("no permission", Failure.REFUSED)], ids=["gone", "refused"]
)
async def test_a_storage_that_cannot_be_used_stops_the_start_and_is_told_once(
    kind: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(type(error), match=str(error)):
        await start(kind, Failing(error, float("inf")), retry_for=0.1)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert told == [f"the storage cannot be used: {error}"]


@KINDS
async def test_a_server_that_is_just_starting_is_asked_again(kind: str) -> None:
    storage = Failing(WRONG, 2)
    await start(kind, storage)
    assert storage.calls == 3


@KINDS
@pytest.mark.parametrize("check", [True, False])
async def test_the_check_can_be_switched_off(kind: str, check: bool) -> None:
    storage = Failing(WRONG, float(not check))
    await start(kind, storage, check_on_startup=check)
    assert storage.calls == int(check)
    assert await storage.keys() == []


async def test_a_middleware_that_is_disabled_reaches_nothing() -> None:
    storage = Failing(WRONG, 1)
    await start("middleware", storage, enabled=False)
    assert storage.calls == 0


@KINDS
async def test_a_storage_with_six_methods_is_reached_too(kind: str) -> None:
    storage = Failing(WRONG, 0)
    await start(kind, SixMethods(storage))
    assert storage.calls == 1
