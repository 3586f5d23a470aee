"""Work that outlives the patience of its caller: it is done or undone when the caller goes on, and nobody complains."""

import asyncio
import gc
import logging
import threading

import anyio
import pytest

from taskiq_flow.storage.threads import cancelled_once, in_thread


class Work:
    """Work in a thread or in a coroutine that ends as it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.over = threading.Event()
        self._error = error

    def in_thread(self) -> str:
        self.begun.set()
        self.may_end.wait(10)
        return self._end()

    async def in_coroutine(self) -> str:
        self.begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # it has to close something
            if self._error is None:
                self.over.set()
                raise
        return self._end()

    def _end(self) -> str:
        self.over.set()
        if self._error is not None:
            raise self._error
        return "done"


async def test_what_the_work_returns() -> None:
    async def work() -> str:
        return "done"

    assert await in_thread(lambda: "done") == await cancelled_once(work()) == "done"


async def test_what_the_work_raises() -> None:
    async def work() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await cancelled_once(work())
    with pytest.raises(ValueError, match="words"):
        await in_thread(lambda: int("words"))


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
@pytest.mark.parametrize("error", [None, OSError("disk full")])
async def test_a_caller_that_is_cancelled_waits_for_the_end(
    kind: str, error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(error)
    waiting = asyncio.ensure_future(
        in_thread(work.in_thread) if kind == "thread" else cancelled_once(work.in_coroutine())
    )
    await asyncio.to_thread(work.begun.wait, 10)
    waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.over.is_set()
    del waiting
    gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_second_cancellation_leaves_a_thread_alone(caplog: pytest.LogCaptureFixture) -> None:
    work = Work(OSError("disk full"))
    waiting = asyncio.ensure_future(in_thread(work.in_thread))
    await asyncio.to_thread(work.begun.wait, 10)
    for _ in range(2):
        waiting.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not work.over.is_set()
    work.may_end.set()
    while not work.over.is_set():  # noqa: ASYNC110 - a thread of its own
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_scope_that_cancels_again_and_again_waits_for_what_is_nearly_done() -> None:
    work = Work()
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_later(0.05, work.may_end.set)  # a thread can only be waited for
        asyncio.get_running_loop().call_soon(scope.cancel)
        await in_thread(work.in_thread)
    assert work.over.is_set()


async def test_but_not_for_ever() -> None:
    work = Work()
    with anyio.move_on_after(0.01) as scope:
        await in_thread(work.in_thread)
    assert scope.cancelled_caught
    assert not work.over.is_set()
    work.may_end.set()
