"""``while_unreachable``: gets a call over a storage that is gone for a moment, as when its server restarts."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

__all__ = ["RETRY_FOR", "while_unreachable"]

T = TypeVar("T")

RETRY_FOR = 5.0
"""Seconds for which calls are repeated where nothing else is said."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


async def while_unreachable(call: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Return what ``call()`` returns, calling it again for as long as the storage cannot be reached.

    :param seconds: of real time, after which no further call begins; 0 for one call.
    :raises ConnectionError: the last call's ``StorageConnectionError``, or that of an adapter of one's own.
    """
    # The event loop's time, which goes on where a test has frozen every other clock.
    deadline, pause = anyio.current_time() + seconds, _FIRST_PAUSE
    while True:
        try:
            return await call()
        except ConnectionError:
            if anyio.current_time() + pause > deadline:
                raise
        await anyio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
