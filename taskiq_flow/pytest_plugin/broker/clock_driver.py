"""``BrokerClockDriver``: fires due schedules and delayed messages, for ``await frozen_clock.advance(…)``."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from taskiq import ScheduledTask

from taskiq_flow import clock
from taskiq_flow.pytest_plugin.broker.adoption import DrivenSource
from taskiq_flow.pytest_plugin.broker.deliveries import StuckTasksError
from taskiq_flow.schedules import aware_time, identity, interval_of, is_cron_due

if TYPE_CHECKING:
    from taskiq_flow.pytest_plugin.broker.broker import FlowBroker

__all__ = ["BrokerClockDriver"]

_MINUTE = timedelta(minutes=1)
_TIMEOUT = 10.0
"""Seconds of real time for what runs at one instant."""
_SHORT_TIMEOUT = 0.5
"""The same, where something waits for the clock: what runs may wait for just that."""
_MOST_AT_ONE_INSTANT = 1000
"""How many things may fire at one instant after those that were due as it came."""


class _DueSchedule(NamedTuple):
    """A schedule at its next instant."""

    due: datetime
    schedule: ScheduledTask
    driven: DrivenSource

    @property
    def order(self) -> str:
        return self.schedule.schedule_id


class BrokerClockDriver:
    """Fires what falls due on a ``FlowBroker`` while the frozen clock is advanced, as taskiq's scheduler would.

    As there, what has an interval fires when it is first seen and then at every interval; cron expressions fire at
    whole minutes, but not for those that ``move_to`` and ``tick`` jump over; a one-off whose time has passed fires at
    once, and each one-off once.
    """

    def __init__(self, broker: "FlowBroker", frozen: clock.FrozenClock) -> None:
        self._broker = broker
        self._since = frozen.now()
        """Until when all has been fired, or jumped over by ``move_to`` and ``tick``."""
        self._next: list[_DueSchedule] = []
        self._fired: dict[tuple[Any, ...], datetime] = {}
        """When schedules with an interval or a time fired last."""
        self._searched: dict[tuple[Any, ...], tuple[datetime, datetime | None]] = {}
        """For cron expressions: until when they were searched, and the instant that was found."""
        self._released = 0
        self._instant: datetime | None = None
        self._fired_at_instant = 0
        """How many things have fired at that instant, after those that were due as it came."""

    async def settle(self) -> None:
        """Wait until all that was sent has happened, but for what waits for the clock.

        :raises StuckTasksError: if something runs for too long.
        """
        waits_for_the_clock = self._broker.next_due() is not None
        try:
            await self._broker.settle(_SHORT_TIMEOUT if waits_for_the_clock else _TIMEOUT)
        except StuckTasksError:
            if not waits_for_the_clock:
                raise

    async def next_due(self, now: datetime, until: datetime) -> datetime | None:
        """Return the next instant, up to ``until``, at which something is due; what is overdue is due now."""
        self._since = now
        self._next = await self._due_schedules(now, until)
        instants = [schedule.due for schedule in self._next]
        held = self._broker.next_due()
        if held is not None and clock.from_ms(held) <= until:
            instants.append(clock.from_ms(held))
        return min(instants, default=None)

    async def fire(self, now: datetime) -> None:
        """Let everything happen of what `next_due` found that is due by now, schedules in the order of their ids.

        :raises StuckTasksError: if what fires at this instant makes more of it due at this instant, without an end.
        """
        # Nothing has happened since these were found, but that the clock has moved.
        due = [schedule for schedule in self._next if schedule.due <= now]
        self._count(now, due)
        for each in sorted(due, key=lambda schedule: schedule.order):
            self._fired[identity(each.schedule)] = now
            await each.driven.scheduler_for(each.schedule).on_ready(each.driven.source, each.schedule)
        await self.settle()

    def _count(self, now: datetime, due: list[_DueSchedule]) -> None:
        released, self._released = self._broker.released - self._released, self._broker.released
        if now != self._instant:
            self._instant, self._fired_at_instant = now, 0
            return
        self._fired_at_instant += max(1, len(due) + released)
        if self._fired_at_instant >= _MOST_AT_ONE_INSTANT:
            last = due[-1].schedule if due else None
            what = f"schedule {last.schedule_id!r} of task {last.task_name}" if last else "a message that is delayed"
            raise StuckTasksError(
                f"time does not go on: at {now.isoformat()} on the frozen clock {self._fired_at_instant} things have "
                f"fired, and {what} is due again: what it starts is due at once, each time anew"
            )

    async def _due_schedules(self, now: datetime, until: datetime) -> list[_DueSchedule]:
        """Return the next instant of each schedule, of those up to ``until``."""
        return [
            _DueSchedule(due, schedule, driven)
            for driven in await self._broker.driven_sources()
            for schedule in await driven.source.get_schedules()
            if (due := min(self._instants(schedule, now, until), default=until + _MINUTE)) <= until
        ]

    def _instants(self, schedule: ScheduledTask, now: datetime, until: datetime) -> Iterator[datetime]:
        """Yield when a schedule is due next, for each of the ways in which it may be."""
        last = self._fired.get(identity(schedule))
        if schedule.cron is not None and (found := self._next_cron(schedule, until)) is not None:
            yield found
        if (interval := interval_of(schedule)) is not None:
            yield now if last is None else max(now, last + interval)
        if (time := aware_time(schedule)) is not None and last is None:
            yield max(now, time)

    def _next_cron(self, schedule: ScheduledTask, until: datetime) -> datetime | None:
        searched, found = self._searched.get(identity(schedule), (self._since, None))
        if found is None or found <= self._since:
            searched, found = max(searched, self._since), None
            minute = searched.replace(second=0, microsecond=0)
            while found is None and (minute := minute + _MINUTE) <= until:
                found = minute if is_cron_due(schedule, minute) else None
            self._searched[identity(schedule)] = (found or max(searched, until), found)
        return found if found is not None and found <= until else None
