"""What lies under a cache's key in its storage: a value, or a mark that somebody creates it, or failed to.

Values lie there as they are, for people to read. Only the marks, and values that could be taken for one, are dicts with
the key ``taskiq_flow:cache``.
"""

from enum import Enum
from typing import Any, NamedTuple
from uuid import uuid4

from taskiq_flow.exceptions import SerializationError
from taskiq_flow.records.errors import StoredError, encode_error

__all__ = ["MARK", "Kind", "Seen", "as_stored", "creating", "failed", "read"]

MARK = "taskiq_flow:cache"


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


def as_stored(value: Any) -> Any:
    """Return ``value``, marked as one where it could be taken for nothing or for a mark."""
    is_plain = value is not None and not (type(value) is dict and MARK in value)
    return value if is_plain else {MARK: Kind.VALUE.value, "value": value}


def creating() -> dict[str, Any]:
    """Return the mark of a new creator; it equals no other's."""
    return {MARK: Kind.CREATING.value, "by": uuid4().hex}


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
                return Seen(Kind.CREATING)
            case {"error": dict(error)} if found[MARK] == Kind.FAILED.value:
                return Seen(Kind.FAILED, error=StoredError.from_data(error))
    except ValueError:
        pass
    raise SerializationError(f"the entry under key {key!r} is no cached value")
