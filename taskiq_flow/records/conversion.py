"""What a task puts into its result, its labels or its error, as data that the codec stores."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pydantic
import pydantic_core
from taskiq.serialization import safe_repr

from taskiq_flow import serialization
from taskiq_flow.exceptions import SerializationError

__all__ = ["data_or_repr", "is_storable", "storable", "to_data"]


def is_storable(value: Any) -> bool:
    """Return whether the codec takes ``value``."""
    try:
        serialization.dumps(value)
    except SerializationError:
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
    pydantic has a JSON form for: enums, named tuples, subclasses of plain types, paths. What is left over is left as it
    is, for the codec to refuse.

    :raises SerializationError: if a model or an object cannot be converted.
    """
    try:
        return _converted(value)
    except Exception as error:  # noqa: BLE001 - a user's model may raise anything; a value that holds itself has no end
        raise SerializationError(f"the value cannot be converted to data: {type(error).__name__}: {error}") from None


def data_or_repr(value: Any, depth: int = 3) -> Any:
    """Return ``value`` with the parts that are no data as their ``repr``."""
    if is_storable(value):
        return value
    if depth and type(value) is dict:
        return {data_or_repr(key, 0): data_or_repr(item, depth - 1) for key, item in value.items()}
    if depth and type(value) in (list, tuple):
        return type(value)(data_or_repr(item, depth - 1) for item in value)
    return safe_repr(value)


def _converted(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {_converted(key): _converted(item) for key, item in value.items()}
    if kind in (list, tuple):
        return kind(map(_converted, value))
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
