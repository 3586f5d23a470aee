"""``StorageResultBackend`` on a storage that fails: what passes is not seen, and no good result is replaced."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from taskiq import AsyncTaskiqTask, TaskiqResult
from taskiq.depends.progress_tracker import TaskProgress

from taskiq_flow.exceptions import (
    StorageBackendError,
    StorageConnectionError,
)
from taskiq_flow.result_backend import ResultIsMissingError, StorageResultBackend
from taskiq_flow.storage import InMemoryStorageAdapter
from taskiq_flow.storage.failures import Failure


def result_of(value: Any = None, **more: Any) -> TaskiqResult[Any]:
    return TaskiqResult(**{"is_err": False, "return_value": value, "execution_time": 0.5, **more})


class FailingAdapter(InMemoryStorageAdapter):
    """Fails as often as it is told to; ``after`` it has done what it was asked for, or before."""

    def __init__(self, error: Exception, times: float = 2, *, after: bool = False) -> None:
        super().__init__()
        self.error, self.times, self.after, self.calls = error, times, after, 0

    async def _maybe(self, call: Callable[[], Awaitable[Any]]) -> Any:
        self.calls += 1
        done = await call() if self.after or self.times <= 0 else None
        if self.times > 0:
            self.times -= 1
            raise self.error
        return done

    async def get(self, key: str) -> Any:
        return await self._maybe(lambda: super(FailingAdapter, self).get(key))

    async def exists(self, key: str) -> bool:
        return bool(await self._maybe(lambda: super(FailingAdapter, self).exists(key)))

    async def delete(self, key: str) -> bool:
        return bool(await self._maybe(lambda: super(FailingAdapter, self).delete(key)))

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await self._maybe(lambda: super(FailingAdapter, self).set(key, value, ttl_seconds))


PASSING = [
    StorageConnectionError("gone"),
    StorageConnectionError("too many connections", Failure.PASSING),
    StorageBackendError("read only", Failure.LOST),
    StorageBackendError("out of memory", Failure.PASSING),
    ConnectionResetError("a custom adapter's"),
]
LASTING = [
    StorageConnectionError("no answer", Failure.TIMEOUT),
    StorageBackendError("no permission", Failure.REFUSED),
    StorageConnectionError("wrong password", Failure.REFUSED),
    TimeoutError("a custom adapter's"),
]
CALLS: dict[str, Callable[[StorageResultBackend[Any]], Awaitable[Any]]] = {
    "set_result": lambda backend: backend.set_result("one", result_of(1)),
    "is_result_ready": lambda backend: backend.is_result_ready("one"),
    "get_result": lambda backend: backend.get_result("one"),
    "set_progress": lambda backend: backend.set_progress("one", TaskProgress(state="half", meta=1)),
    "get_progress": lambda backend: backend.get_progress("one"),
}


async def filled(storage: FailingAdapter, **settings: Any) -> StorageResultBackend[Any]:
    """Return a backend that has a result and progress, and whose storage fails from now on."""
    backend: StorageResultBackend[Any] = StorageResultBackend(storage, **settings)
    storage.times, times = 0, storage.times
    for name in ("set_result", "set_progress"):
        await CALLS[name](backend)
    storage.times, storage.calls = times, 0
    return backend


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", PASSING, ids=str)
async def test_a_failure_that_passes_is_not_seen(call: str, error: Exception) -> None:
    storage = FailingAdapter(error)
    backend = await filled(storage)
    await CALLS[call](backend)
    assert storage.calls == 3
    result = await backend.get_result("one")
    assert (result.error, result.return_value) == (None, 1)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", LASTING, ids=str)
async def test_a_failure_that_does_not_pass_is_seen_at_once(call: str, error: Exception) -> None:
    storage = FailingAdapter(error, times=1)
    backend = await filled(storage)
    with pytest.raises(type(error), match=str(error)):
        await CALLS[call](backend)
    assert storage.calls == 1
    assert (await backend.get_result("one")).return_value == 1, "no error took its place"


@pytest.mark.parametrize("error", [*PASSING, *LASTING], ids=str)
async def test_a_good_result_is_never_replaced_because_the_storage_fails(error: Exception) -> None:
    storage = FailingAdapter(error, times=1)
    backend: StorageResultBackend[Any] = StorageResultBackend(storage, retry_for=0)
    with pytest.raises(type(error), match=str(error)):
        await backend.set_result("one", result_of(1))
    assert await storage.keys() == []
    await backend.set_result("one", result_of(1))
    assert (await backend.get_result("one")).return_value == 1


async def test_a_result_that_was_removed_though_no_answer_came_is_not_lost() -> None:
    storage = FailingAdapter(StorageConnectionError("gone"), times=0)
    backend = await filled(storage, keep_results=False)
    data = await storage.get("result:one")
    storage.times, storage.after = 1, True  # the first read
    assert (await backend.get_result("one")).return_value == 1
    await backend.set_result("one", result_of(1))

    class LosesAnAnswer(FailingAdapter):
        async def delete(self, key: str) -> bool:
            self.times = 1 if key == "result:one" and await self.exists(key) else 0
            return await super().delete(key)

    other = LosesAnAnswer(StorageConnectionError("gone"), times=0, after=True)
    await other.set("result:one", data)
    backend = StorageResultBackend(other, keep_results=False)
    assert (await backend.get_result("one")).return_value == 1
    with pytest.raises(ResultIsMissingError):
        await backend.get_result("one")


async def test_a_waiting_client_does_not_see_a_failure_that_passes() -> None:
    storage = FailingAdapter(StorageConnectionError("restarting"))
    backend = await filled(storage)
    assert (await AsyncTaskiqTask("one", backend).wait_result(timeout=30)).return_value == 1
