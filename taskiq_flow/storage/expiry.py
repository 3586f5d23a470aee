"""What has expired goes by itself: in memory as entries are written, on SQL databases now and then in the background.

Neither under a frozen clock, nor where a test kit keeps expired entries (``storage.testing.keep_expired``): there
``cleanup()`` alone decides.
"""

import asyncio
import heapq
import logging
import random
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias
from weakref import WeakMethod

from taskiq_flow import clock
from taskiq_flow.exceptions import StorageError
from taskiq_flow.storage import rules
from taskiq_flow.storage.testing import keeps_expired

__all__ = ["DEFAULT_INTERVAL", "Deadlines", "PeriodicCleaning", "Piece", "checked_interval"]

logger = logging.getLogger(__name__)

DEFAULT_INTERVAL = 600.0
"""Seconds from one cleaning of an SQL database to the next, where nothing else is said."""

_FIRST_AFTER = (1.0, 3.0)
"""Between how many seconds after the first use the first cleaning begins: processes that start together spread."""
_SPREAD = 0.1
"""The part by which an interval may be shorter or longer, for the same reason."""
_SHORTEST_PAUSE = 0.01
"""Seconds between two pieces; as long as the last piece took, if that is longer, so that others get their turn."""
_AT_CLOSE = 2.0
"""Seconds that the cleaning at the end may take."""


class Piece(NamedTuple):
    """What one piece of a cleaning did."""

    removed: int
    """How many entries it removed."""
    seen: int
    """How many entries it looked at."""
    after: str | None
    """The key after which the next piece begins; None where this was the last one."""


def checked_interval(seconds: float | None) -> float | None:
    """Return a ``cleanup_interval``.

    :raises ConfigurationError: if it is neither None nor a number of seconds above 0.
    """
    return None if seconds is None else rules.checked_timeout("cleanup_interval", seconds)


def _is_off() -> bool:
    return clock.is_frozen() or keeps_expired()


# --- in memory --------------------------------------------------------------------------------------------------------


class Deadlines:
    """When the entries of a dict in memory expire: the earliest first."""

    _AT_ONCE = 16
    """How many entries a write may remove: more than it adds, so that none are left over for long."""
    _FEW = 1000
    """Up to how many deadlines nobody counts those of entries that were replaced since."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []

    def note(self, key: str, expires_at: int | None, records: "Mapping[str, _Expiring]") -> None:
        """Remember when an entry that was just written expires."""
        if expires_at is None or keeps_expired():
            return
        heapq.heappush(self._heap, (expires_at, key))
        if len(self._heap) > self._FEW + 2 * len(records):  # most are of entries that were replaced since
            self._heap = [(at, key) for key, record in records.items() if (at := record.expires_at) is not None]
            heapq.heapify(self._heap)

    def passed(self, now: int, records: "Mapping[str, _Expiring]") -> Iterator[str]:
        """Yield keys of entries that have expired at ``now`` (milliseconds): a few, the earliest first."""
        if _is_off():
            return
        for _ in range(self._AT_ONCE):
            if not self._heap or self._heap[0][0] > now:
                return
            at, key = heapq.heappop(self._heap)
            record = records.get(key)
            if record is not None and record.expires_at == at:
                yield key


class _Expiring(Protocol):
    """The part of a record that matters here."""

    @property
    def expires_at(self) -> int | None:
        """Milliseconds since the epoch; None for no expiry."""


# --- in the background ------------------------------------------------------------------------------------------------


_Clean: TypeAlias = Callable[[str | None], Coroutine[Any, Any, Piece]]


class PeriodicCleaning:
    """Cleans a storage soon after its first use, then each interval, and when it is closed; a piece at a time.

    No task waits in between: a timer of the event loop does, which goes with its loop.

    :param clean: removes the expired entries among those that follow a key, a piece of them. A weak reference: the
        storage's connections are closed when it is dropped.
    :param interval: seconds from one cleaning to the next; None for never.
    """

    def __init__(self, clean: "WeakMethod[_Clean]", interval: float | None) -> None:
        self._clean = clean
        self._interval = interval
        self._due: float | None = None
        self._opening = 0
        """Which time this is that the storage is open: timers of an earlier one do nothing."""
        self._is_running = False
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._tasks: set[asyncio.Task[None]] = set()

    def note_use(self) -> None:
        """Remember that the storage is used, on the running event loop."""
        if self._interval is None or self._is_running or _is_off():
            return
        if (loop := asyncio.get_running_loop()) in self._loops:
            return
        self._loops.add(loop)
        if self._due is None:
            self._due = time.monotonic() + random.uniform(*_FIRST_AFTER)
        self._set_timer(loop)

    async def finish(self) -> None:
        """Clean for the last time, for as long as a shutdown may take; nothing is raised."""
        was_used, self._due = self._due is not None, None
        self._opening += 1
        self._loops.clear()
        end = time.monotonic() + _AT_CLOSE
        # Each ends after the piece that it is at.
        await _ended({task for task in self._tasks if task.get_loop() is asyncio.get_running_loop()}, end)
        if was_used and not self._is_running and not _is_off():
            await _ended({asyncio.ensure_future(self._clean_all(self._opening, pauses=False))}, end)

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        # By a weak reference: a timer must not keep the storage alive.
        delay = max(0.0, (self._due or 0.0) - time.monotonic())
        loop.call_later(delay, _on_timer, weakref.ref(self), self._opening)

    def on_timer(self, opening: int) -> None:
        """Clean if it is due, and set the next timer."""
        loop = asyncio.get_running_loop()
        if self._due is None or self._interval is None or opening != self._opening:
            return
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._interval * random.uniform(1 - _SPREAD, 1 + _SPREAD)
            if not self._is_running and not _is_off():
                task = loop.create_task(self._clean_all(opening, pauses=True))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._set_timer(loop)

    async def _clean_all(self, opening: int, *, pauses: bool) -> None:
        self._is_running = True
        removed, after = 0, None
        try:
            while opening == self._opening and (clean := self._clean()) is not None:
                began = time.monotonic()
                piece = await clean(after)
                del clean
                removed, after = removed + piece.removed, piece.after
                if after is None:
                    break
                if pauses:
                    await asyncio.sleep(max(_SHORTEST_PAUSE, time.monotonic() - began))
        except StorageError as error:
            logger.info("expired entries stay until the next cleaning: %s", error)
        finally:
            self._is_running = False
        if removed:
            logger.debug("removed %d expired entries", removed)


def _on_timer(reference: "weakref.ref[PeriodicCleaning]", opening: int) -> None:
    if (cleaning := reference()) is not None:
        cleaning.on_timer(opening)


async def _ended(tasks: set[asyncio.Task[None]], end: float) -> None:
    """Wait for tasks; cancel those that are not done by ``end``, and wait until they have returned their connections.

    They are cancelled once: a time-out of anyio's cancels again and again, and a call would leave its statement to run.
    """
    try:
        if tasks:
            await asyncio.wait(tasks, timeout=max(0.0, end - time.monotonic()))
    finally:
        if late := {task for task in tasks if not task.done()}:
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=_AT_CLOSE)
