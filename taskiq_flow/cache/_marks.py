"""What lies under a cache's key in its storage: a value, or a mark that somebody creates it, or failed to.

Values lie there as they are, for people to read. Only the marks, and values that could be taken for one, are dicts with
the key ``taskiq_flow:cache``.
"""

from enum import Enum
from typing import Any, NamedTuple
from uuid import uuid4

from taskiq_flow.exceptions import SerializationError
from taskiq_flow.records.errors import StoredError, encode_error

__all__ = ["MARK", "Kind", "Seen", "as_stored", "creating", "failed", "is_of_same_creator", "read", "renewed"]

MARK = "taskiq_flow:cache"
_LONGEST_LOCK = 3600.0


class Kind(Enum):
    """What is under a key."""

    NOTHING = "nothing"
    VALUE = "value"
    CREATING = "creating"
    FAILED = "failed"


class Seen(NamedTuple):
    """What was found under a key."""

    kind: Kind
    value: Any = None
    """The value, where there is one."""
    error: StoredError | None = None
    """What the creator raised, where it failed."""
    lock_timeout: float = 0.0
    """Seconds that the creator asks for, where there is one."""


def as_stored(value: Any) -> Any:
    """Return ``value``, marked as one where it could be taken for nothing or for a mark."""
    is_plain = value is not None and not (type(value) is dict and MARK in value)
    return value if is_plain else {MARK: Kind.VALUE.value, "value": value}


def creating(lock_timeout: float) -> dict[str, Any]:
    """Return the mark of a new creator; it equals no other's.

    :param lock_timeout: seconds after which the creator is taken for dead, unless its mark has changed.
    """
    return {MARK: Kind.CREATING.value, "by": uuid4().hex, "lock_timeout": lock_timeout, "renewed": 0}


def renewed(mark: dict[str, Any]) -> dict[str, Any]:
    """Return a creator's mark as it is when its creator has been heard of once more."""
    return {**mark, "renewed": mark.get("renewed", 0) + 1}


def is_of_same_creator(found: Any, mark: dict[str, Any]) -> bool:
    """Return whether what was found is a mark of the creator of ``mark``."""
    return type(found) is dict and found.get(MARK) == Kind.CREATING.value and found.get("by") == mark.get("by")


def failed(error: Exception) -> dict[str, Any]:
    """Return the mark of a creator that raised ``error``."""
    return {MARK: Kind.FAILED.value, "error": encode_error(error)}


def read(key: str, found: Any) -> Seen:
    """Return what is under a key of the storage.

    :raises SerializationError: if it is not a cache's.
    """
    if found is None:
        return Seen(Kind.NOTHING)
    if not (type(found) is dict and MARK in found):
        return Seen(Kind.VALUE, found)
    try:
        match found:
            case {"value": value} if found[MARK] == Kind.VALUE.value:
                return Seen(Kind.VALUE, value)
            case {"by": str()} if found[MARK] == Kind.CREATING.value:
                return Seen(Kind.CREATING, lock_timeout=_seconds(found.get("lock_timeout")))
            case {"error": dict(error)} if found[MARK] == Kind.FAILED.value:
                return Seen(Kind.FAILED, error=StoredError.from_data(error))
    except ValueError:
        pass
    raise SerializationError(f"the entry under key {key!r} is no cached value")


def _seconds(stored: Any) -> float:
    """Return the seconds that a mark asks for: at most an hour, whatever a damaged one says."""
    return min(float(stored), _LONGEST_LOCK) if type(stored) in (int, float) and stored > 0 else 0.0
