"""What a task puts into its result, its labels or its error, as data that the codec stores."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pydantic
import pydantic_core

from taskiq_flow import serialization
from taskiq_flow.exceptions import SerializationError

__all__ = ["PART_DEPTH", "data_or_repr", "is_storable", "storable", "text_of", "to_data"]


PART_DEPTH = serialization.MAX_DEPTH // 2
"""How many containers deep a part of a record may be nested: the record's own containers are around it."""


def is_storable(value: Any, max_depth: int = serialization.MAX_DEPTH) -> bool:
    """Return whether the codec takes ``value``, nested ``max_depth`` containers deep at most."""
    try:
        serialization.dumps(value, max_depth=max_depth)
    except Exception:  # noqa: BLE001 - the codec's refusal, or whatever a user's metaclass raises
        return False
    return True


def storable(value: Any) -> Any:
    """Return ``value`` as the codec takes it: converted by :func:`to_data` where it does not take it as it is.

    :raises SerializationError: if it cannot be stored either way.
    """
    if not is_storable(value):
        value = to_data(value)
        serialization.dumps(value)
    return value


def to_data(value: Any) -> Any:
    """Return ``value`` with what the codec would refuse converted as taskiq's own serialization does it.

    Pydantic models become their JSON form and dataclasses dicts of their fields, at any depth; so do other objects that
    pydantic has a JSON form for: enums, subclasses of plain types, paths. A ``defaultdict``, ``Counter`` or
    ``OrderedDict`` becomes a dict, and a named tuple or ``deque`` a list, with keys and items as they are, or converted
    like this. What is left over is left as it is, for the codec to refuse.

    :raises SerializationError: if a model or an object cannot be converted.
    """
    try:
        return _converted(value)
    except Exception as error:  # noqa: BLE001 - a user's model may raise anything; a value that holds itself has no end
        raise SerializationError(f"the value cannot be converted to data: {type(error).__name__}: {error}") from None


def data_or_repr(value: Any, depth: int = 3) -> Any:
    """Return ``value`` as a part of a record, with what is no data in it as its ``repr``."""
    if is_storable(value, PART_DEPTH):
        return value
    if depth and type(value) is dict:
        return {data_or_repr(key, 0): data_or_repr(item, depth - 1) for key, item in value.items()}
    if depth and type(value) in (list, tuple):
        return type(value)(data_or_repr(item, depth - 1) for item in value)
    return text_of(value, repr)


def text_of(thing: Any, form: Callable[[Any], str] = str) -> str:
    """Return what ``str`` or ``repr`` says of ``thing``; where it fails, what every object says.

    :param form: one of the two.
    """
    for each in (form, repr):
        try:
            return str.__str__(each(thing))  # which makes a str of a subclass
        except Exception:  # noqa: BLE001 - a user's class may raise anything
            continue
    return object.__repr__(thing)


def _converted(value: Any) -> Any:
    kind = type(value)
    # Subclasses too: pydantic's JSON would make text of the keys and values of a defaultdict.
    if issubclass(kind, dict):
        items = {_converted(key): _converted(item) for key, item in value.items()}
        if len(items) < len(value):
            raise ValueError("two keys of a dict are the same as data")
        return items
    if kind is tuple:
        return tuple(map(_converted, value))
    if issubclass(kind, (list, tuple, deque)):
        return list(map(_converted, value))
    if kind in (set, frozenset):
        return _converted_set(value)
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _converted(getattr(value, each.name)) for each in dataclasses.fields(value)}
    # Pydantic would exhaust an iterator, which is still the user's.
    if isinstance(value, Iterator) or is_storable(value):
        return value
    try:
        return pydantic_core.to_jsonable_python(value)
    except pydantic_core.PydanticSerializationError:
        return value


def _converted_set(items: Any) -> Any:
    converted = list(map(_converted, items))
    try:
        unique = type(items)(converted)
    except TypeError:  # models are dicts now, which no set holds
        return converted
    if len(unique) < len(items):
        raise ValueError("two items of a set are the same as data")
    return unique
