"""``Deliveries``: the messages that were sent on one event loop, until each is over, and what was lost of them."""

import asyncio
import linecache
import os
import sysconfig
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
from taskiq import BrokerMessage

from taskiq_flow import clock

__all__ = ["Deliveries", "Loss", "StuckTasksError"]

# Where the code of others lies: what a task waits for is shown in the application's own.
_OTHERS = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "purelib", "platlib"))
_CANCEL_GRACE = 1.0
"""Seconds that cancelled tasks have to come to their end."""
_OURS = f"{Path(__file__).parents[2]}{os.sep}"


class StuckTasksError(AssertionError):
    """Tasks do not come to an end; the message names each, and what it waits for."""


@dataclass(frozen=True)
class Loss:
    """A result that did not get to where it belongs."""

    task_name: str
    task_id: str
    reason: str
    is_unfinished: bool = False
    """Whether the task had not ended when the test did."""

    def __str__(self) -> str:
        return f"{self.task_name} ({self.task_id}): {self.reason}"


@dataclass(eq=False)
class _Delivery:
    """One message under way."""

    message: BrokerMessage
    due: int = 0
    """When it is to run, in milliseconds on the storage clock; 0 for at once."""
    gate: "asyncio.Future[None] | None" = None
    """What it waits for, until the frozen clock has reached that."""
    is_cancelled_here: bool = False

    def __str__(self) -> str:
        return f"{self.message.task_name} ({self.message.task_id})"


class Deliveries:
    """The messages that are under way on the running event loop.

    :param lose: is told of each that does not come to its end; before Python 3.11 not of one that had begun when its
        event loop ended.
    """

    def __init__(self, lose: Callable[[Loss], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._lose = lose
        self._under_way: dict[asyncio.Task[None], _Delivery] = {}
        self._is_over = False

    def start(self, message: BrokerMessage, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work``, which handles ``message``: after the seconds of the label ``delay``, if it has one."""
        if self._is_over:
            work.close()
            self._lose(_unfinished(message, "was sent after the end of the test, when nothing is run any more"))
            return
        delivery = _Delivery(message)
        if delay := _delay(message):
            delivery.due = clock.now_ms() + round(delay * 1000)
            if clock.is_frozen():
                delivery.gate = self._loop.create_future()
        task = asyncio.ensure_future(self._deliver(delivery, delay, work))
        self._under_way[task] = delivery
        task.add_done_callback(partial(self._ended, work))

    async def _deliver(self, delivery: _Delivery, delay: float, work: Coroutine[Any, Any, None]) -> None:
        if delivery.gate is not None:
            await delivery.gate
        elif delay:
            await asyncio.sleep(delay)
        await work

    def _ended(self, work: Coroutine[Any, Any, None], task: "asyncio.Task[None]") -> None:
        delivery = self._under_way.pop(task)
        work.close()  # which has not begun where the task was cancelled before
        if was_cancelled(task) and delivery.gate is None and not delivery.is_cancelled_here:
            self._lose(_unfinished(delivery.message, "was broken off by the end of its event loop"))

    def clock_moved(self) -> None:
        """Let go what is due by now; called from whichever thread moved the clock."""
        now = clock.now_ms()
        for delivery in list(self._under_way.values()):
            if delivery.gate is not None and delivery.due <= now and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(_let_go, delivery)

    def next_due(self) -> int | None:
        """Return when the first of those that wait for the frozen clock is due, in milliseconds; None without any."""
        return min((delivery.due for delivery in self._held()), default=None)

    async def settle(self, timeout: float | None = None) -> None:
        """Wait until nothing runs any more, what running tasks send included; but for what waits for the frozen clock.

        :param timeout: seconds of real time.
        :raises StuckTasksError: something still runs after that.
        """
        with anyio.move_on_after(timeout) as scope:
            while running := self._running():
                await asyncio.wait(running)
                await asyncio.sleep(0)  # callbacks of what has just ended, which may have sent more
        if scope.cancelled_caught:
            raise StuckTasksError(f"after {timeout:g} s there still run\n" + "\n".join(self.told()))

    def told(self) -> list[str]:
        """Return a line for each message under way, that says what it waits for."""
        return [f"  {delivery} {_what_it_waits_for(task, delivery)}" for task, delivery in self._under_way.items()]

    async def end(self, timeout: float) -> None:
        """Wait until nothing runs any more, what running tasks send included, and cancel what is left then.

        What waits for the frozen clock has not begun, and is not lost.

        :param timeout: seconds of real time.
        """
        with suppress(StuckTasksError):
            await self.settle(timeout)
        self._is_over = True  # what is cancelled may send something yet: a chain without an end must have one
        for task, delivery in self._under_way.items():
            if delivery.gate is None and not delivery.is_cancelled_here:
                reason = f"was still running at the end of the test and {timeout:g} s later, and "
                self._lose(_unfinished(delivery.message, reason + _what_it_waits_for(task, delivery)))
            delivery.is_cancelled_here = True
            task.cancel()
        if self._under_way:
            await asyncio.wait([*self._under_way], timeout=_CANCEL_GRACE)

    def _held(self) -> list[_Delivery]:
        return [delivery for delivery in self._under_way.values() if delivery.gate is not None]

    def _running(self) -> "list[asyncio.Task[None]]":
        here = asyncio.current_task()
        return [task for task, delivery in self._under_way.items() if delivery.gate is None and task is not here]


def was_cancelled(task: "asyncio.Task[None]") -> bool:
    """Return whether somebody cancelled a task, or nearly: before Python 3.11 it must have obeyed.

    taskiq does not: it makes an error result of a cancellation, and goes on.
    """
    return task.cancelled() or bool(getattr(task, "cancelling", lambda: 0)())


def _unfinished(message: BrokerMessage, reason: str) -> Loss:
    return Loss(message.task_name, message.task_id, reason, is_unfinished=True)


def _let_go(delivery: _Delivery) -> None:
    if delivery.gate is not None and not delivery.gate.done():
        delivery.gate.set_result(None)
        delivery.gate = None


def _delay(message: BrokerMessage) -> float:
    """Return the seconds of the label ``delay``: what taskiq's retries ask for; 0 where there is none."""
    try:
        return max(0.0, float(message.labels.get("delay", 0)))
    except (TypeError, ValueError):  # not a number: other brokers ignore it as well
        return 0.0


def _what_it_waits_for(task: "asyncio.Task[None]", delivery: _Delivery) -> str:
    if delivery.gate is not None:
        return f"waits for {clock.from_ms(delivery.due).isoformat()} on the frozen clock: move it with advance()"
    frames = [
        frame for frame in _suspended(task.get_coro()) if not frame.f_code.co_filename.startswith((*_OTHERS, _OURS))
    ]
    if not frames:  # what is seen is taskiq, which waits for a thread or has not begun
        return "runs in a thread, or is about to begin"
    where = frames[-1]
    file, line = where.f_code.co_filename, where.f_lineno
    shown = linecache.getline(file, line).strip()
    return f"waits in {where.f_code.co_name} ({_short(file)}:{line}): {shown}"


def _suspended(coroutine: Any) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine and of what it awaits, the outermost first."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            yield frame
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)


def _short(file: str) -> str:
    here = f"{Path.cwd()}{os.sep}"
    return file.removeprefix(here)
