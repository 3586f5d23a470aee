"""The only codec: Python values to JSON text and back, without loss, and without ever running anything.

Plain JSON data is written as plain JSON. A closed set of other types is written as a tagged object::

    (1, 2)               {"$type": "tuple", "value": [1, 2]}
    Decimal("1.10")      {"$type": "decimal", "value": "1.10"}
    {3: "x"}             {"$type": "dict", "value": [[3, "x"]]}

A dict of the user's that has a key ``"$type"`` is written in the last form, so that it cannot be taken for a tag.
Types are taken exactly: an ``OrderedDict``, a namedtuple or an ``IntEnum`` would come back as something else, and is
refused instead (docs/contract.md, values).
"""

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Collection
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from taskiq_flow._text import shortened, shown
from taskiq_flow.exceptions import SerializationError

__all__ = ["MAX_DEPTH", "dumps", "loads"]

MAX_DEPTH = 100
"""How many containers deep a value may be nested: above it a reader might run out of stack where the writer did not."""

_TAG = "$type"
# Python refuses to print integers of more than 640 digits where its limit is set lowest; hexadecimal has no limit.
_PLAIN_INT_BITS = 2048
# Longer than any that is written as it is: to read a decimal number takes time with the square of its length.
_MAX_DIGITS = 1000
_MANY_DIGITS = re.compile(rf"(?<![0-9])[0-9]{{{_MAX_DIGITS}}}")
_MAX_ALIKE = 100
"""How many items of a set, or keys of a dict, may have one hash: they are compared with each other."""
# Where JSON would take two surrogates for the one character that they stand for in UTF-16.
_FUSES = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")
# Bound now: while freezegun freezes a test, the names `datetime` and `date` of this module are its fakes.
_datetime_from_iso, _date_from_iso = datetime.fromisoformat, date.fromisoformat
_TINY_OFFSET = re.compile(r"([+-])00:00:00\.(\d{6})$")
_Moment = TypeVar("_Moment", datetime, time)


def dumps(value: Any, what: str = "value", max_depth: int = MAX_DEPTH) -> str:
    """Return ``value`` as JSON text.

    :param what: how the message calls the value; the path to an offending part begins with it.
    :param max_depth: how many containers deep the value may be nested.
    :raises SerializationError: if the value, or a part of it, would not come back as it is.
    """
    try:
        plain = _encode(value, max_depth)
    except _Refused as refused:
        raise SerializationError(f"{what}{refused.path}: {refused.reason}") from None
    text = json.dumps(plain, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate is a legal str, but not UTF-8
        text = json.dumps(plain)
    return text


def loads(text: str | bytes) -> Any:
    """Return the value that :func:`dumps` wrote.

    :raises SerializationError: if the text is no JSON, or holds a tag that is unknown or malformed.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        # To look at each number takes a call for each: only where one may be too long.
        parse_int = _checked_int if len(text) > _MAX_DIGITS and _MANY_DIGITS.search(text) else None
        # A NaN equals nothing but itself: each has to come back as an object of its own, or two in a set would be one.
        return json.loads(text, object_hook=_decode_object, parse_constant=float, parse_int=parse_int)
    except RecursionError:
        raise SerializationError("the stored text is nested too deeply to be ours") from None
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise SerializationError(f"the stored text is not one of ours: {shortened(str(error))}") from None


class _Refused(Exception):  # noqa: N818 - carries a reason upwards, is never seen
    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.path = ""

    def under(self, step: str) -> "_Refused":
        self.path = step + self.path
        return self


def _encode(value: Any, depth: int) -> Any:
    """Return ``value`` as what ``json`` writes without loss."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is str:
        return _tagged("str", _FUSES.split(value)) if _fuses(value) else value
    if kind is int:
        return value if value.bit_length() <= _PLAIN_INT_BITS else _tagged("int", hex(value))
    if kind in _CONTAINERS and depth == 0:
        raise _Refused(f"is nested more than {MAX_DEPTH} levels deep, or contains itself")
    if kind is dict:
        return _encode_dict(value, depth - 1)
    if kind is list:
        return _encode_items(value, depth - 1)
    if kind is tuple:
        return _tagged("tuple", _encode_items(value, depth - 1))
    if kind in (set, frozenset):
        # Sorted by their text, so that equal sets are stored as equal text.
        if _hash_alike(value):
            raise _Refused(f"has more than {_MAX_ALIKE} items that hash alike")
        return _tagged(kind.__name__, sorted(_encode_items(value, depth - 1), key=json.dumps))
    if writer := _WRITERS.get(_unfrozen(kind)):
        return writer(value)
    raise _Refused(_why_not(value))


def _encode_items(items: Any, depth: int) -> list[Any]:
    encoded = []
    for index, item in enumerate(items):
        try:
            encoded.append(_encode(item, depth))
        except _Refused as refused:
            raise refused.under(f"[{index}]") from None
    return encoded


def _encode_dict(items: dict[Any, Any], depth: int) -> dict[str, Any]:
    plain = _TAG not in items and all(type(key) is str and not _fuses(key) for key in items)
    if not plain and _hash_alike(items):
        raise _Refused(f"has more than {_MAX_ALIKE} keys that hash alike")
    pairs = []
    for key, item in items.items():
        try:
            pairs.append((key if plain else _encode(key, depth), _encode(item, depth)))
        except _Refused as refused:
            raise refused.under(f"[{shown(key)}]") from None
    return dict(pairs) if plain else _tagged("dict", [list(pair) for pair in pairs])


def _fuses(text: str) -> bool:
    return not text.isascii() and _FUSES.search(text) is not None


def _tagged(name: str, content: Any) -> dict[str, Any]:
    return {_TAG: name, "value": content}


def _write_datetime(value: datetime) -> dict[str, Any]:
    # A zone other than a fixed offset comes back as the offset that it had: the same moment, with the same clock time.
    # Not compared by ==: in the hour that comes twice, Python calls no two datetimes of different zones equal.
    try:
        tag = _tagged("datetime", value.isoformat())
        if value.fold:
            tag["fold"] = value.fold
        back, offset = _read_datetime(tag), value.utcoffset()
    except Exception as error:  # noqa: BLE001 - a tzinfo may raise anything
        raise _Refused(f"a datetime cannot be stored: its time zone fails: {shown(error)}") from None
    if back.utcoffset() != offset or back.replace(tzinfo=None) != value.replace(tzinfo=None):
        raise _Refused("a datetime cannot be stored: its time zone fails: its offset changes from call to call")
    return tag


def _read_datetime(tag: dict[str, Any]) -> datetime:
    return _exactly(_datetime_from_iso(tag["value"]), tag)


def _write_time(value: time) -> dict[str, Any]:
    if value.tzinfo is not None and type(value.tzinfo) is not timezone:
        raise _Refused("a time with a zone whose offset depends on the day: store a datetime, or a fixed offset")
    tag = _tagged("time", value.isoformat())
    if value.fold:
        tag["fold"] = value.fold
    return tag


def _read_time(tag: dict[str, Any]) -> time:
    return _exactly(time.fromisoformat(tag["value"]), tag)


def _exactly(moment: _Moment, tag: dict[str, Any]) -> _Moment:
    """Return ``moment``, which Python has read from the tag's text, with what it does not read there."""
    if offset := _TINY_OFFSET.search(tag["value"]):  # below a second Python takes it for none
        moment = moment.replace(tzinfo=timezone(timedelta(microseconds=int("".join(offset.groups())))))
    return moment.replace(fold=tag.get("fold", 0))


def _read_timedelta(tag: dict[str, Any]) -> timedelta:
    days, seconds, microseconds = tag["value"]
    return timedelta(days=days, seconds=seconds, microseconds=microseconds)


_SCALARS = frozenset({type(None), bool, float})
_CONTAINERS = frozenset({dict, list, tuple, set, frozenset})
_WRITERS: dict[type, Callable[[Any], dict[str, Any]]] = {
    bytes: lambda value: _tagged("bytes", base64.b64encode(value).decode("ascii")),
    datetime: _write_datetime,
    date: lambda value: _tagged("date", value.isoformat()),
    time: _write_time,
    timedelta: lambda value: _tagged("timedelta", [value.days, value.seconds, value.microseconds]),
    Decimal: lambda value: _tagged("decimal", str(value)),
    UUID: lambda value: _tagged("uuid", str(value)),
}
_READERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "int": lambda tag: int(tag["value"], 16),
    "str": lambda tag: "".join(_list(tag)),
    "dict": lambda tag: dict(_pairs(tag)),
    "tuple": lambda tag: tuple(_list(tag)),
    "set": lambda tag: set(_items(tag)),
    "frozenset": lambda tag: frozenset(_items(tag)),
    "bytes": lambda tag: base64.b64decode(tag["value"], validate=True),
    "datetime": _read_datetime,
    "date": lambda tag: _date_from_iso(tag["value"]),
    "time": _read_time,
    "timedelta": _read_timedelta,
    "decimal": lambda tag: Decimal(_text(tag)),
    "uuid": lambda tag: UUID(_text(tag)),
}


def _decode_object(tag: dict[str, Any]) -> Any:
    """Return what a JSON object stands for; ``json`` calls this for every object, the innermost first."""
    if _TAG not in tag:
        return tag
    name = tag[_TAG]
    if not isinstance(name, str) or name not in _READERS or not tag.keys() <= {_TAG, "value", "fold"}:
        raise ValueError(f"unknown tag {shown(name)}")
    return _READERS[name](tag)


def _list(tag: dict[str, Any]) -> list[Any]:
    if not isinstance(content := tag["value"], list):
        raise TypeError(f"a {tag[_TAG]} tag without its list")
    return content


def _items(tag: dict[str, Any]) -> list[Any]:
    items = _list(tag)
    if _hash_alike(items):
        raise ValueError(f"a {tag[_TAG]} tag with more than {_MAX_ALIKE} items that hash alike")
    return items


def _pairs(tag: dict[str, Any]) -> list[Any]:
    pairs = _list(tag)
    if not all(isinstance(pair, list) for pair in pairs):  # dict() would take a string of two characters for one
        raise TypeError("a dict tag without its pairs")
    if _hash_alike([pair[0] for pair in pairs]):
        raise ValueError(f"a dict tag with more than {_MAX_ALIKE} keys that hash alike")
    return pairs


def _text(tag: dict[str, Any]) -> str:
    if not isinstance(content := tag["value"], str):
        raise TypeError(f"a {tag[_TAG]} tag without its text")
    return content


def _hash_alike(items: Collection[Any]) -> bool:
    """Return whether too many items have one hash; by chance, two of 64 bits hardly ever do."""
    return len(items) > _MAX_ALIKE and max(Counter(map(hash, items)).values()) > _MAX_ALIKE


def _checked_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _unfrozen(kind: type) -> type:
    """Return the class that a fake of freezegun's stands for: what ``datetime.now()`` gives in a test whose time is
    frozen is stored as the ``datetime`` that it would be without.
    """
    return kind.__mro__[1] if kind.__module__ == "freezegun.api" else kind


def _why_not(value: Any) -> str:
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    base = next((base for base in kind.__mro__[1:] if base in _STORABLE), None)
    advice = f"convert it to {base.__name__} first" if base else "convert it to JSON-like data first"
    return f"an object of type {name} cannot be stored without loss: {advice}"


_STORABLE = _SCALARS | _CONTAINERS | _WRITERS.keys() | {int, str}
