"""``Failure``: what a storage's error means for what to do next.

Each backend sorts the errors of its server and driver in one table (``storage/redis/errors.py``,
``storage/sql/errors.py``); whoever stores acts on this word, and never on a driver's class.
"""

from enum import Enum

__all__ = ["Failure"]


class Failure(Enum):
    """What kind of failure a :class:`~taskiq_flow.exceptions.StorageError` is."""

    LOST = "lost"
    """The connection is no good, or its server has handed its role to another: drop it and try again."""
    PASSING = "passing"
    """The server is busy, locked, starting up, or full for the moment: wait and try again."""
    REFUSED = "refused"
    """The server refuses, and will do so again: a password, a permission, a key that is not legal."""
    UNSTORABLE = "unstorable"
    """This value cannot be stored; another one can."""
    TIMEOUT = "timeout"
    """No answer in time. It is not known whether the call took place; asking again would only wait again."""
