"""What a schedule of taskiq's means: when it is due, and when two are the same. Nothing else in the package says so."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pycron
from taskiq import ScheduledTask

from taskiq_flow import clock
from taskiq_flow.exceptions import ConfigurationError

__all__ = ["Timing", "aware_time", "identity", "interval_of", "is_cron_due", "start_of_minute"]

_MINUTE_MS = 60_000
_SHORTEST_INTERVAL = 0.75
"""The part of an interval that must have passed: one claim may be late, where the storage is slow, and the next not."""


def aware_time(schedule: ScheduledTask) -> datetime | None:
    """Return the time of a one-off as taskiq reads it: without a time zone it is UTC; None where there is none."""
    time = schedule.time
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def interval_of(schedule: ScheduledTask) -> timedelta | None:
    """Return the interval at which a schedule repeats; None where it has none."""
    interval = getattr(schedule, "interval", None)  # not in taskiq 0.11
    return timedelta(seconds=interval) if isinstance(interval, int) else interval


def identity(schedule: ScheduledTask) -> tuple[Any, ...]:
    """Return what a schedule is known by: one that has been changed to another time is another one."""
    return (schedule.schedule_id, *Timing.of(schedule))


def start_of_minute(instant: int) -> int:
    """Return the instant at which an instant's minute begins, both in milliseconds since the epoch."""
    return instant - instant % _MINUTE_MS


def is_cron_due(schedule: ScheduledTask, minute: datetime) -> bool:
    """Return whether a schedule's cron expression means this minute, as taskiq's scheduler reads it.

    :param minute: aware, in UTC.
    :raises ConfigurationError: if it is no cron expression, or its offset no time zone. (The scheduler only logs that.)
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


class Timing(NamedTuple):
    """When a schedule is to be sent. Instants are milliseconds since the epoch."""

    cron: str | None
    cron_offset: str | timedelta | None
    interval: timedelta | None
    time: datetime | None
    """Aware."""

    @classmethod
    def of(cls, schedule: ScheduledTask) -> "Timing":
        """Return when a schedule is to be sent."""
        return cls(schedule.cron, schedule.cron_offset, interval_of(schedule), aware_time(schedule))

    @property
    def is_one_off(self) -> bool:
        """Whether it is to be sent once."""
        return self.cron is None and self.interval is None

    @property
    def is_mixed(self) -> bool:
        """Whether it is due in more than one way."""
        return [self.cron, self.interval, self.time].count(None) < 2

    def due(self, now: int) -> int:
        """Return the instant for which it is due, if it is due ``now``."""
        if self.time is not None:
            return clock.to_ms(self.time)
        return start_of_minute(now) if self.cron is not None else now

    def is_covered(self, due: int, sent: Any) -> bool:
        """Return whether what was ``sent`` last was for this instant; for intervals, too short before it.

        :param sent: the instant that it was for; anything else is none.
        """
        if self.interval is None or not isinstance(sent, int):
            return bool(sent == due)
        return 0 <= due - sent < self.interval.total_seconds() * 1000 * _SHORTEST_INTERVAL
