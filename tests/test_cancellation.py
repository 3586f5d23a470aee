"""Work that its caller may interrupt in some parts only: nothing is left half done, and no error goes unretrieved."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import pytest

from taskiq_flow.storage.cancellation import Caller, in_own_task

PARTS = ("open", "work", "close")


class Call:
    """Opens something, works, and closes it again; waits in each part until it is told to go on."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.cancelled: list[str] = []
        self.error: Exception | None = None
        self._is_there = {part: asyncio.Event() for part in PARTS}
        self._may_go_on = {part: asyncio.Event() for part in PARTS}

    async def __call__(self, caller: Caller) -> str:
        await self._do("open")
        try:
            with caller.may_interrupt():
                await self._do("work")
            return "done"
        finally:
            await self._do("close")

    def may(self, *parts: str) -> None:
        for part in parts:
            self._may_go_on[part].set()

    async def reached(self, part: str) -> None:
        await self._is_there[part].wait()

    async def _do(self, part: str) -> None:
        self.told.append(part)
        self._is_there[part].set()
        try:
            await self._may_go_on[part].wait()
        except asyncio.CancelledError:
            self.cancelled.append(part)
            raise
        if part == "work" and self.error is not None:
            raise self.error


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What asyncio said of errors that nobody asked for."""

    def find() -> list[str]:
        gc.collect()
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

    return find


async def test_in_own_task_returns_what_the_work_returns() -> None:
    call = Call()
    call.may("open", "work", "close")
    assert await in_own_task(call, 5) == "done"


async def test_in_own_task_raises_what_the_work_raises() -> None:
    call = Call()
    call.error = OSError("disk full")
    call.may("open", "work", "close")
    with pytest.raises(OSError, match="disk full"):
        await in_own_task(call, 5)


async def cancelled_in(call: Call, part: str) -> "asyncio.Task[str]":
    """Return a caller that was cancelled while the call was in that part, and has heard of it."""
    call.may(*PARTS[: PARTS.index(part)])
    waiting = asyncio.ensure_future(in_own_task(call, 5))
    await call.reached(part)
    waiting.cancel()
    await asyncio.sleep(0.001)
    assert not waiting.done()
    return waiting


@pytest.mark.parametrize(
    ("part", "told", "cancelled"),
    [
        ("open", ["open", "close"], []),
        ("work", ["open", "work", "close"], ["work"]),
        ("close", ["open", "work", "close"], []),
    ],
)
async def test_cancellation_interrupts_only_the_interruptible_part(
    part: str, told: list[str], cancelled: list[str], complaints: Callable[[], list[str]]
) -> None:
    call = Call()
    waiting = await cancelled_in(call, part)
    call.may("open", "work")
    await call.reached("close")
    await asyncio.sleep(0.001)
    assert not waiting.done(), "it waits until all is closed"
    call.may("close")
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (call.told, call.cancelled) == (told, cancelled)
    assert complaints() == []


async def test_error_without_a_waiting_caller_is_not_reported(complaints: Callable[[], list[str]]) -> None:
    call = Call()
    call.error = OSError("disk full")
    waiting = await cancelled_in(call, "open")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    call.may("open", "work", "close")
    await call.reached("close")
    await asyncio.sleep(0.001)
    assert complaints() == []


async def again_and_again(work: Awaitable[str]) -> None:
    """Be cancelled as a time-out of anyio's does it: until one obeys."""
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_later(0.01, scope.cancel)
        await work


@pytest.mark.parametrize(("part", "cancelled"), [("open", []), ("work", ["work"]), ("close", [])])
async def test_repeated_cancellation_interrupts_once(part: str, cancelled: list[str]) -> None:
    call = Call()
    call.may(*PARTS[: PARTS.index(part)])
    await again_and_again(in_own_task(call, 5))
    call.may("open", "work")
    await call.reached("close")
    await asyncio.sleep(0.001)
    assert call.cancelled == cancelled
    call.may("close")


async def test_work_that_does_not_begin_is_cancelled_after_the_grace() -> None:
    call = Call()
    waiting = asyncio.ensure_future(in_own_task(call, 0.01))
    await call.reached("open")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (call.told, call.cancelled) == (["open"], ["open"])


async def test_cancel_grace_is_for_the_beginning_only() -> None:
    call = Call()
    call.may("open")
    waiting = asyncio.ensure_future(in_own_task(call, 0.01))
    await call.reached("work")
    waiting.cancel()
    await call.reached("close")
    await asyncio.sleep(0.02)  # longer than the grace
    call.may("close")
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert call.cancelled == ["work"]


async def test_cancel_grace_ends_with_the_beginning() -> None:
    call = Call()
    waiting = asyncio.ensure_future(in_own_task(call, 0.01))
    await call.reached("open")
    waiting.cancel()
    await asyncio.sleep(0)
    call.may("open")
    await call.reached("close")
    await asyncio.sleep(0.02)  # longer than the grace
    call.may("close")
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert call.cancelled == []


async def test_several_parts_can_be_interruptible() -> None:
    told: list[int] = []

    async def work(caller: Caller, pauses: int) -> None:
        for number in range(pauses):
            with caller.may_interrupt():
                told.append(number)
                await asyncio.sleep(0)
            await asyncio.sleep(0)

    await in_own_task(partial(work, pauses=3), 5)
    assert told == [0, 1, 2]
