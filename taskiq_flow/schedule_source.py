"""``StorageScheduleSource``: taskiq's schedules, over any storage adapter."""

import glob
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import pydantic
from taskiq import ScheduledTask, ScheduleSource
from taskiq.exceptions import ScheduledTaskCancelledError

from taskiq_flow import clock
from taskiq_flow._label_types import typed_labels
from taskiq_flow.exceptions import ConfigurationError, SerializationError, UnsupportedOperationError
from taskiq_flow.records.conversion import to_data
from taskiq_flow.records.keys import checked_prefix, key_of
from taskiq_flow.records.results import not_a_record
from taskiq_flow.schedules import Timing, start_of_minute
from taskiq_flow.storage import rules
from taskiq_flow.storage.base import ABSENT, BaseStorageAdapter
from taskiq_flow.storage.entry import StorageEntry
from taskiq_flow.storage.retries import RETRY_FOR, retried
from taskiq_flow.storage.startup import reach

__all__ = ["StorageScheduleSource"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CLAIM_LIVES_FOR = 3600.0
"""Seconds for which it is known when something that repeats was sent last, beyond its interval."""


class StorageScheduleSource(ScheduleSource):
    """Keeps schedules under ``schedule:{schedule_id}``: they survive restarts, and several schedulers may share them.

    Of any number of schedulers on one storage one sends what is due: a one-off (``time``) once, ``cron`` once a minute,
    and an ``interval`` when three quarters of it have passed since any of them did. (taskiq's scheduler tries when it
    starts, and then at each interval: after a restart the next time may come early by a quarter, or late by the rest.)
    To this end what is due is claimed, under ``schedule-claim:{schedule_id}``, before it is sent.

    A one-off is removed after it was sent. If its scheduler dies in between, or the broker refuses it, the claim lapses
    after ``resend_after`` seconds, and a scheduler takes it up again: it is sent at least once, and twice only where
    its scheduler died, or was held up for that long, between sending and removing. With ``resend_after=None`` it is
    removed before it is sent: at most once. What repeats is sent at most once each time, and again the next time.

    An adapter with only the six abstract methods of ``BaseStorageAdapter`` has nothing to claim with but ``delete``:
    there a one-off is sent at most once, and what repeats by every scheduler, as with taskiq's other sources. The
    latter holds everywhere for a schedule that has more than one of ``cron``, ``interval`` and ``time``.

    Schedules never expire, whatever the storage's default time to live. What is stored under their keys and is no
    schedule is logged, once, and left alone; the others go on.

    :param storage: where schedules are kept.
    :param prefix: what the storage's keys begin with, with or without a colon at its end; two applications on one
        storage need two.
    :param resend_after: seconds after which a one-off that was claimed and not sent is taken up again: more than the
        scheduler's ``--update-interval`` (a minute by default), which has to see that it was away.
    :param retry_for: seconds, for each call, in which a storage that fails for the moment is asked again; 0 for one
        attempt.
    :param skip_past_schedules: whether one-offs are left alone that were due before the minute in which this source was
        first asked for schedules: those that a scheduler missed while it was away.
    :param check_on_startup: whether the storage is reached when the broker starts, so that a wrong address is told
        then, and not by the first schedule.
    :param owns_storage: whether the storage is closed at shutdown; None means no, for it was handed in.
    :raises ConfigurationError: if ``storage`` is no adapter, keys cannot begin with ``prefix``, or ``retry_for`` is
        negative.
    :raises InvalidTTLError: if ``resend_after`` is not above 0.
    """

    def __init__(
        self,
        storage: BaseStorageAdapter,
        *,
        prefix: str = "schedule",
        resend_after: float | None = 300.0,
        retry_for: float = RETRY_FOR,
        skip_past_schedules: bool = False,
        check_on_startup: bool = True,
        owns_storage: bool | None = None,
    ) -> None:
        if not isinstance(storage, BaseStorageAdapter):
            raise ConfigurationError(f"storage must be a BaseStorageAdapter, not {storage!r}")
        if not retry_for >= 0:
            raise ConfigurationError(f"retry_for must be a number of seconds, or 0, not {retry_for!r}")
        if resend_after is not None:
            rules.ttl_ms(resend_after)
        self.storage = storage
        self.resend_after = resend_after
        self.retry_for = retry_for
        self._prefix = checked_prefix(prefix)
        self._claims_prefix = checked_prefix(f"{self._prefix}-claim")
        self.skip_past_schedules = skip_past_schedules
        self._since: int | None = None
        """The minute in which schedules were first asked for."""
        self.check_on_startup = check_on_startup
        self._owns_storage = bool(owns_storage)
        self._complained: set[str] = set()

    async def startup(self) -> None:
        """Reach the storage once, which prepares its table.

        :raises StorageError: if it cannot be used.
        """
        if self.check_on_startup:
            await reach(self.storage, self.retry_for)

    async def shutdown(self) -> None:
        """Close the storage if it is this source's own."""
        if self._owns_storage:
            await self.storage.aclose()

    # --- schedules ----------------------------------------------------------------------------------------------------

    async def add_schedule(self, schedule: ScheduledTask) -> None:
        """Store a schedule, over the one that has its id.

        :raises SerializationError: if its arguments or labels are no data.
        :raises StorageError: if the storage failed.
        """
        data = {**schedule.model_dump(), "labels": typed_labels(schedule.labels)}
        key = self._key(schedule.schedule_id)
        try:
            await self._keep(key, data)
        except TypeError:  # the codec's refusal; custom adapters, on json, say it like this too
            await self._keep(key, to_data(data))

    async def get_schedules(self) -> list[ScheduledTask]:
        """Return the schedules, in the order of their keys, but for the one-offs that are claimed, or to be skipped.

        :raises StorageError: if the storage failed.
        """
        if self._since is None:
            self._since = start_of_minute(clock.now_ms())
        keys = await self._retried(lambda: self.storage.keys(f"{glob.escape(self._prefix)}:*"))
        stored = await self._values(keys)
        found = [self._parsed(key, stored[key]) for key in keys if stored.get(key) is not None]
        schedules = [schedule for schedule in found if schedule is not None and not self._is_skipped(schedule)]
        claimed = await self._under_way(schedules)
        return [schedule for schedule in schedules if schedule.schedule_id not in claimed]

    async def delete_schedule(self, schedule_id: str) -> None:
        """Remove a schedule; nothing happens where there is none.

        :raises StorageError: if the storage failed.
        """
        await self._retried(lambda: self.storage.delete(self._key(schedule_id)))
        await self._retried(lambda: self.storage.delete(self._claim_key(schedule_id)))

    async def _keep(self, key: str, data: dict[str, Any]) -> None:
        """Store a schedule without an end."""
        try:
            await self._retried(lambda: self.storage.set_entry(StorageEntry(key, data)))
        except UnsupportedOperationError:  # an adapter with only the six abstract methods, which may have a default
            await self._retried(lambda: self.storage.set(key, data, rules.MAX_TTL_SECONDS))

    async def _read(self, key: str) -> ScheduledTask | None:
        """Return the schedule under a key; None where there is none any more, or something else."""
        try:
            data = await self._retried(lambda: self.storage.get(key))
        except SerializationError as error:
            self._complain(key, error)
            return None
        return None if data is None else self._parsed(key, data)

    async def _values(self, keys: list[str]) -> dict[str, Any]:
        """Return what is stored under those of ``keys`` that can be read; what is damaged is logged, once."""
        try:
            return await self._retried(lambda: self.storage.get_many(keys))
        except SerializationError:  # it does not say of all of them which are damaged
            pass
        found: dict[str, Any] = {}
        for key in keys:
            try:
                found |= await self._retried(partial(self.storage.get_many, [key]))
            except SerializationError as error:
                self._complain(key, error)
        return found

    def _parsed(self, key: str, data: Any) -> ScheduledTask | None:
        """Return the schedule that ``data`` is; None if it is something else."""
        try:
            return _schedule(key, data)
        except SerializationError as error:
            self._complain(key, error)
            return None

    def _complain(self, key: str, error: SerializationError) -> None:
        if key not in self._complained:
            self._complained.add(key)
            logger.error("a schedule cannot be read, and is left alone: %s", error)

    # --- sending ------------------------------------------------------------------------------------------------------

    async def pre_send(self, task: ScheduledTask) -> None:
        """Claim what is due, for this scheduler.

        :raises ScheduledTaskCancelledError: if it is not to be sent: it was removed, or changed, or is another's.
        :raises StorageError: if the storage failed.
        """
        timing = Timing.of(task)
        try:
            is_mine = await self._claims(task, timing)
        except UnsupportedOperationError:
            is_mine = await self._takes(task) if timing.is_one_off else await self._is_wanted(task)
        if not is_mine:
            raise ScheduledTaskCancelledError

    async def post_send(self, task: ScheduledTask) -> None:
        """Remove a one-off that was sent, unless it has been changed since: by its own task, for example.

        :raises StorageError: if the storage failed.
        """
        if not Timing.of(task).is_one_off or self.resend_after is None:
            return
        with suppress(UnsupportedOperationError):  # what cannot be claimed was removed before it was sent
            # In this order, or another scheduler might claim it in between.
            await self._retried(lambda: self._remove(task))
            await self._release(task)

    async def _claims(self, task: ScheduledTask, timing: Timing) -> bool:
        """Claim what is due, if it is still to be sent; return False where it is not, or another has claimed it."""
        if timing.is_mixed:
            return await self._is_wanted(task)
        if timing.is_one_off and self.resend_after is None:
            return await self._takes(task)
        if not await self._retried(lambda: self._claim(task, timing)):
            return False
        # Only now: a scheduler that had claimed it before has either lost it, or removed the schedule before the claim.
        if await self._is_wanted(task):
            return True
        await self._release(task)
        return False

    async def _claim(self, task: ScheduledTask, timing: Timing) -> bool:
        key = self._claim_key(task.schedule_id)
        claimed, now = await self.storage.get(key), clock.now_ms()
        due, lives_for = timing.due(now), _CLAIM_LIVES_FOR
        if timing.is_one_off:
            lives_for = self.resend_after or _CLAIM_LIVES_FOR
        elif timing.interval is not None:
            lives_for += timing.interval.total_seconds()
        if timing.is_covered(due, claimed):
            return False
        return await self.storage.compare_and_set(key, ABSENT if claimed is None else claimed, due, lives_for)

    async def _release(self, task: ScheduledTask) -> None:
        """Give up the claim on a one-off; on what repeats it stays, and tells when it was sent last."""
        timing = Timing.of(task)
        if timing.is_one_off:
            key, due = self._claim_key(task.schedule_id), timing.due(0)
            await self._retried(lambda: self.storage.compare_and_set(key, due, ABSENT))

    def _is_skipped(self, schedule: ScheduledTask) -> bool:
        timing = Timing.of(schedule)
        return self.skip_past_schedules and timing.is_one_off and timing.due(0) < (self._since or 0)

    async def _under_way(self, schedules: list[ScheduledTask]) -> set[str]:
        """Return the ids of the one-offs that are claimed: a scheduler is sending them, or has failed to."""
        now = clock.now_ms()
        due = {
            self._claim_key(schedule.schedule_id): (schedule.schedule_id, timing)
            for schedule in schedules
            if (timing := Timing.of(schedule)).is_one_off and timing.due(now) <= now
        }
        if not due:
            return set()
        claims = await self._values(list(due))
        return {
            schedule_id
            for key, (schedule_id, timing) in due.items()
            if timing.is_covered(timing.due(now), claims.get(key))
        }

    async def _is_wanted(self, task: ScheduledTask) -> bool:
        """Return whether a schedule is still stored, and for the same time."""
        stored = await self._read(self._key(task.schedule_id))
        return stored is not None and Timing.of(stored) == Timing.of(task)

    async def _takes(self, task: ScheduledTask) -> bool:
        """Remove a schedule; return whether it was this call that did."""
        key = self._key(task.schedule_id)
        return await self._is_wanted(task) and await self._retried(lambda: self.storage.delete(key))

    async def _remove(self, task: ScheduledTask) -> None:
        key = self._key(task.schedule_id)
        data = await self.storage.get(key)
        if data is not None and Timing.of(_schedule(key, data)) == Timing.of(task):
            await self.storage.compare_and_set(key, data, ABSENT)

    # --- helpers ------------------------------------------------------------------------------------------------------

    async def _retried(self, call: Callable[[], Awaitable[T]]) -> T:
        return await retried(call, self.retry_for)

    def _key(self, schedule_id: str) -> str:
        return key_of(self._prefix, schedule_id)

    def _claim_key(self, schedule_id: str) -> str:
        return key_of(self._claims_prefix, schedule_id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.storage!r})"


def _schedule(key: str, data: Any) -> ScheduledTask:
    try:
        return ScheduledTask.model_validate(data)
    except pydantic.ValidationError as error:
        raise not_a_record(key, "schedule", error) from None
