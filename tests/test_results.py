"""The stored form of results: exceptions and values as data, and back."""

import dataclasses
import enum
import sys
from collections import OrderedDict, deque, namedtuple
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pydantic
import pytest
from taskiq import TaskiqMessage, TaskiqResult
from taskiq_pipelines.exceptions import MappingError

from taskiq_flow import serialization
from taskiq_flow.exceptions import SerializationError, StorageConnectionError
from taskiq_flow.records.conversion import to_data
from taskiq_flow.records.errors import StandInError, StoredError
from taskiq_flow.records.results import StoredResult, result_key


class OutOfStockError(Exception):
    """Says something else than it is given."""

    def __init__(self, sku: str) -> None:
        super().__init__(f"{sku} is out of stock")
        self.sku = sku


class KeywordsOnlyError(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Nested:
    class Error(Exception):
        pass


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


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


def through_storage(error: BaseException) -> BaseException:
    record = stored(TaskiqResult(is_err=True, return_value=None, execution_time=0.5, error=error))
    text = serialization.dumps(record.to_data())
    back = StoredResult.from_data("k", serialization.loads(text)).to_taskiq().error
    assert back is not None
    return back


def stored(result: TaskiqResult[Any], **labels: Any) -> StoredResult:
    return StoredResult.of(TaskiqMessage(task_id="1", task_name="t", labels=labels, args=[], kwargs={}), result)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong", 1, Decimal("1.10"), (1, 2)),
        ValueError(),
        KeyError("missing"),
        FileNotFoundError(2, "No such file", "nowhere.txt"),
        ConnectionRefusedError(111, "refused"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        Nested.Error("x"),
        OutOfStockError("A1"),
        KeywordsOnlyError(code=3),
        StorageConnectionError("gone"),
        SystemExit(2),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_exceptions_come_back_as_what_they_were(error: BaseException) -> None:
    back = through_storage(error)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.args == error.args
    assert vars(back) == vars(error)


def test_a_missing_file_is_named() -> None:
    back = through_storage(FileNotFoundError(2, "No such file", "nowhere.txt"))
    assert isinstance(back, FileNotFoundError)
    assert (back.errno, back.filename) == (2, "nowhere.txt")


def test_errors_of_taskiq_come_back_though_they_take_keywords_only() -> None:
    back = through_storage(MappingError(task_id="7", error=ValueError(1)))
    assert type(back) is MappingError
    assert str(back) == "Task 7 returned an error. mapping failed. Reason: 1"
    assert (back.task_id, str(back.error)) == ("7", "ValueError(1)")
    assert repr(back)


def test_parts_of_arguments_that_are_no_data() -> None:
    endless: list[Any] = []
    endless.append(endless)
    error = StoredError.of(ValueError({"a": 1, "b": [object, (1, {2: len})], len: 3}, endless))
    assert error.args[0] == {"a": 1, "b": ["<class 'object'>", (1, "{2: <built-in function len>}")], repr(len): 3}
    assert serialization.dumps(error.args)


def test_arguments_that_are_no_data_are_kept_as_text_and_the_message_stays() -> None:
    class Thing:
        def __str__(self) -> str:
            return "a thing"

        def __repr__(self) -> str:
            return "<Thing>"

    error = StoredError.of(ValueError(Thing()))
    assert error.args == ["<Thing>"]
    assert str(through_storage(ValueError(Thing()))) == "a thing"
    assert type(through_storage(ValueError(Thing(), 1))) is ValueError
    assert str(through_storage(ValueError(Thing(), 1))) == "(<Thing>, 1)"


def test_notes_and_groups() -> None:
    noted = ValueError("x")
    noted.add_note("seen in May")
    assert through_storage(noted).__notes__ == ["seen in May"]
    group = through_storage(ExceptionGroup("two", [ValueError(1), KeyError(2)]))
    assert type(group) is StandInError
    assert str(group) == "builtins.ExceptionGroup: two (2 sub-exceptions)"


def test_a_class_that_is_not_here_has_a_stand_in_and_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"looked for {name}")

    lazy = ModuleType("lazy_shop")
    lazy.__getattr__ = refuse  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_shop", lazy)
    loaded = set(sys.modules)
    for module, name in [("lazy_shop", "Error"), ("this", "Error"), ("shop.errors", "Sold"), ("builtins", "No.Such")]:
        back = StoredError(module, name, "sold out", ["sold out"]).to_exception()
        assert type(back) is StandInError
        assert str(back) == f"{module}.{name}: sold out"
    assert set(sys.modules) == loaded


@pytest.mark.parametrize(("module", "name"), [("os", "system"), ("builtins", "eval"), ("builtins", "dict")])
def test_only_exceptions_are_ever_built(module: str, name: str) -> None:
    back = StoredError(module, name, "m", ["print('no')"]).to_exception()
    assert type(back) is StandInError


def test_an_exception_that_cannot_say_what_it_is() -> None:
    back = through_storage(MuteError("quiet"))
    assert type(back) is StandInError
    assert str(back).endswith(".MuteError: MuteError('quiet')")


def test_causes_and_contexts() -> None:
    def fail(cause: BaseException | None, suppress: bool = False) -> Exception:
        try:
            try:
                raise KeyError("inner")
            except KeyError as inner:
                if suppress:
                    raise ValueError("outer") from cause
                if cause is None:
                    raise ValueError("outer")  # noqa: B904 - the context is what is tested
                raise ValueError("outer") from inner
        except ValueError as outer:
            return outer

    caused, implicit = through_storage(fail(KeyError())), through_storage(fail(None))
    assert isinstance(caused.__cause__, KeyError)
    assert caused.__cause__.args == ("inner",)
    assert (type(implicit.__context__), implicit.__cause__) == (KeyError, None)
    silent = through_storage(fail(None, suppress=True))
    assert (silent.__context__, silent.__cause__) == (None, None)


def test_a_long_chain_costs_little_and_a_circle_ends() -> None:
    """taskiq's prepare_exception takes 2**n steps for n causes: this would never end."""
    first = last = ValueError(0)
    for number in range(1, 3000):
        following = ValueError(number)
        following.__cause__ = last
        last = following
    back: BaseException | None = through_storage(last)
    assert [back.args[0], back.__cause__.args[0]] == [2999, 2998]  # type: ignore[union-attr]
    first.__cause__ = last
    assert through_storage(first).args == (0,)


PYDANTIC = tuple(int(part) for part in pydantic.VERSION.split(".")[:2])


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
        pytest.param(
            deque([1]),
            [1],
            marks=pytest.mark.skipif(PYDANTIC < (2, 14), reason="this pydantic has no JSON form for a deque"),
        ),
        (Path("/x"), "/x"),
    ],
    ids=repr,
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
