"""What a call answers, and when two answers are the same."""

from datetime import datetime, time
from decimal import Decimal
from typing import Any, NamedTuple

from taskiq_flow.storage import StorageEntry

__all__ = ["Raised", "canonical"]


class Raised(NamedTuple):
    """The answer of a call that raised."""

    kind: type[Exception]


def canonical(thing: Any) -> tuple[str, Any]:
    """Return what two things share if they are the same to the contract: equal, and of the same types, deeply."""
    kind = type(thing)
    part: Any
    if kind in {list, tuple, Raised}:
        part = [canonical(item) for item in thing]
    elif kind in {set, frozenset}:
        part = sorted((canonical(item) for item in thing), key=repr)
    elif kind is dict:
        part = [(canonical(key), canonical(item)) for key, item in thing.items()]
    elif kind is StorageEntry:
        part = canonical([thing.key, thing.value, thing.metadata, thing.created_at, thing.expires_at])
    elif kind in {datetime, time}:
        part = thing.isoformat(), thing.fold  # a zone may come back as the offset that it had
    elif kind is Decimal:
        part = thing.as_tuple()
    else:
        part = hex(thing) if kind is int else repr(thing)
    return kind.__name__, part
