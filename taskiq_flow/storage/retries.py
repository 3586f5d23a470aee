"""Trying again: pauses that grow, and calls to a storage that fails for a moment, as when its server restarts."""

import math
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import anyio

from taskiq_flow.exceptions import StorageError
from taskiq_flow.storage.failures import Failure

__all__ = ["RETRY_FOR", "pauses", "retried"]

T = TypeVar("T")

RETRY_FOR = 5.0
"""Seconds for which calls are repeated where nothing else is said."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


def pauses(first: float, longest: float, for_seconds: float = math.inf) -> Iterator[float]:
    """Yield the pauses between tries, in seconds: each is twice the one before, and none longer than ``longest``.

    No clock is asked, which a test may have stopped.

    :param first: the first pause.
    :param longest: what no pause exceeds.
    :param for_seconds: no further pause begins once they come to this in all.
    """
    waited, pause = 0.0, first
    while waited < for_seconds:
        yield pause
        waited, pause = waited + pause, min(2 * pause, longest)


async def retried(call: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Return what ``call()`` returns, calling it again for as long as its failure is one that passes.

    Those are the storage errors that say ``LOST`` or ``PASSING``, and a ``ConnectionError`` of a custom adapter. A call
    that was not answered in time is not repeated: another one would only wait for that long again.

    :param seconds: of real time, after which no further call begins; 0 for one call.
    :raises Exception: the last call's error.
    """
    # The event loop's time, which goes on where a test has frozen every other clock.
    deadline = anyio.current_time() + seconds
    waits = pauses(_FIRST_PAUSE, _LONGEST_PAUSE)
    while True:
        try:
            return await call()
        except Exception as error:
            pause = next(waits)
            if not _passes(error) or anyio.current_time() + pause > deadline:
                raise
        await anyio.sleep(pause)


def _passes(error: Exception) -> bool:
    if isinstance(error, StorageError):
        return error.failure in {Failure.LOST, Failure.PASSING}
    return isinstance(error, ConnectionError)
