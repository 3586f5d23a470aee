"""The plain model: what docs/contract.md promises, on a dict and a number.

Written from the contract's page alone. It takes nothing from the implementation but names: of the errors, of
``StorageEntry``, and ``ABSENT``. It keeps its own time, finds patterns with the standard library, and stores nothing
but Python objects. Where that leaves something open, the answer here is the one that all backends have to give:

- of several faults in one call the key's comes first, then the expected value's, the time to live's, the value's;
- ``delete`` of an expired entry leaves it to ``cleanup``, which counts it;
- a value may be nested 100 containers deep.
"""

from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any
from uuid import UUID

from taskiq_flow.exceptions import InvalidKeyError, InvalidTTLError, SerializationError
from taskiq_flow.storage import StorageEntry
from taskiq_flow.storage.base import ABSENT
from tests.fuzz.answers import canonical

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
HUNDRED_YEARS = 100 * 365.25 * 24 * 3600


@dataclass
class Kept:
    value: Any
    created_at: int
    expires_at: int | None
    metadata: dict[str, Any]


@dataclass
class Server:
    """What the adapters of one example share: the time, in microseconds, and the entries of each namespace."""

    now: int
    namespaces: dict[str, dict[str, Kept]] = field(default_factory=dict)

    @property
    def now_ms(self) -> int:
        return self.now // 1000

    def deadlines(self) -> list[int]:
        """Return the moments at which something ends or has ended, in milliseconds."""
        kept = [entry for entries in self.namespaces.values() for entry in entries.values()]
        return sorted({entry.expires_at for entry in kept if entry.expires_at is not None})


class PlainAdapter:
    def __init__(self, server: Server, namespace: str, ttl_seconds: float | None) -> None:
        self._server = server
        self._entries = server.namespaces.setdefault(namespace, {})
        self._default = ttl_seconds

    def get(self, key: Any) -> Any:
        kept = self.live().get(_legal(key))
        return kept and kept.value

    def set(self, key: Any, value: Any, ttl_seconds: Any = None) -> None:
        name, expires_at = _legal(key), self._end(ttl_seconds)
        _must_be_storable(value)
        self._entries[name] = Kept(value, self._server.now_ms, expires_at, {})

    def delete(self, key: Any) -> bool:
        name = _legal(key)
        return name in self.live() and self._entries.pop(name) is not None

    def exists(self, key: Any) -> bool:
        return _legal(key) in self.live()

    def keys(self, pattern: Any = "*") -> list[str]:
        if not isinstance(pattern, str):
            raise TypeError
        return sorted(key for key in self.live() if fnmatchcase(key, pattern))

    def cleanup(self, ttl_seconds: int = 3600) -> int:
        expired = self._entries.keys() - self.live().keys()
        for key in expired:
            del self._entries[key]
        return len(expired)

    def get_entry(self, key: Any) -> StorageEntry | None:
        kept = self.live().get(name := _legal(key))
        if kept is None:
            return None
        expires_at = None if kept.expires_at is None else _moment(kept.expires_at)
        return StorageEntry(name, kept.value, _moment(kept.created_at), expires_at, kept.metadata)

    def set_entry(self, entry: StorageEntry) -> None:
        name = _legal(entry.key)
        _must_be_storable(entry.value)
        _must_be_storable(entry.metadata)
        self._entries.pop(name, None)
        expires_at = None if entry.expires_at is None else _whole_ms(entry.expires_at)
        if expires_at is None or expires_at > self._server.now_ms:
            self._entries[name] = Kept(entry.value, _whole_ms(entry.created_at), expires_at, entry.metadata)

    def compare_and_set(self, key: Any, expected: Any, value: Any, ttl_seconds: Any = None) -> bool:
        name = _legal(key)
        if expected is not ABSENT:
            _must_be_storable(expected)
        expires_at = self._end(ttl_seconds)
        if value is not ABSENT:
            _must_be_storable(value)
        kept = self.live().get(name)
        if canonical(ABSENT if kept is None else kept.value) != canonical(expected):
            return False
        if value is not ABSENT:
            self._entries[name] = Kept(value, self._server.now_ms, expires_at, {})
        elif kept is not None:
            del self._entries[name]
        return True

    def ending_at(self, deadline: int) -> list[str]:
        return [key for key, kept in self._entries.items() if kept.expires_at == deadline]

    def live(self) -> dict[str, Kept]:
        now = self._server.now_ms
        return {key: kept for key, kept in self._entries.items() if kept.expires_at is None or now < kept.expires_at}

    def _end(self, ttl_seconds: Any) -> int | None:
        ttl = self._default if ttl_seconds is None else ttl_seconds
        return None if ttl is None else self._server.now_ms + _milliseconds(ttl)


def is_legal_key(key: Any) -> bool:
    if not isinstance(key, str) or key == "" or "\0" in key or any("\ud800" <= char <= "\udfff" for char in key):
        return False
    return len(key.encode()) <= 1024


def is_storable(value: Any, depth: int = 100) -> bool:
    kind = type(value)
    if kind in {type(None), bool, int, float, str, bytes, date, timedelta, Decimal, UUID}:
        return True
    if kind is datetime:
        return True  # a zone comes back as the offset that it had, in its repeated hour as well
    if kind is time:
        return value.tzinfo is None or type(value.tzinfo) is timezone
    if kind in {list, tuple, set, frozenset}:
        return depth > 0 and all(is_storable(item, depth - 1) for item in value)
    if kind is dict:
        parts = [*value.keys(), *value.values()]
        return depth > 0 and all(is_storable(part, depth - 1) for part in parts)
    return False


def _legal(key: Any) -> str:
    if not is_legal_key(key):
        raise InvalidKeyError("")
    return str.__str__(key)  # the text of a str of a class of its own, which str() might give as another


def _must_be_storable(value: Any) -> None:
    if not is_storable(value):
        raise SerializationError("")


def _milliseconds(ttl: Any) -> int:
    if type(ttl) not in {int, float} or not 0 < ttl <= HUNDRED_YEARS:
        raise InvalidTTLError("")
    return max(1, round(Fraction(ttl) * 1000))


def _whole_ms(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


def _moment(milliseconds: int) -> datetime:
    return EPOCH + timedelta(milliseconds=milliseconds)
