"""``BrokerClockDriver``: fires due schedules and delayed messages, for ``await frozen_clock.advance(…)``."""

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

import pycron
from taskiq import ScheduledTask, ScheduleSource, TaskiqScheduler

from taskiq_flow import clock
from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.pytest_plugin.broker.deliveries import StuckTasksError

if TYPE_CHECKING:
    from taskiq_flow.pytest_plugin.broker import FlowBroker

__all__ = ["BrokerClockDriver"]

_MINUTE = timedelta(minutes=1)
_TIMEOUT = 10.0
"""Seconds of real time for what runs at one instant."""
_SHORT_TIMEOUT = 0.5
"""The same, where something waits for the clock: what runs may wait for just that."""


class _DueSchedule(NamedTuple):
    """A schedule at its next instant."""

    due: datetime
    schedule_id: str
    source: ScheduleSource
    schedule: ScheduledTask


class BrokerClockDriver:
    """Fires what falls due on a ``FlowBroker`` while the frozen clock is advanced, as taskiq's scheduler would.

    As there, what has an interval fires when it is first seen and then at every interval; cron expressions fire at
    whole minutes; a one-off whose time has passed fires at once, and each one-off once.
    """

    def __init__(self, broker: "FlowBroker") -> None:
        self._broker = broker
        self._since = clock.now()
        """Until when all has been fired."""
        self._next: list[_DueSchedule] = []
        self._fired: dict[tuple[Any, ...], datetime] = {}
        """When schedules with an interval or a time fired last."""
        self._searched: dict[tuple[Any, ...], tuple[datetime, datetime | None]] = {}
        """For cron expressions: until when they were searched, and the instant that was found."""

    async def settle(self) -> None:
        """Wait until all that was sent has happened, but for what waits for the clock.

        :raises StuckTasksError: something runs for too long.
        """
        await asyncio.sleep(0)  # what the clock's last move has let go
        waits_for_the_clock = await self._broker.next_due() is not None
        try:
            await self._broker.settle(_SHORT_TIMEOUT if waits_for_the_clock else _TIMEOUT)
        except StuckTasksError:
            if not waits_for_the_clock:
                raise

    async def next_due(self, until: datetime) -> datetime | None:
        """Return the next instant, up to ``until``, at which something is due; what is overdue is due now."""
        self._next = await self._due_schedules(until)
        instants = [schedule.due for schedule in self._next]
        held = await self._broker.next_due()
        if held is not None and clock.from_ms(held) <= until:
            instants.append(clock.from_ms(held))
        return min(instants, default=None)

    async def fire(self) -> None:
        """Let everything happen of what `next_due` found that is due by now, schedules in the order of their ids."""
        now = clock.now()
        # Nothing has happened since these were found, but that the clock has moved.
        due = [schedule for schedule in self._next if schedule.due <= now]
        for next_one in sorted(due, key=lambda schedule: schedule.schedule_id):
            self._fired[_identity(next_one.schedule)] = now
            scheduler = TaskiqScheduler(self._broker, [next_one.source])
            await scheduler.on_ready(next_one.source, next_one.schedule)
        self._since = now
        await self.settle()

    async def _due_schedules(self, until: datetime) -> list[_DueSchedule]:
        """Return the next instant of each schedule, of those up to ``until``."""
        return [
            _DueSchedule(due, schedule.schedule_id, source, schedule)
            for source in self._broker.schedule_sources
            for schedule in await source.get_schedules()
            if (due := min(self._instants(schedule, until), default=until + _MINUTE)) <= until
        ]

    def _instants(self, schedule: ScheduledTask, until: datetime) -> Iterator[datetime]:
        """Yield when a schedule is due next, for each of the ways in which it may be."""
        now, last = clock.now(), self._fired.get(_identity(schedule))
        if schedule.cron is not None and (found := self._next_cron(schedule, until)) is not None:
            yield found
        if (interval := getattr(schedule, "interval", None)) is not None:  # not in taskiq 0.11
            step = interval if isinstance(interval, timedelta) else timedelta(seconds=interval)
            yield now if last is None else max(now, last + step)
        if schedule.time is not None and last is None:
            naive = schedule.time.tzinfo is None
            yield max(now, schedule.time.replace(tzinfo=timezone.utc) if naive else schedule.time)

    def _next_cron(self, schedule: ScheduledTask, until: datetime) -> datetime | None:
        searched, found = self._searched.get(_identity(schedule), (self._since, None))
        if found is None or found <= self._since:
            searched, found = max(searched, self._since), None
            minute = searched.replace(second=0, microsecond=0)
            while found is None and (minute := minute + _MINUTE) <= until:
                found = minute if _is_due(schedule, minute) else None
            self._searched[_identity(schedule)] = (found or max(searched, until), found)
        return found if found is not None and found <= until else None


def _identity(schedule: ScheduledTask) -> tuple[Any, ...]:
    """Return what a schedule is known by: one that is changed is another one."""
    return (
        schedule.schedule_id,
        schedule.cron,
        str(schedule.cron_offset),
        getattr(schedule, "interval", None),
        schedule.time,
    )


def _is_due(schedule: ScheduledTask, minute: datetime) -> bool:
    """Return whether a cron expression means this minute, as taskiq's scheduler reads it.

    :raises ConfigurationError: it is no cron expression, or its offset no time zone. (The scheduler only logs that.)
    """
    offset = schedule.cron_offset
    try:
        if isinstance(offset, timedelta):
            minute += offset
        elif offset:
            minute = minute.astimezone(ZoneInfo(offset))
        return bool(pycron.is_now(schedule.cron, minute))
    except (ValueError, KeyError, ModuleNotFoundError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise ConfigurationError(
            f"the schedule {schedule.schedule_id!r} of task {schedule.task_name} will never fire: its cron expression "
            f"{schedule.cron!r}, or its offset {offset!r}, cannot be used: {error}"
        ) from error
