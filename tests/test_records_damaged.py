"""Stored exceptions that harm nobody who reads them, however they were damaged."""

import asyncio
import json
from typing import Any

import pytest
from taskiq import TaskiqMessage, TaskiqResult

from taskiq_flow import serialization
from taskiq_flow.exceptions import SerializationError, StandInError
from taskiq_flow.records.errors import decode_error
from taskiq_flow.records.results import StoredResult


def through_storage(error: BaseException) -> BaseException:
    message = TaskiqMessage(task_id="1", task_name="t", labels={}, args=[], kwargs={})
    record = StoredResult.of(message, TaskiqResult(is_err=True, return_value=None, execution_time=0.5, error=error))
    text = serialization.dumps(record.to_data())
    back = StoredResult.from_data("k", serialization.loads(text)).to_taskiq().error
    assert back is not None
    return back


class QuitError(Exception):
    """Ends the process of whoever makes it."""

    def __init__(self, *args: object) -> None:
        if args:
            raise SystemExit(*args)


class QuietError(Exception):
    def __repr__(self) -> str:
        raise SystemExit(1)


@pytest.mark.parametrize(
    "error",
    [SystemExit(2), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError("x"), BaseException()],
    ids=repr,
)
def test_what_is_no_exception_comes_as_a_stand_in(error: BaseException) -> None:
    back = through_storage(error)
    assert type(back) is StandInError
    assert f".{type(error).__name__}" in str(back)


@pytest.mark.parametrize("name", ["QuitError", "QuietError"])
def test_a_class_that_ends_the_process_does_not_end_the_reader(name: str) -> None:
    assert isinstance(decode_error({"module": __name__, "name": name, "message": "x", "args": ["x"]}), Exception)


DAMAGED = [
    {"args": ["x", {"taskiq_flow:part": "error"}]},
    {"args": [{"taskiq_flow:part": "error", "value": {"module": "builtins", "name": "SystemExit", "message": "x"}}]},
    {"args": [{"taskiq_flow:part": "enum", "value": ["os", "system", "x", 1], "repr": "x"}]},
    {"args": [{"taskiq_flow:part": "enum", "value": ["enum", "Enum", "x", "y"], "repr": "x"}]},
    {"args": [{"taskiq_flow:part": [], "value": 1}]},
    {"args": [{"taskiq_flow:part": "dict", "value": [[[], 1]]}]},
    {
        "attributes": {
            "__class__": "x",
            "__traceback__": 1,
            "__dict__": 2,
            "__cause__": 3,
            "args": 4,
            "with_traceback": 5,
        }
    },
    {"attributes": {"__notes__": 1}},
    {"module": "pydantic_core._pydantic_core", "name": "ValidationError", "args": [1, 2, 3]},
    {"name": "ExceptionGroup", "args": ["x", [SystemExit.__name__]]},
    {"name": "__import__"},
    {"name": "ValueError.__init__"},
    {"name": ""},
]


@pytest.mark.parametrize("damage", DAMAGED, ids=repr)
def test_a_damaged_record_is_an_exception_all_the_same(damage: dict[str, Any]) -> None:
    back = decode_error({"module": "builtins", "name": "ValueError", "message": "x", "args": ["x"], **damage})
    assert isinstance(back, Exception)
    assert str(back)
    with pytest.raises(type(back)):
        raise back


def test_a_record_that_is_nested_without_end_is_refused_or_cut_short() -> None:
    for depth in (20, 300, 100_000):
        link = '{"module": "builtins", "name": "ValueError", "message": "x", "args": ["x"], "cause": '
        text = link * depth + "null" + "}" * depth
        try:
            data = json.loads(text)
        except RecursionError:
            continue
        try:
            error: BaseException | None = decode_error(data)
        except ValueError:
            continue
        links = 0
        while error is not None:
            links, error = links + 1, error.__cause__
        assert links <= 20


@pytest.mark.parametrize("foreign", [None, 1, "x", [], {}, {"module": 1, "name": 2, "message": 3}])
def test_what_is_no_stored_exception_is_refused(foreign: Any) -> None:
    with pytest.raises(ValueError):
        decode_error(foreign)
    with pytest.raises(SerializationError):
        StoredResult.from_data("k", {"error": foreign})
