"""How a call fails: in time, saying where, and without showing the password."""

import pickle
import time
import traceback
from collections.abc import Awaitable, Iterable
from typing import TypeVar

import pytest

from taskiq_flow.exceptions import StorageError

__all__ = ["failure"]

E = TypeVar("E", bound=StorageError)


async def failure(
    call: Awaitable[object], expected: type[E], *, names: Iterable[str], hides: Iterable[str] = (), within: float = 0.5
) -> E:
    """Wait for ``call`` to fail, and return the error.

    :param names: what its message must say.
    :param hides: the password in all its forms, which nothing that can be printed of the error may show.
    :param within: the time-out, in seconds.
    """
    start = time.monotonic()
    with pytest.raises(StorageError) as caught:
        await call
    seconds, error = time.monotonic() - start, caught.value
    assert type(error) is expected, repr(error)
    assert seconds < 20 * within, "a busy machine may need a while, but not that long"
    for name in names:
        assert name in str(error)
    assert error.__traceback__
    # With the locals of each frame, from the adapter's on, as `pytest --showlocals` prints them.
    told = traceback.TracebackException(expected, error, error.__traceback__.tb_next, capture_locals=True)
    shown = "".join([repr(error), str(error), *told.format()])
    for secret in hides:
        assert secret not in shown
    assert pickle.loads(pickle.dumps(error)).args == error.args
    return error
