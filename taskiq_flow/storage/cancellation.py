"""Callers that are cancelled: what they wait for must not be left half done, and they must be cancelled for sure."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio

__all__ = ["Caller", "forget_outcome", "in_own_task", "within"]

T = TypeVar("T")


class Caller:
    """The caller of work that runs in its own task. Cancelling the caller interrupts only parts of the work.

    :param cancel_grace: seconds that the work has, once its caller was cancelled, to come to the first of these parts;
        then it is cancelled all the same.
    """

    def __init__(self, cancel_grace: float) -> None:
        self._cancel_grace = cancel_grace
        self._has_left = False
        self._has_begun = False
        self._interruptible: asyncio.Task[Any] | None = None

    @contextmanager
    def may_interrupt(self) -> Iterator[None]:
        """Let the work inside be cancelled, once, when the caller leaves, or at once if that has happened.

        :raises asyncio.CancelledError: if the caller has left.
        """
        self._has_begun = True
        if self._has_left:
            raise asyncio.CancelledError
        self._interruptible = asyncio.current_task()
        try:
            yield
        finally:
            self._interruptible = None

    def leave(self, running: "asyncio.Task[Any]") -> None:
        """Interrupt what runs, if it may be."""
        self._has_left = True
        if self._interruptible is not None:
            self._interruptible.cancel()
        elif not self._has_begun:
            asyncio.get_running_loop().call_later(self._cancel_grace, self._end_grace, running)

    def _end_grace(self, running: "asyncio.Task[Any]") -> None:
        if not self._has_begun:
            running.cancel()


async def in_own_task(work: Callable[[Caller], Coroutine[Any, Any, T]], cancel_grace: float) -> T:
    """Return what ``work`` returns; however often the caller is cancelled, ``work`` is only once, and where it allows.

    A caller that is cancelled waits for the end of the work. A second cancellation makes it wait no longer: a time-out
    of anyio's cancels again and again until the task ends.

    :param work: is given its caller.
    :param cancel_grace: see :class:`Caller`.
    """
    caller = Caller(cancel_grace)
    running = asyncio.ensure_future(work(caller))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        running.add_done_callback(forget_outcome)
        caller.leave(running)
        await asyncio.wait([running])
        raise


def forget_outcome(running: "asyncio.Future[T]") -> None:
    """Retrieve an error that no caller is left to receive, so that asyncio does not report it as never retrieved."""
    if not running.cancelled():
        running.exception()


@contextmanager
def within(seconds: float) -> Iterator[anyio.CancelScope]:
    """Limit the time for something, as :func:`anyio.move_on_after` does.

    :raises asyncio.CancelledError: if the caller was cancelled before the time was up, and was still running when it
        was: anyio before 4.16 forgets that.
    """
    cancellations = _cancellations()
    with anyio.move_on_after(seconds) as scope:
        yield scope
    if scope.cancelled_caught and _cancellations() > cancellations:
        raise asyncio.CancelledError


def _cancellations() -> int:
    """Return how often the running task was cancelled, without what has been settled since."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
