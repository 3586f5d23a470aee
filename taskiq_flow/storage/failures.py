"""``Failure``: what a storage's error means for what to do next.

Each backend sorts the errors of its server and driver in one table (``storage/redis/errors.py``,
``storage/sql/errors.py``); whoever stores acts on this word, and never on a driver's class.
"""

from dataclasses import dataclass
from enum import Enum

__all__ = ["Diagnosis", "Failure"]


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


@dataclass(frozen=True)
class Diagnosis:
    """What an error of a server or driver turned out to be."""

    failure: Failure
    reason: str
    """For messages: the driver's own words."""
    did_nothing: bool = False
    """Whether the server certainly did not do what it was asked, so that repeating it cannot do harm."""
    while_connecting: bool = False
    """Whether there was no connection yet."""
    refuses_connection: bool = False
    """Whether the server refuses this connection, whatever it is asked."""
    is_foreign_entry: bool = False
    """Whether what is stored is damaged, or not ours."""
    cause: Exception | None = None
    """The driver's error, where another one hides it."""

    @property
    def may_be_repeated(self) -> bool:
        """Whether the call may be made again at once, on another connection."""
        return self.failure is Failure.LOST and self.did_nothing
