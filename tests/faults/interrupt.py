"""Cancels a call at each of the places where it waits, one after the other."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import anyio

__all__ = ["Way", "interrupted"]

Told = Callable[[Any], None]


class Way(Enum):
    """How a call is cancelled."""

    EARLY = "the task, before what it waits for has happened"
    LATE = "the task, when what it waits for has just happened"
    SCOPE = "a scope around the call, again and again: what a time-out does"


async def interrupted(call: Callable[[], Awaitable[object]], wait: int, way: Way) -> bool:
    """Run ``call`` in a task and cancel it where something waits for the ``wait``-th time, counted from 0: the call, or
    one of the tasks that it has made.

    :return: whether anything waited that often: False where the call came to its end before.
    """
    loop, scope, waits, cancelled = asyncio.get_running_loop(), anyio.CancelScope(), 0, False

    def cancel_at(awaited: Any) -> None:
        nonlocal waits
        waits += 1
        if waits != wait + 1:
            return
        if way is Way.SCOPE:
            loop.call_soon(scope.cancel)
        elif way is Way.LATE and asyncio.isfuture(awaited):
            awaited.add_done_callback(cancel)  # runs before the one that wakes whoever waits
        else:
            loop.call_soon(cancel)

    def cancel(*_: object) -> None:
        nonlocal cancelled
        cancelled = task.cancel()

    async def run() -> None:
        with scope:
            await call()

    with _all_tasks_watched(loop, cancel_at):
        task = asyncio.create_task(run())
        await asyncio.wait([task])
    assert task.cancelled() == cancelled, f"at wait {wait}, a cancellation was lost, or nobody's"
    if not cancelled:
        task.result()
    return waits > wait


@contextmanager
def _all_tasks_watched(loop: asyncio.AbstractEventLoop, told: Told) -> Iterator[None]:
    """Tell of each time that one of the tasks waits that are made meanwhile."""

    async def watched(awaited: Any) -> Any:
        return await _Watched(awaited, told)

    before = loop.get_task_factory()
    loop.set_task_factory(lambda loop, work, **options: asyncio.Task(watched(work), loop=loop, **options))
    try:
        yield
    finally:
        loop.set_task_factory(before)


class _Watched:
    """An awaitable that tells of each time that another one waits."""

    def __init__(self, awaited: Awaitable[Any], told: Told) -> None:
        self._awaited = awaited
        self._told = told

    def __await__(self) -> Generator[Any, Any, Any]:
        steps, error = self._awaited.__await__(), None
        while True:
            try:
                waits_for = steps.send(None) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            self._told(waits_for)
            error = None
            try:
                yield waits_for
            except BaseException as thrown:  # noqa: BLE001 - it goes to where the call waits
                error = thrown
