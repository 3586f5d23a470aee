"""Schedule sources of an application, which keep their schedules in the test's storage."""

from collections.abc import Callable
from typing import Any

from taskiq import ScheduledTask, ScheduleSource
from taskiq.schedule_sources import LabelScheduleSource
from taskiq.utils import maybe_awaitable

from taskiq_flow.pytest_plugin.broker.adoption.redirect import Redirection, delegate_of
from taskiq_flow.schedule_source import StorageScheduleSource
from taskiq_flow.storage.base import BaseStorageAdapter
from taskiq_flow.storage.retries import RETRY_FOR

__all__ = ["is_of_labels", "redirected_source"]


def is_of_labels(source: ScheduleSource) -> bool:
    """Return whether a source reads the labels of tasks: it is connected to nothing."""
    return isinstance(source, LabelScheduleSource)


def redirected_source(source: ScheduleSource, storage: BaseStorageAdapter, prefix: str) -> Redirection:
    """Let a source keep its schedules in a storage, until that is undone.

    :param prefix: what the storage's keys begin with: two sources know nothing of each other's schedules.
    """
    schedules = _Schedules(
        storage,
        prefix=prefix,
        check_on_startup=False,
        resend_after=getattr(source, "resend_after", 300.0),
        retry_for=getattr(source, "retry_for", RETRY_FOR),
        skip_past_schedules=getattr(source, "skip_past_schedules", False),
    )
    return Redirection(source, ScheduleSource, _STAND_IN, schedules, hooks=_HOOKS)


class _Schedules(StorageScheduleSource):
    has_labels = False
    """Whether the schedules in labels have been added."""


async def _nothing(_self: Any) -> None:
    """Do nothing: the test's storage opens and closes by itself."""


async def _startup(self: Any) -> None:
    """Add the schedules in the labels of tasks, once, where the library's own startup would (taskiq-postgres)."""
    of_labels = getattr(self, "extract_scheduled_tasks_from_broker", None)
    if of_labels is not None and not delegate_of(self).has_labels:
        delegate_of(self).has_labels = True
        for schedule in of_labels():
            await delegate_of(self).add_schedule(schedule)


async def _get_schedules(self: Any) -> list[ScheduledTask]:
    schedules: list[ScheduledTask] = await delegate_of(self).get_schedules()
    return schedules


async def _add_schedule(self: Any, schedule: ScheduledTask) -> None:
    await delegate_of(self).add_schedule(schedule)


async def _delete_schedule(self: Any, schedule_id: str) -> None:
    await delegate_of(self).delete_schedule(schedule_id)


async def _pre_send(self: Any, task: ScheduledTask) -> None:
    await maybe_awaitable(delegate_of(self).pre_send(task))


async def _post_send(self: Any, task: ScheduledTask) -> None:
    await maybe_awaitable(delegate_of(self).post_send(task))


_HOOKS = frozenset({"pre_send", "post_send"})
_STAND_IN: dict[str, Callable[..., Any]] = {
    "startup": _startup,
    "shutdown": _nothing,
    "get_schedules": _get_schedules,
    "add_schedule": _add_schedule,
    "delete_schedule": _delete_schedule,
    "pre_send": _pre_send,
    "post_send": _post_send,
}
