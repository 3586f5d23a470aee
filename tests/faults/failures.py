"""How a call fails: saying where, and without showing the password."""

import pickle
import traceback
from collections.abc import Awaitable, Iterable
from typing import TypeVar

import pytest

from taskiq_flow.exceptions import StorageError

__all__ = ["failure"]

E = TypeVar("E", bound=StorageError)


async def failure(call: Awaitable[object], expected: type[E], *, names: Iterable[str], hides: Iterable[str] = ()) -> E:
    """Wait for ``call`` to fail, and return the error.

    :param names: what its message must say.
    :param hides: the password in all its forms, which nothing that can be printed of the error may show.
    """
    with pytest.raises(StorageError) as caught:
        await call
    error = caught.value
    assert type(error) is expected, repr(error)
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
