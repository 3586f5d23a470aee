"""Work in threads: a caller that is cancelled waits for its end, and threads go from owner to owner."""

import asyncio
import gc
import logging
import os
import threading
import time
from contextlib import suppress
from contextvars import ContextVar

import anyio
import pytest

from taskiq_flow.storage.testing import recycle
from taskiq_flow.storage.threads import Threads, end_idle_threads


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

    def _end(self) -> str:
        self.over.set()
        if self._error is not None:
            raise self._error
        return "done"


async def test_run_returns_what_the_work_returns() -> None:
    assert await Threads(1).run(lambda: "done") == "done"


async def test_run_raises_what_the_work_raises() -> None:
    with pytest.raises(ValueError, match="words"):
        await Threads(1).run(lambda: int("words"))


@pytest.mark.parametrize("error", [None, OSError("disk full")])
async def test_cancelled_caller_waits_for_the_end_of_the_work(
    error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(error)
    waiting = asyncio.ensure_future(Threads(1).run(work.in_thread))
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


async def test_second_cancellation_ends_the_wait(caplog: pytest.LogCaptureFixture) -> None:
    work = Work(OSError("disk full"))
    waiting = asyncio.ensure_future(Threads(1).run(work.in_thread))
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


async def test_cancel_scope_waits_for_work_that_is_nearly_done() -> None:
    work = Work()
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_later(0.05, work.may_end.set)  # a thread can only be waited for
        asyncio.get_running_loop().call_soon(scope.cancel)
        await Threads(1).run(work.in_thread)
    assert work.over.is_set()


async def test_cancel_scope_stops_waiting_after_the_grace() -> None:
    work = Work()
    with anyio.move_on_after(0.01) as scope:
        await Threads(1).run(work.in_thread)
    assert scope.cancelled_caught
    assert not work.over.is_set()
    work.may_end.set()


def test_threads_stay_from_one_event_loop_to_the_next() -> None:
    threads = Threads(3)
    assert asyncio.run(threads.run(threading.get_ident)) == asyncio.run(threads.run(threading.get_ident))
    threads.end()


def test_ended_loop_is_not_told_of_later_outcomes(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    threads = Threads(1)

    async def leave() -> None:
        waiting = asyncio.ensure_future(threads.run(work.in_thread))
        await asyncio.to_thread(work.begun.wait, 10)
        for _ in range(2):
            waiting.cancel()
            await asyncio.sleep(0)

    asyncio.run(leave())
    work.may_end.set()
    assert asyncio.run(threads.run(lambda: "done")) == "done", "the thread has done the first work before"
    threads.end()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_end_stops_the_threads_and_more_work_starts_new_ones() -> None:
    threads = Threads(3)
    first = await threads.run(threading.current_thread)
    threads.end()
    await asyncio.to_thread(first.join, 10)
    assert not first.is_alive()
    assert await threads.run(threading.current_thread) is not first
    threads.end()
    threads.end()


async def test_no_more_threads_run_than_allowed() -> None:
    both = threading.Barrier(2)
    threads = Threads(2)
    working: list[str] = []

    def work() -> int:
        working.append(threading.current_thread().name)
        assert len(working) <= 2
        both.wait(10)
        time.sleep(0.01)  # where there were a third thread, it would come meanwhile
        working.pop()
        return both.wait(10)

    await asyncio.gather(*[threads.run(work) for _ in range(4)])
    assert not both.broken
    threads.end()


async def test_end_does_not_wait_for_work() -> None:
    work = Work()
    threads = Threads(1)
    running = asyncio.ensure_future(threads.run(work.in_thread))
    await asyncio.to_thread(work.begun.wait, 10)
    threads.end()
    assert not work.over.is_set()
    work.may_end.set()
    assert await running == "done"


def test_recycled_threads_serve_the_next_owner_of_as_many() -> None:
    first, wider, second = Threads(3), Threads(4), Threads(3)
    thread = asyncio.run(first.run(threading.current_thread))
    first.recycle()
    assert asyncio.run(wider.run(threading.current_thread)) is not thread, "these are to be four at the most"
    assert asyncio.run(second.run(threading.current_thread)) is thread
    assert asyncio.run(first.run(threading.current_thread)) is not thread, "it has an owner already"
    for threads in (first, wider, second, Threads(5)):
        threads.end()
    thread.join(10)
    assert not thread.is_alive()


def test_idle_threads_can_be_ended() -> None:
    threads = Threads(3)
    thread = asyncio.run(threads.run(threading.current_thread))
    threads.recycle()
    threads.recycle()
    threads.end()
    assert thread.is_alive()
    end_idle_threads()
    thread.join(10)
    assert not thread.is_alive()


def test_idle_threads_end_with_the_recycling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskiq_flow.storage.testing._recycling", False)
    threads = Threads(3)
    with recycle():
        thread = asyncio.run(threads.run(threading.current_thread))
        threads.recycle()
        assert thread.is_alive()
    thread.join(10)
    assert not thread.is_alive()


async def test_busy_threads_are_not_recycled() -> None:
    work = Work()
    threads, others = Threads(1), Threads(1)
    running = asyncio.ensure_future(threads.run(work.in_thread))
    await asyncio.to_thread(work.begun.wait, 10)
    threads.recycle()
    assert await others.run(lambda: "at once") == "at once"
    assert await threads.run(lambda: "at once") == "at once"
    work.may_end.set()
    assert await running == "done"
    threads.end()
    others.end()


async def test_threads_are_named_after_the_package() -> None:
    threads = Threads(1)
    assert (await threads.run(threading.current_thread)).name.startswith("taskiq-flow")
    threads.end()


async def test_work_runs_in_the_context_of_its_caller() -> None:
    number = ContextVar[int]("number")
    number.set(7)
    threads = Threads(1)
    assert await threads.run(number.get) == 7
    threads.end()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
def test_forked_process_starts_its_own_threads() -> None:
    threads, idle = Threads(1), Threads(1)
    asyncio.run(idle.run(threading.get_ident))
    asyncio.run(threads.run(threading.get_ident))
    idle.recycle()
    if (child := os.fork()) == 0:
        with suppress(BaseException):
            others = [asyncio.run(asyncio.wait_for(own.run(lambda: 3), 10)) for own in (threads, Threads(1))]
            os._exit(1 + sum(others))
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    threads.end()
    end_idle_threads()
