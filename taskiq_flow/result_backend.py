"""``StorageResultBackend``: taskiq's results and progress, over any storage adapter."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import pydantic
from taskiq import AsyncResultBackend, TaskiqResult
from taskiq.depends.progress_tracker import TaskProgress, TaskState

from taskiq_flow.exceptions import ConfigurationError, ResultIsMissingError
from taskiq_flow.records.conversion import to_data
from taskiq_flow.records.keys import key_of
from taskiq_flow.records.results import StoredOutcome, not_a_record, store
from taskiq_flow.storage import rules
from taskiq_flow.storage.base import BaseStorageAdapter
from taskiq_flow.storage.retries import RETRY_FOR, retried
from taskiq_flow.storage.startup import reach

__all__ = ["ResultIsMissingError", "StorageResultBackend"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class StorageResultBackend(AsyncResultBackend[T]):
    """Keeps results under ``result:{task_id}`` and progress under ``progress:{task_id}``, as readable data.

    What a task returned comes back as it was, of the types that storages keep; other objects (pydantic models,
    dataclasses, enums) as the data that taskiq itself would make of them. What a task raised comes back as it was where
    its class is known to the reading process and can be rebuilt, else as a ``StandInError`` that says what it was.

    A return value that cannot be stored, because it is no data or more than the server takes, becomes an error result,
    an ``UnstorableResultError`` that says why: nobody waits for a result that never comes. A storage that cannot be
    reached, or is busy for the moment, is asked again for ``retry_for`` seconds, whatever it is asked for: a result in
    the end is whole, or is lost. Then ``set_result`` raises, which taskiq logs as "Can't set result in result backend":
    give ``wait_result`` a ``timeout``. A storage that does not answer in time is not asked again.

    Where results are not kept, of any number of readers one gets a result, and its progress goes with it. A reader that
    dies just then has taken it along; where a connection breaks just then, a second one may get it too.

    :param storage: where results are kept.
    :param keep_results: whether a result stays after it was read.
    :param ttl_seconds: seconds that results and progress live; None for the storage's default.
    :param retry_for: seconds, for each call, in which a storage that fails for the moment is asked again; 0 for one
        attempt.
    :param owns_storage: whether the storage is closed at shutdown; None means no, for it was handed in.
    :param prefix: what those keys begin with; two backends on one storage that are to be apart need two.
    :param check_on_startup: whether ``startup()`` reaches the storage, so that a wrong address, password or table stops
        a worker at its start, and costs no result.
    :raises ConfigurationError: if ``storage`` is no adapter, or ``retry_for`` is negative.
    :raises InvalidTTLError: if ``ttl_seconds`` is no legal time to live.
    """

    def __init__(
        self,
        storage: BaseStorageAdapter,
        *,
        keep_results: bool = True,
        ttl_seconds: float | None = None,
        retry_for: float = RETRY_FOR,
        owns_storage: bool | None = None,
        prefix: str = "",
        check_on_startup: bool = True,
    ) -> None:
        if not isinstance(storage, BaseStorageAdapter):
            raise ConfigurationError(f"storage must be a BaseStorageAdapter, not {storage!r}")
        if not retry_for >= 0:
            raise ConfigurationError(f"retry_for must be a number of seconds, or 0, not {retry_for!r}")
        if ttl_seconds is not None:
            rules.ttl_ms(ttl_seconds)
        self.storage = storage
        self.keep_results = keep_results
        self.ttl_seconds = ttl_seconds
        self.retry_for = retry_for
        self._owns_storage = bool(owns_storage)
        self._prefix = prefix
        self._check_on_startup = check_on_startup

    async def startup(self) -> None:
        """Reach the storage once, and create its table where that is missing.

        :raises StorageError: if the storage cannot be reached within ``retry_for`` seconds, or refuses.
        """
        if self._check_on_startup:
            await reach(self.storage, self.retry_for)

    async def shutdown(self) -> None:
        """Close the storage if it is this backend's own."""
        if self._owns_storage:
            await self.storage.aclose()

    # --- results ------------------------------------------------------------------------------------------------------

    async def set_result(self, task_id: str, result: TaskiqResult[T]) -> None:
        """Store a result, as whole as it can be.

        :raises StorageError: if the storage failed, and takes not even a note that says so.
        """
        key = self._key("result", task_id)

        async def write(outcome: StoredOutcome) -> None:
            data = outcome.to_data()
            await self._retried(lambda: self.storage.set(key, data, self.ttl_seconds))

        record = StoredOutcome.of_result(task_id, result)
        lost = await store(record, write)
        if lost is not None:
            logger.error("the return value of task %s is lost, its result is an error that says so: %s", task_id, lost)

    async def is_result_ready(self, task_id: str) -> bool:
        """Return whether there is a result.

        :raises StorageError: if the storage failed.
        """
        return await self._retried(lambda: self.storage.exists(self._key("result", task_id)))

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[T]:
        """Return a result; where results are not kept, to one reader.

        :param with_logs: whether the result's log comes with it.
        :raises ResultIsMissingError: if there is none.
        :raises SerializationError: if what is stored is damaged, or no result; it stays where it is.
        :raises StorageError: if the storage failed.
        """
        key = self._key("result", task_id)
        data = await self._retried(lambda: self.storage.get(key))
        if data is None:
            raise _missing(task_id)
        result = StoredOutcome.from_data(key, data).to_taskiq()
        if not self.keep_results:
            # Progress first: once the result is taken, nothing may fail any more.
            await self._retried(lambda: self.storage.delete(self._key("progress", task_id)))
            if not await self._takes(key):
                raise _missing(task_id)
        if not with_logs:
            result.log = None
        return result

    # --- progress -----------------------------------------------------------------------------------------------------

    async def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> None:
        """Store how far a task is.

        :raises SerializationError: if its ``meta`` is no data.
        :raises StorageError: if the storage failed.
        """
        state = progress.state.value if isinstance(progress.state, TaskState) else progress.state
        data = {"state": state, "meta": to_data(progress.meta)}
        await self._retried(lambda: self.storage.set(self._key("progress", task_id), data, self.ttl_seconds))

    async def get_progress(self, task_id: str) -> TaskProgress[Any] | None:
        """Return how far a task is; None where it has not said.

        :raises SerializationError: if what is stored is damaged, or no progress.
        :raises StorageError: if the storage failed.
        """
        key = self._key("progress", task_id)
        data = await self._retried(lambda: self.storage.get(key))
        if data is None:
            return None
        try:
            progress: TaskProgress[Any] = TaskProgress.model_validate(data)
        except pydantic.ValidationError as error:
            raise not_a_record(key, "progress", error) from None
        with suppress(ValueError):  # a custom state stays the text that it is
            progress.state = TaskState(progress.state)
        return progress

    def _key(self, kind: str, task_id: str) -> str:
        return key_of(f"{self._prefix}{kind}", task_id)

    # --- the storage --------------------------------------------------------------------------------------------------

    async def _retried(self, call: Callable[[], Awaitable[R]]) -> R:
        return await retried(call, self.retry_for)

    async def _takes(self, key: str) -> bool:
        """Remove a result that was read; return whether it is this reader's."""
        is_first = True

        async def delete() -> bool:
            nonlocal is_first
            was_first, is_first = is_first, False
            # A call whose answer was lost may have removed it: then it is better read twice than by nobody.
            return await self.storage.delete(key) or not was_first

        return await self._retried(delete)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.storage!r})"


def _missing(task_id: str) -> ResultIsMissingError:
    return ResultIsMissingError(f"there is no result for task {task_id}")
