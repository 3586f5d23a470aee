"""``Deliveries``: the messages that were sent, until each is over, and what was lost of them."""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any

import anyio
from taskiq import BrokerMessage

from taskiq_flow import clock
from taskiq_flow.pytest_plugin.broker.task_loops import TaskLoop
from taskiq_flow.pytest_plugin.broker.waiting import what_it_waits_for

__all__ = ["Deliveries", "Delivery", "Loss", "StuckTasksError", "delay_of", "was_cancelled"]

_CANCEL_GRACE = 1.0
"""Seconds that cancelled tasks have to come to their end."""
_LOOP_END_TIMEOUT = 5.0
"""Seconds for which the end of an event loop waits for what was sent from it."""


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
class Delivery:
    """One message under way.

    :param handle: handles the message, as a worker would.
    :param place: where it is handled.
    :param sender: the event loop that it was sent from, directly or by tasks, if that only sends.
    """

    message: BrokerMessage
    handle: Callable[[], Awaitable[None]]
    place: TaskLoop
    sender: TaskLoop | None
    delay: float = 0.0
    """Seconds of real time that it waits before it is handled."""
    due: int = 0
    """When it is to be handled, in milliseconds on the storage clock; 0 for at once."""
    is_held: bool = False
    """Whether it waits until the frozen clock has reached that."""
    is_cancelled_here: bool = False
    is_lingering: bool = False
    """Whether it is over, but for what it has sent on an event loop that ends with it."""
    task: "_DeliveryTask | None" = None
    done: "concurrent.futures.Future[None]" = field(default_factory=concurrent.futures.Future)

    def __post_init__(self) -> None:
        self.done.set_running_or_notify_cancel()  # nobody who waits for it may cancel it

    def __str__(self) -> str:
        return f"{self.message.task_name} ({self.message.task_id})"


_CURRENT: "ContextVar[Delivery | None]" = ContextVar("taskiq_flow_delivery", default=None)
"""The message that is being handled."""


class Deliveries:
    """The messages that are under way, on whichever event loop; its methods may be called from any thread.

    :param lose: is told of each that does not come to its end.
    :param another_place: returns where a message is handled whose event loop has ended meanwhile.
    """

    def __init__(self, lose: Callable[[Loss], None], another_place: Callable[[], TaskLoop]) -> None:
        self._lose = lose
        self._another_place = another_place
        # A worker knows nothing of its senders' context variables, but the test may have set some.
        self._context = copy_context()
        self._lock = threading.Lock()
        self._under_way: dict[Delivery, None] = {}
        self.released = 0
        """How many the frozen clock has let go so far."""

    # --- under way ----------------------------------------------------------------------------------------------------

    def start(
        self, message: BrokerMessage, handle: Callable[[], Awaitable[None]], place: TaskLoop, sender: TaskLoop
    ) -> None:
        """Handle a message on its event loop: after the seconds of the label ``delay``, if it has one."""
        if place.is_over:
            self._lose(_unfinished(message, "was sent after the end of the test, when nothing is run any more"))
            return
        parent = _CURRENT.get()
        origin = sender if not sender.runs_tasks else parent.sender if parent is not None else None
        delivery = Delivery(message, handle, place, origin)
        if delay := delay_of(message):
            delivery.due = clock.now_ms() + round(delay * 1000)
            delivery.is_held = clock.is_frozen()
            delivery.delay = 0.0 if delivery.is_held else delay
        with self._lock:
            self._under_way[delivery] = None
        if not delivery.is_held:
            self._begin(delivery)

    def _begin(self, delivery: Delivery) -> None:
        loop = delivery.place.loop
        if loop is _running_loop():
            self._create_task(delivery)
            return
        try:
            loop.call_soon_threadsafe(self._create_task, delivery)
        except RuntimeError:  # it is closed
            self._over(delivery)
            self._lose(_unfinished(delivery.message, "was to be run on an event loop that had ended"))

    def _create_task(self, delivery: Delivery) -> None:
        work = self._deliver(delivery)
        delivery.task = _DeliveryTask(work, loop=delivery.place.loop, context=self._context.copy())
        delivery.task.add_done_callback(lambda task: self._ended(delivery, task))

    async def _deliver(self, delivery: Delivery) -> None:
        _CURRENT.set(delivery)
        if delivery.delay:
            await asyncio.sleep(delivery.delay)
            delivery.delay = 0.0
        await delivery.handle()
        if delivery.task is not None and delivery.task.is_asked_to_end:
            delivery.is_lingering = True
            with suppress(StuckTasksError):
                await self.settle(_LOOP_END_TIMEOUT)

    def _ended(self, delivery: Delivery, task: "asyncio.Task[None]") -> None:
        if was_cancelled(task) and not delivery.is_cancelled_here:
            self._lose(_unfinished(delivery.message, "was broken off by the end of its event loop"))
        self._over(delivery)

    def _over(self, delivery: Delivery) -> None:
        with self._lock:
            self._under_way.pop(delivery, None)
        delivery.done.set_result(None)
        if delivery.sender is not None:
            with suppress(RuntimeError):  # it is closed
                # The task may have set an asyncio.Event on which its sender waits: from another thread, nobody notices.
                delivery.sender.loop.call_soon_threadsafe(_nothing)

    # --- the frozen clock ---------------------------------------------------------------------------------------------

    def clock_moved(self) -> None:
        """Let go what is due by now; called from whichever thread moved the clock."""
        now = clock.now_ms()
        for delivery in self._all():
            if delivery.is_held and delivery.due <= now:
                delivery.is_held = False
                self.released += 1
                if delivery.place.is_over or delivery.place.loop.is_closed():
                    delivery.place = self._another_place()
                self._begin(delivery)

    def next_due(self) -> int | None:
        """Return when the first of those that wait for the frozen clock is due, in milliseconds; None without any."""
        return min((delivery.due for delivery in self._all() if delivery.is_held), default=None)

    # --- waiting ------------------------------------------------------------------------------------------------------

    async def settle(self, timeout: float | None = None, sender: TaskLoop | None = None) -> None:
        """Wait until nothing runs any more, what running tasks send included; but for what waits for the frozen clock.

        :param timeout: seconds of real time.
        :param sender: an event loop; wait for what was sent from it, and do not wait for delays.
        :raises StuckTasksError: if something still runs after that.
        """
        here, me = asyncio.get_running_loop(), asyncio.current_task()
        with anyio.move_on_after(timeout) as scope:
            while running := [each for each in self._running(sender) if me is None or each.task is not me]:
                await _wait(running, here)
                await asyncio.sleep(0)  # callbacks of what has just ended, which may have sent more
        if scope.cancelled_caught:
            raise self._stuck(timeout)

    def settle_sync(self, timeout: float) -> None:
        """Wait as :meth:`settle` does, in a thread that runs no event loop.

        :raises StuckTasksError: if something still runs after that.
        """
        deadline = time.monotonic() + timeout
        while running := self._running():
            left = concurrent.futures.wait([delivery.done for delivery in running], timeout).not_done
            if left or (time.monotonic() > deadline and self._running()):
                raise self._stuck(timeout)

    async def wait_for_those_of(self, sender: TaskLoop, timeout: float) -> None:
        """Wait, at the end of an event loop that only sends, for what was sent from it; then it goes on without it."""
        with suppress(StuckTasksError):
            await self.settle(min(timeout, _LOOP_END_TIMEOUT), sender)

    def told(self) -> list[str]:
        """Return a line for each message under way, that says what it waits for."""
        return [f"  {delivery} {_what_it_waits_for(delivery)}" for delivery in self._all()]

    async def end(self, place: TaskLoop, timeout: float) -> None:
        """Wait until nothing runs any more, and cancel what is left then on the running event loop.

        What waits for the frozen clock has not begun, and is not lost.

        :param timeout: seconds of real time.
        """
        with suppress(StuckTasksError):
            await self.settle(timeout)
        place.is_over = True  # what is cancelled may send something yet: a chain without an end must have one
        left = [delivery for delivery in self._all() if delivery.place is place and not delivery.is_held]
        for delivery in left:
            if not delivery.is_cancelled_here:
                reason = f"was still running at the end of the test and {timeout:g} s later, and "
                self._lose(_unfinished(delivery.message, reason + _what_it_waits_for(delivery)))
            delivery.is_cancelled_here = True
            if delivery.task is not None:
                delivery.task.cancel()
        if tasks := [delivery.task for delivery in left if delivery.task is not None]:
            await asyncio.wait(tasks, timeout=_CANCEL_GRACE)

    def _all(self) -> list[Delivery]:
        with self._lock:
            return list(self._under_way)

    def _running(self, sender: TaskLoop | None = None) -> list[Delivery]:
        running = [delivery for delivery in self._all() if not delivery.is_held and not delivery.is_lingering]
        if sender is None:
            return running
        return [delivery for delivery in running if delivery.sender is sender and not delivery.delay]

    def _stuck(self, timeout: float | None) -> StuckTasksError:
        return StuckTasksError(f"after {timeout:g} s there still run\n" + "\n".join(self.told()))


class _DeliveryTask(asyncio.Task[None]):
    """A task that the end of its event loop waits for, for some time, instead of cancelling it.

    ``asyncio.run`` cancels whatever runs when its coroutine has ended, and then waits for it. A worker would go on.
    """

    is_asked_to_end = False

    def cancel(self, msg: Any | None = None) -> bool:
        loop = self.get_loop()
        if loop.is_running() or self.done():
            return super().cancel(msg)
        if not self.is_asked_to_end:
            self.is_asked_to_end = True
            loop.call_later(_LOOP_END_TIMEOUT, super().cancel)
        return False


def was_cancelled(task: "asyncio.Task[Any]") -> bool:
    """Return whether somebody cancelled a task, whatever it made of that.

    taskiq makes an error result of a cancellation, and goes on.
    """
    return task.cancelled() or task.cancelling() > 0


def delay_of(message: BrokerMessage) -> float:
    """Return the seconds of the label ``delay``: what taskiq's retries ask for; 0 where there is none."""
    try:
        return max(0.0, float(message.labels.get("delay", 0)))
    except (TypeError, ValueError):  # not a number: other brokers ignore it as well
        return 0.0


async def _wait(deliveries: list[Delivery], here: asyncio.AbstractEventLoop) -> None:
    """Wait until all of these are over, whose tasks may be on other event loops."""
    tasks = [each.task for each in deliveries if each.task is not None and each.place.loop is here]
    others = [asyncio.wrap_future(each.done) for each in deliveries if each.task is None or each.place.loop is not here]
    try:
        await asyncio.wait([*tasks, *others])
    finally:
        for other in others:
            other.cancel()  # else they would wake this event loop when it has long been closed


def _nothing() -> None:
    """Do nothing; to be called wakes an event loop."""


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _unfinished(message: BrokerMessage, reason: str) -> Loss:
    return Loss(message.task_name, message.task_id, reason, is_unfinished=True)


def _what_it_waits_for(delivery: Delivery) -> str:
    if delivery.is_held:
        return f"waits for {clock.from_ms(delivery.due).isoformat()} on the frozen clock: move it with advance()"
    if delivery.delay:
        return f"waits for its delay of {delivery.delay:g} s: with the fixture frozen_clock, advance() skips it"
    return what_it_waits_for(delivery.task)
