"""Whether two values are the same to the contract: equal, and of the same types all the way down.

Plain ``==`` is too kind (``1 == True``, ``0.0 == -0.0``, ``Decimal("1.10") == Decimal("1.1")``) and too strict
(``nan != nan``).
"""

import math
from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime, time
from decimal import Decimal
from typing import Any

from taskiq_flow import _text
from taskiq_flow.storage.entry import StorageEntry

__all__ = ["difference", "shown"]


def difference(actual: Any, expected: Any, path: str = "") -> str | None:
    """Return where and how ``actual`` differs from ``expected``; None where it does not."""
    where = f"at {path}: " if path else ""
    if type(actual) is not type(expected):
        return f"{where}it is of type {type(actual).__name__}, not {type(expected).__name__}"
    if isinstance(expected, (list, tuple)):
        return _of_sequences(actual, expected, path)
    if isinstance(expected, dict):
        if problem := _of_sequences(list(actual), list(expected), f"{path}.keys()"):
            return problem
        return _first(difference(actual[key], expected[key], f"{path}[{shown(key)}]") for key in expected)
    if isinstance(expected, (set, frozenset)):
        alike = len(actual) == len(expected) and all(
            any(difference(mine, theirs) is None for mine in actual) for theirs in expected
        )
        return None if alike else f"{where}its members differ"
    if isinstance(expected, StorageEntry):
        names = (field.name for field in fields(expected))
        return _first(difference(getattr(actual, name), getattr(expected, name), f"{path}.{name}") for name in names)
    return None if _alike(actual, expected) else f"{where}{shown(actual)} is not {shown(expected)}"


def shown(thing: object, limit: int = 120) -> str:
    """Return the ``repr`` of anything, shortened to what a failure has room for."""
    return _text.shown(thing, limit)


def _alike(actual: Any, expected: Any) -> bool:
    """Compare two values of one type which is no container."""
    if isinstance(expected, float):
        return (math.isnan(actual) and math.isnan(expected)) or (
            actual == expected and math.copysign(1, actual) == math.copysign(1, expected)
        )
    if isinstance(expected, Decimal):
        return bool(actual.as_tuple() == expected.as_tuple())
    if isinstance(expected, (datetime, time)):
        # A zone may come back as the fixed offset that it had.
        return bool(actual == expected and actual.utcoffset() == expected.utcoffset() and actual.fold == expected.fold)
    return bool(actual == expected)


def _of_sequences(actual: Any, expected: Any, path: str) -> str | None:
    if len(actual) != len(expected):
        missing = [item for item in expected if item not in actual]
        extra = [item for item in actual if item not in expected]
        more = f"; missing: {shown(missing)}" if missing else ""
        more += f"; too many: {shown(extra)}" if extra else ""
        return f"{f'at {path}: ' if path else ''}{len(actual)} items, not {len(expected)}{more}"
    pairs = enumerate(zip(actual, expected, strict=True))
    return _first(difference(mine, theirs, f"{path}[{index}]") for index, (mine, theirs) in pairs)


def _first(problems: Iterable[str | None]) -> str | None:
    return next((problem for problem in problems if problem), None)
