"""Work that a caller who is cancelled must not tear to pieces: in a thread, or closing a connection."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio

__all__ = ["cancelled_once", "in_thread"]

T = TypeVar("T")

_PATIENCE = 0.25
"""Seconds that a time-out may be late, to see the end of what is nearly done."""


async def in_thread(work: Callable[[], T]) -> T:
    """Return what ``work`` returns in a thread.

    A thread cannot be stopped. So a caller that is cancelled waits until the work is done: it must not take effect
    after, and undo, what the caller does next. A second cancellation leaves it alone; so does a scope of anyio's, such
    as a time-out's, which cancels again and again, but it has to wait for a moment.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        running.add_done_callback(_forget_outcome)
        with anyio.CancelScope(shield=True):
            await asyncio.wait([running], timeout=_PATIENCE)
        await asyncio.wait([running])
        raise


async def cancelled_once(work: Coroutine[Any, Any, T]) -> T:
    """Return what ``work`` returns; however often the caller is cancelled, ``work`` is only once.

    A time-out of anyio's cancels again and again until it is obeyed. SQLAlchemy closes the connection of a call that
    was cancelled; disturbed in that, it leaves a task behind that never ends (with aiosqlite).
    """
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        running.cancel()
        running.add_done_callback(_forget_outcome)
        await asyncio.wait([running])
        raise


def _forget_outcome(running: "asyncio.Future[T]") -> None:
    # Nobody is left to be told of its error: asked for here, so that asyncio does not complain that nobody did.
    if not running.cancelled():
        running.exception()
