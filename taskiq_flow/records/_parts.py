"""The parts of a stored exception: what it was called with, and its attributes.

What is data stays as it is. Other parts are dicts with the key ``taskiq_flow:part``:

==========  =========================================================================
``enum``    a member of an enum, by its class and name
``error``   an exception
``list``    a list or ``tuple`` or ``dict`` (of pairs) with such parts in it
``repr``    anything else as its ``repr``, or with its items as theirs: to be read only
``data``    a dict that could be taken for one of these
==========  =========================================================================
"""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

from taskiq_flow.records._classes import loaded_class, name_of
from taskiq_flow.records.conversion import PART_DEPTH, data_or_repr, is_storable, text_of

__all__ = ["Part", "decode", "encode"]

_MARK = "taskiq_flow:part"
_MAX_DEPTH = 3
"""How many containers deep parts are looked at one by one."""


class Part(NamedTuple):
    """A part that was read."""

    value: Any
    is_exact: bool
    """Whether it is what it was, and not only its ``repr``."""


def encode(value: Any, encode_error: Callable[[BaseException], dict[str, Any]], depth: int = _MAX_DEPTH) -> Any:
    """Return a part as data.

    :param encode_error: does so for an exception.
    """
    if is_storable(value, PART_DEPTH):
        return _marked("data", value) if type(value) is dict and _MARK in value else value
    kind = type(value)
    if issubclass(kind, enum.Enum):
        module, name = name_of(kind)
        number = value.value if issubclass(kind, enum.Flag) else None
        return _marked("enum", [module, name, value._name_, number], repr=text_of(value, repr))
    if issubclass(kind, BaseException):
        return _marked("error", encode_error(value))
    if depth and kind in (list, tuple):
        return _marked(kind.__name__, [encode(item, encode_error, depth - 1) for item in value])
    if depth and kind is dict and all(map(is_storable, value)):
        return _marked("dict", [[key, encode(item, encode_error, depth - 1)] for key, item in value.items()])
    return _marked("repr", data_or_repr(value))


def decode(data: Any, decode_error: Callable[[Any], BaseException]) -> Part:
    """Return the part that `encode` wrote.

    :param decode_error: returns an exception.
    :raises Exception: if it is something else.
    """
    if not (type(data) is dict and _MARK in data):
        return Part(data, True)
    content = data["value"]
    match data[_MARK]:
        case "data":
            return Part(content, True)
        case "enum":
            member = _member(*content)
            return Part(data["repr"], False) if member is None else Part(member, True)
        case "error":
            return Part(decode_error(content), True)
        case "list" | "tuple" as name:
            parts = [decode(item, decode_error) for item in content]
            values = [part.value for part in parts]
            return Part(values if name == "list" else tuple(values), all(part.is_exact for part in parts))
        case "dict":
            pairs = [(key, decode(item, decode_error)) for key, item in content]
            return Part({key: part.value for key, part in pairs}, all(part.is_exact for _, part in pairs))
        case _:  # "repr", and what a later version may add
            return Part(content, False)


def _marked(kind: str, value: Any, **more: Any) -> dict[str, Any]:
    return {_MARK: kind, "value": value, **more}


def _member(module: str, name: str, member: str, number: Any) -> Any:
    """Return a member of an enum; None where it is not known here."""
    cls = loaded_class(module, name)
    if cls is None or not issubclass(cls, enum.Enum):
        return None
    if member in cls.__members__:
        return cls.__members__[member]
    # A combination of flags, which is no member of its own.
    return cls(number) if issubclass(cls, enum.Flag) and type(number) is int else None
