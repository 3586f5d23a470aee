"""``StorageMiddleware``: keeps the result of every task in a storage."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult

from taskiq_flow import clock
from taskiq_flow.exceptions import ConfigurationError, UnsupportedOperationError
from taskiq_flow.middlewares import _labels
from taskiq_flow.middlewares._losses import Losses, LostResult
from taskiq_flow.records.results import StoredResult, result_key, store
from taskiq_flow.storage import rules
from taskiq_flow.storage.base import BaseStorageAdapter
from taskiq_flow.storage.entry import StorageEntry
from taskiq_flow.storage.memory import InMemoryStorageAdapter
from taskiq_flow.storage.retries import RETRY_FOR, retried
from taskiq_flow.storage.startup import reach

__all__ = ["STORAGE_TTL", "LostResult", "StorageMiddleware"]

logger = logging.getLogger(__name__)

STORAGE_TTL = "storage_ttl"
"""The label of a task whose results live that many seconds, instead of the storage's default."""


class StorageMiddleware(TaskiqMiddleware):
    """Keeps every result under ``pipeline:{pipeline_id}:task:{task_id}``, or ``task:{task_id}`` outside of pipelines.

    A task may carry the label ``storage_ttl``: seconds that its results live; else the storage's default holds.

    What goes wrong here never fails a task, and never passes in silence: a storage that cannot be reached, or is busy
    for the moment, is asked again for ``retry_for`` seconds; one that fails for good is logged once, and once
    more when it works again, with the number of results that were lost; each loss is counted, kept in :attr:`lost`
    and told to :attr:`on_failure`.

    taskiq calls this after it saved the result in the result backend. Whoever waits for that result may therefore be
    ahead of the storage by a moment; in a test, ``await broker.wait_all()`` first. Which of this and the
    ``PipelineMiddleware`` is added first does not matter, unless a step's code reads what the steps before it stored:
    taskiq runs these hooks last to first (before 0.12 first to last), so that with ``PipelineMiddleware(),
    StorageMiddleware(…)`` a step's result is stored before the next one is sent.

    :param storage: where to keep the results. None makes an in-memory one.
    :param enabled: False stores nothing; it may be changed at any time.
    :param retry_for: seconds in which a result is offered again to a storage that fails for the moment; 0 for one
        attempt.
    :param check_on_startup: whether the storage is reached when the broker starts, so that a wrong address is told
        then, and not by the first result that is lost.
    :param owns_storage: whether the storage is closed at shutdown; None means one that was made here.
    :raises ConfigurationError: if ``storage`` is no adapter, or ``retry_for`` is negative.
    """

    stored: int
    """How many results were stored whole."""
    unstorable: int
    """How many were stored without their return value, because that is no data, or more than the storage takes."""
    lost: "deque[LostResult]"
    """The last 1,000 results that were lost, whole or but for the note that they were unstorable."""
    on_failure: "list[Callable[[LostResult], None]]"
    """Called with every lost result, as it is lost."""

    def __init__(
        self,
        storage: BaseStorageAdapter | None = None,
        enabled: bool = True,
        *,
        retry_for: float = RETRY_FOR,
        check_on_startup: bool = True,
        owns_storage: bool | None = None,
    ) -> None:
        super().__init__()
        if storage is not None and not isinstance(storage, BaseStorageAdapter):
            raise ConfigurationError(f"storage must be a BaseStorageAdapter or None, not {storage!r}")
        if not retry_for >= 0:
            raise ConfigurationError(f"retry_for must be a number of seconds, or 0, not {retry_for!r}")
        self.retry_for = retry_for
        self.check_on_startup = check_on_startup
        self._owns_storage = storage is None if owns_storage is None else owns_storage
        self.storage = InMemoryStorageAdapter() if storage is None else storage
        self.enabled = enabled
        self.stored = 0
        self.unstorable = 0
        self._losses = Losses(logger, "storage", "could not be stored and is lost")
        self.lost, self.on_failure = self._losses.lost, self._losses.on_failure

    @property
    def failures(self) -> int:
        """How many results were not stored at all."""
        return self._losses.count

    async def load(self, task_id: str, pipeline_id: str | None = None) -> TaskiqResult[Any] | None:
        """Return the stored result of a task; None if there is none, or it has expired.

        :param pipeline_id: the run that the task was a part of.
        :raises SerializationError: what is stored there is damaged, or no result.
        :raises StorageError: if the storage failed.
        """
        stored = await self.load_stored(task_id, pipeline_id)
        return None if stored is None else stored.to_taskiq()

    async def load_stored(self, task_id: str, pipeline_id: str | None = None) -> StoredResult | None:
        """Return what is stored of a task's result, with its task's name and when it was; arguments as for `load`."""
        key = result_key(task_id, pipeline_id)
        data = await self.storage.get(key)
        return None if data is None else StoredResult.from_data(key, data)

    # --- taskiq's hooks -----------------------------------------------------------------------------------------------

    async def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Store the result; raises nothing but a cancellation, after which nothing half-written is left."""
        if not self.enabled:
            return
        try:
            ttl_seconds = self._ttl_seconds(message)
            record = StoredResult.of(message, result)
            unstorable = await store(
                record, lambda record: retried(lambda: self._write(record, ttl_seconds), self.retry_for)
            )
        except asyncio.CancelledError:
            self._losses.failed(message, "it was cancelled while it was being stored")
            raise
        except Exception as error:  # noqa: BLE001 - a custom adapter may raise anything
            self._losses.failed(message, str(error) or repr(error))
        else:
            self._losses.worked()
            if unstorable is None:
                self.stored += 1
            else:
                self.unstorable += 1
                logger.error(
                    "the return value of task %s (%s) is lost, a note is stored instead: %s",
                    message.task_name,
                    message.task_id,
                    unstorable,
                )
                self._losses.add(message, unstorable)

    async def startup(self) -> None:
        """Reach the storage once, which prepares its table.

        :raises StorageError: if it cannot be used.
        """
        if self.enabled and self.check_on_startup:
            await reach(self.storage, self.retry_for)

    async def shutdown(self) -> None:
        """Close the storage if it is this middleware's own, and say what a storage that still fails has lost."""
        self._losses.close()
        if self._owns_storage:
            await self.storage.aclose()

    # --- storing ------------------------------------------------------------------------------------------------------

    async def _write(self, stored: StoredResult, ttl_seconds: float | None) -> None:
        lifetime = self.storage.ttl_seconds if ttl_seconds is None else ttl_seconds
        expires_at = None
        if lifetime is not None:
            expires_at = clock.from_ms(clock.to_ms(stored.created_at) + rules.ttl_ms(lifetime))
        entry = StorageEntry(stored.key, stored.to_data(), stored.created_at, expires_at, stored.metadata)
        try:
            await retried(lambda: self.storage.set_entry(entry), self.retry_for)
        except UnsupportedOperationError:  # an adapter with the six methods only; metadata is in the data, too
            await retried(lambda: self.storage.set(entry.key, entry.value, ttl_seconds), self.retry_for)

    def _ttl_seconds(self, message: TaskiqMessage) -> float | None:
        """Return the seconds that the task's label asks for; None for the storage's default."""
        try:
            return _labels.ttl_seconds(message, STORAGE_TTL)
        except ValueError as error:
            logger.warning(
                "task %s has an invalid label %s=%r, and its result the storage's default time to live: %s",
                message.task_name,
                STORAGE_TTL,
                message.labels[STORAGE_TTL],
                error,
            )
            return None
