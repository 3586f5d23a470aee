"""The only source of "now".

Everything that expires asks this module, and it asks ``time.time()``, so that whatever replaces that function
(freezegun, pytest-freezer, time-machine) is obeyed. :func:`freeze` stops this clock and no other: asyncio, drivers,
pydantic and taskiq's own time-outs keep running (docs/how-it-works.md says why).
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from types import BuiltinFunctionType
from typing import Protocol

__all__ = ["ClockDriver", "FrozenClock", "freeze", "from_ms", "is_frozen", "now", "now_ms", "to_ms"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_MILLISECOND = timedelta(milliseconds=1)

_frozen: "FrozenClock | None" = None


def now_ms() -> int:
    """Return the current time in whole milliseconds since the epoch (UTC), rounded down.

    Rounded down after a rounding to microseconds: ``time.time()`` is a float, and a clock that was frozen at
    exactly .123 s must not read .122.
    """
    frozen = _frozen  # read once: another thread may thaw it
    if frozen is not None:
        return frozen._microseconds // 1000
    return round(time.time() * 1_000_000) // 1000


def now() -> datetime:
    """Return the current time as an aware UTC datetime, to the millisecond."""
    return from_ms(now_ms())


def is_frozen() -> bool:
    """Return whether this clock does not follow the system's.

    True under :func:`freeze`, and where somebody replaced ``time.time`` by a function of their own (freezegun does) or
    made it tell another time (time-machine does). An adapter on a server that expires entries by its own clock must
    then keep that server from doing so early.
    """
    return _frozen is not None or not isinstance(time.time, BuiltinFunctionType) or _is_travelling()


def to_ms(moment: datetime) -> int:
    """Return an aware datetime as whole milliseconds since the epoch, rounded down.

    :raises ValueError: the datetime is naive, so that nobody knows which moment it means.
    """
    if moment.utcoffset() is None:
        raise ValueError(f"{moment!r} has no time zone: pass an aware datetime, such as datetime.now(timezone.utc)")
    return (moment - _EPOCH) // _MILLISECOND


def from_ms(milliseconds: int) -> datetime:
    """Return milliseconds since the epoch as an aware UTC datetime.

    :raises OverflowError: beyond what ``datetime`` can hold.
    """
    return _EPOCH + timedelta(milliseconds=milliseconds)


class ClockDriver(Protocol):
    """What a clock advances along with itself: it knows what is due when, and lets it happen."""

    async def settle(self) -> None:
        """Let what has begun come to its end."""

    async def next_due(self, now: datetime, until: datetime) -> datetime | None:
        """Return the next instant, up to ``until``, at which something is due; ``now`` for what is overdue."""

    async def fire(self, now: datetime) -> None:
        """Let happen what `next_due` found and is due by now, and come to its end; it is not due any more then."""


class FrozenClock:
    """A clock that stands still until it is moved. Made by :func:`freeze`; in tests by the fixture ``frozen_clock``."""

    def __init__(self, at: datetime) -> None:
        self._microseconds = (_checked(at) - _EPOCH) // _MICROSECOND
        self._lock = threading.Lock()
        self._followers: list[Callable[[datetime], None]] = []
        self._drivers: list[ClockDriver] = []

    def now(self) -> datetime:
        """Return the frozen time as an aware UTC datetime."""
        return _EPOCH + timedelta(microseconds=self._microseconds)

    def tick(self, seconds: float | timedelta = 1.0) -> datetime:
        """Move forward by ``seconds`` (or a timedelta), to the microsecond, and return the new time.

        :raises ValueError: the step is negative; to go back, use :meth:`move_to`.
        """
        step = _checked_step(seconds)
        return self._set(lambda current: current + step // _MICROSECOND)

    def move_to(self, moment: datetime | str) -> datetime:
        """Move to ``moment``, an aware datetime or an ISO 8601 text with its offset; return the new time.

        :raises ValueError: the moment is naive, or no ISO 8601 text.
        """
        target = (_checked(moment) - _EPOCH) // _MICROSECOND
        return self._set(lambda _current: target)

    async def advance(self, seconds: float | timedelta) -> datetime:
        """Move forward *through* ``seconds`` (or a timedelta), and return the new time.

        What falls due on the way happens at its instant, in order, and comes to its end before the clock moves on:
        schedules, delayed retries, and all that they start. These are the schedules and messages of the pytest plugin's
        fixture ``flow_broker``; where nothing is driven by this clock, this is :meth:`tick`.

        :raises ValueError: the step is negative.
        """
        target = self.now() + _checked_step(seconds)
        for driver in self._drivers:
            await driver.settle()
        while (due := await self._next_due(target)) is not None:
            now = self.move_to(max(due, self.now()))
            for driver in self._drivers:
                await driver.fire(now)
        self.move_to(target)
        for driver in self._drivers:
            await driver.settle()
        return target

    async def _next_due(self, until: datetime) -> datetime | None:
        instants = [await driver.next_due(self.now(), until) for driver in self._drivers]
        return min((instant for instant in instants if instant is not None), default=None)

    def drive(self, driver: "ClockDriver") -> None:
        """Let what ``driver`` finds due happen whenever this clock is advanced."""
        self._drivers.append(driver)

    def follow(self, follower: Callable[[datetime], None]) -> None:
        """Call ``follower`` with the new time after every move: this is how another fake clock stays in step."""
        self._followers.append(follower)

    def _set(self, step: Callable[[int], int]) -> datetime:
        with self._lock:
            microseconds = step(self._microseconds)
            moment = _EPOCH + timedelta(microseconds=microseconds)  # or it is no moment, and nothing moves
            self._microseconds = microseconds
        for follower in self._followers:
            follower(moment)
        return moment

    def __repr__(self) -> str:
        return f"<FrozenClock {self.now().isoformat()}>"


@contextmanager
def freeze(at: datetime | str | None = None) -> Iterator[FrozenClock]:
    """Freeze this module's clock for the length of a ``with`` block, for the whole process.

    :param at: an aware datetime or ISO 8601 text with its offset; None means now.
    :raises ValueError: ``at`` is naive, or no ISO 8601 text.
    """
    global _frozen  # noqa: PLW0603 - one clock a process is the point
    before, clock = _frozen, FrozenClock(now() if at is None else _checked(at))
    _frozen = clock
    try:
        yield clock
    finally:
        _frozen = before


def _checked_step(seconds: float | timedelta) -> timedelta:
    """Return a step forward."""
    step = seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)
    if step < timedelta(0):
        raise ValueError(f"the step {seconds!r} is negative: time only moves forward; use move_to() to go back")
    return step


def _is_travelling() -> bool:
    # time-machine replaces what the function does, in C, and not the function.
    machine = sys.modules.get("time_machine")
    return machine is not None and bool(machine.escape_hatch.is_travelling())


def _checked(moment: datetime | str) -> datetime:
    """Return ``moment`` as an aware datetime."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment.upper())
    to_ms(moment)
    return moment
