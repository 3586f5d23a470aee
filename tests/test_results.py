"""The stored form of results: exceptions and values as data, and back."""

import dataclasses
import enum
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pydantic
import pytest
from taskiq import TaskiqMessage, TaskiqResult

from taskiq_flow import serialization
from taskiq_flow.exceptions import SerializationError
from taskiq_flow.records.conversion import to_data
from taskiq_flow.records.results import StoredResult, result_key


class Prices(pydantic.BaseModel):
    net: Decimal
    tax: float = 0.2


@dataclasses.dataclass
class Order:
    number: int
    lines: tuple[str, ...]
    prices: Prices


class Colour(enum.Enum):
    RED = "red"


Point = namedtuple("Point", "x y")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclasses.dataclass(frozen=True)
class Frozen:
    net: Decimal


class Numbers(list[Any]):
    pass


def stored(result: TaskiqResult[Any], **labels: Any) -> StoredResult:
    return StoredResult.of(TaskiqMessage(task_id="1", task_name="t", labels=labels, args=[], kwargs={}), result)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (Prices(net=Decimal("1.10")), {"net": "1.10", "tax": 0.2}),
        (
            Order(7, ("a", "b"), Prices(net=Decimal(2))),
            {"number": 7, "lines": ("a", "b"), "prices": {"net": "2", "tax": 0.2}},
        ),
        ({"k": [Prices(net=Decimal(1))]}, {"k": [{"net": "1", "tax": 0.2}]}),
        ((Colour.RED, Decimal(1)), ("red", Decimal(1))),
        (Point(1, 2), [1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        (deque([Decimal(1), 1]), [Decimal(1), 1]),
        (Point(Decimal("1.1"), {3: 4}), [Decimal("1.1"), {3: 4}]),
        (defaultdict(list, {1: [Decimal("1.1")], (1, 2): [NOW]}), {1: [Decimal("1.1")], (1, 2): [NOW]}),
        (Counter({(1, 2): 3, NOW: 1}), {(1, 2): 3, NOW: 1}),
        (OrderedDict({1: Counter({2: 3})}), {1: {2: 3}}),
        ([{"k": defaultdict(int, {1.5: 2})}], [{"k": {1.5: 2}}]),
        ({Colour.RED: {Colour.RED, Decimal(1)}}, {"red": {"red", Decimal(1)}}),
        (Numbers([1, Decimal(2)]), [1, Decimal(2)]),
        ({Frozen(Decimal(1))}, [{"net": Decimal(1)}]),
        (Path("/x"), "/x"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_values_are_converted_as_taskiq_would(value: Any, data: Any) -> None:
    converted = to_data(value)
    assert converted == data
    assert type(converted) is type(data)
    assert serialization.loads(serialization.dumps(converted)) == data


def test_what_is_no_data_stays_as_it_is_and_iterators_are_not_exhausted() -> None:
    numbers, thing = iter([1, 2]), object()
    assert to_data([numbers, thing, Order]) == [numbers, thing, Order]
    assert list(numbers) == [1, 2]


def test_a_value_that_cannot_be_converted() -> None:
    class Broken(pydantic.BaseModel):
        @pydantic.model_serializer
        def fail(self) -> str:
            raise RuntimeError("no JSON for this")

    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(SerializationError, match="two keys of a dict are the same as data"):
        to_data({Colour.RED: 1, "red": 2})
    with pytest.raises(SerializationError, match="two items of a set are the same as data"):
        to_data({Colour.RED, "red"})
    with pytest.raises(SerializationError, match="no JSON for this"):
        to_data(Broken())
    with pytest.raises(SerializationError, match="RecursionError"):
        to_data(endless)


@pytest.mark.parametrize("foreign", [None, 1, "x", [], {}, {"status": "completed", "result": 42}])
def test_foreign_data_under_a_results_key(foreign: Any) -> None:
    with pytest.raises(SerializationError, match="the entry under key 'task:9' is no stored task result"):
        StoredResult.from_data("task:9", foreign)


def test_the_record_is_plain_json_but_for_what_the_task_put_in() -> None:
    record = stored(TaskiqResult(is_err=False, return_value=1, execution_time=0.25), pipeline_id="r")
    data = record.to_data()
    assert serialization.loads(serialization.dumps(data)) == data
    assert "$type" not in serialization.dumps(data)
    assert StoredResult.from_data("k", data) == record
    assert StoredResult.from_data("k", {**data, "added_later": 1}) == record


def test_keys() -> None:
    assert result_key("abc", "run") == "pipeline:run:task:abc"
    assert result_key("abc") == "task:abc"
    assert stored(TaskiqResult(is_err=False, return_value=1, execution_time=0), pipeline_id="").key == "task:1"
