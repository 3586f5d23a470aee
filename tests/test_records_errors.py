"""Exceptions as data, and back."""

import dataclasses
import enum
import sys
from collections.abc import Callable
from decimal import Decimal
from types import ModuleType
from typing import Any, NoReturn

import pydantic
import pytest
import redis
from pydantic_core import PydanticCustomError
from taskiq import TaskiqMessage, TaskiqResult
from taskiq_pipelines.exceptions import MappingError

from taskiq_flow import serialization
from taskiq_flow.exceptions import StandInError, StorageConnectionError
from taskiq_flow.records.errors import StoredError, decode_error, encode_error
from taskiq_flow.records.results import StoredResult


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


def through_storage(error: BaseException) -> BaseException:
    message = TaskiqMessage(task_id="1", task_name="t", labels={}, args=[], kwargs={})
    record = StoredResult.of(message, TaskiqResult(is_err=True, return_value=None, execution_time=0.5, error=error))
    text = serialization.dumps(record.to_data())
    back = StoredResult.from_data("k", serialization.loads(text)).to_taskiq().error
    assert back is not None
    return back


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
    assert type(back.error) is ValueError
    assert (back.task_id, str(back.error)) == ("7", "1")
    assert repr(back)


def test_parts_of_arguments_that_are_no_data() -> None:
    endless: list[Any] = []
    endless.append(endless)
    error = StoredError.of(ValueError({"a": 1, "b": [object, (1, {2: len})], len: 3}, endless))
    told = {"a": 1, "b": ["<class 'object'>", (1, "{2: <built-in function len>}")], repr(len): 3}
    assert error.args[0] == {"taskiq_flow:part": "repr", "value": told}
    assert serialization.dumps(error.args)


def test_arguments_that_are_no_data_are_kept_as_text_and_the_message_stays() -> None:
    class Thing:
        def __str__(self) -> str:
            return "a thing"

        def __repr__(self) -> str:
            return "<Thing>"

    error = StoredError.of(ValueError(Thing()))
    assert error.args == [{"taskiq_flow:part": "repr", "value": "<Thing>"}]
    assert str(through_storage(ValueError(Thing()))) == "a thing"
    assert type(through_storage(ValueError(Thing(), 1))) is ValueError
    assert str(through_storage(ValueError(Thing(), 1))) == "(<Thing>, 1)"


def test_notes_come_back() -> None:
    noted = ValueError("x")
    noted.add_note("seen in May")
    assert through_storage(noted).__notes__ == ["seen in May"]


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
    """taskiq's prepare_exception takes 2**n steps for n causes: 20 would take a minute."""
    first = last = ValueError(0)
    for number in range(1, 3000):
        following = ValueError(number)
        following.__cause__ = last
        last = following
    assert serialization.dumps(encode_error(last)).count('"module"') < 20
    back: BaseException | None = through_storage(last)
    assert [back.args[0], back.__cause__.args[0]] == [2999, 2998]  # type: ignore[union-attr]
    first.__cause__ = last
    assert through_storage(first).args == (0,)


# --- attributes -------------------------------------------------------------------------------------------------------


class Code(enum.Enum):
    DECLINED = "declined"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Terminal:
    """Cannot be stored."""


class PaymentError(Exception):
    """Has attributes that its ``__init__`` makes, and that its texts use."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = Code.DECLINED
        self.terminal = Terminal()

    def __str__(self) -> str:
        return f"[{self.code.value}] {self.args[0]}"

    def __repr__(self) -> str:
        return f"{self.terminal.__class__.__name__}: {self}"


class CodeError(Exception):
    """Is called with a member of an enum."""

    def __init__(self, code: Code, rights: Rights) -> None:
        super().__init__(code, rights)
        self.code = code

    def __str__(self) -> str:
        return self.code.name


class SlotsError(Exception):
    __slots__ = ("code", "later")

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int

    def __str__(self) -> str:
        return f"code {self.code}"


def test_attributes_that_init_made_stay_as_it_made_them() -> None:
    back = through_storage(PaymentError("card 17"))
    assert (type(back), str(back)) == (PaymentError, "[declined] card 17")
    assert type(back.terminal) is Terminal  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "cls", [redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, redis.AuthenticationError]
)
def test_errors_of_redis_come_back_by_their_class(cls: type[Exception]) -> None:
    back = through_storage(cls("refused"))
    assert type(back) is cls
    assert (str(back), repr(back)) == ("refused", repr(cls("refused")))


def test_members_of_enums_come_back() -> None:
    error = CodeError(Code.DECLINED, Rights.READ | Rights.WRITE)
    error.add_note("x")
    error.more = {"codes": [Code.DECLINED, (Rights.READ, 1)]}  # type: ignore[attr-defined]
    back = through_storage(error)
    assert isinstance(back, CodeError)
    assert back.args == (Code.DECLINED, Rights.READ | Rights.WRITE)
    assert vars(back) == vars(error)


def test_a_member_of_an_enum_that_is_not_here_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError(Code.DECLINED)
    data = encode_error(error)
    monkeypatch.delattr(sys.modules[__name__], "Code")
    back = decode_error(data)
    assert (type(back), str(back)) == (ValueError, "Code.DECLINED")


def test_slots_come_back() -> None:
    error = SlotsError(3)
    error.later = (1, 2)  # type: ignore[attr-defined]
    back = through_storage(error)
    assert isinstance(back, SlotsError)
    assert (str(back), back.code, getattr(back, "later", None)) == ("code 3", 3, (1, 2))


def test_a_frozen_dataclass_comes_back_with_its_cause() -> None:
    error = FrozenError(code=3)
    vars(BaseException)["__cause__"].__set__(error, KeyError("k"))
    back = through_storage(error)
    assert back == error
    assert isinstance(back.__cause__, KeyError)


def test_what_builtin_errors_know_besides_their_arguments_comes_back() -> None:
    missing = through_storage(ModuleNotFoundError("No module named 'x'", name="x", path="/x.py"))
    assert isinstance(missing, ModuleNotFoundError)
    assert (missing.name, missing.path) == ("x", "/x.py")
    renamed = through_storage(FileExistsError(17, "File exists", "a", None, "b"))
    assert isinstance(renamed, FileExistsError)
    assert (renamed.filename, renamed.filename2) == ("a", "b")
    assert str(renamed) == "[Errno 17] File exists: 'a' -> 'b'"
    assert through_storage(NameError("x", name="x")).name == "x"  # type: ignore[attr-defined]
    assert through_storage(AttributeError("x", name="x", obj=object())).name == "x"  # type: ignore[attr-defined]


# --- what an exception holds ------------------------------------------------------------------------------------------


def test_groups_come_back_with_what_they_hold() -> None:
    inner = ExceptionGroup("inner", [PaymentError("card 17")])
    group = ExceptionGroup("two", [ValueError(1), inner])
    group.add_note("on Monday")
    group.exceptions[0].__cause__ = KeyError("k")
    back = through_storage(group)
    assert type(back) is ExceptionGroup
    assert (back.message, back.__notes__) == ("two", ["on Monday"])
    assert repr(back) == repr(group)
    assert str(back.exceptions[1].exceptions[0]) == "[declined] card 17"
    assert isinstance(back.exceptions[0].__cause__, KeyError)


def test_a_group_of_others_than_exceptions_is_one_of_stand_ins() -> None:
    back = through_storage(BaseExceptionGroup("two", [ValueError(1), SystemExit(3)]))
    assert type(back) is ExceptionGroup
    assert [type(each) for each in back.exceptions] == [ValueError, StandInError]
    assert str(back.exceptions[1]) == "builtins.SystemExit: 3"


def test_a_large_group_keeps_what_each_says() -> None:
    back = through_storage(ExceptionGroup("many", [ValueError(number) for number in range(500)]))
    assert isinstance(back, ExceptionGroup)
    assert [str(each) for each in back.exceptions] == [str(number) for number in range(500)]


def test_an_exception_that_holds_itself_or_what_it_was_raised_from() -> None:
    endless = ValueError("x")
    endless.args = (endless,)
    assert type(through_storage(endless)) in (ValueError, StandInError)
    last: Exception = KeyError("first")
    for _ in range(30):
        try:
            raise RuntimeError(last) from last
        except RuntimeError as error:
            last = error
    assert type(through_storage(last)) is RuntimeError
    assert serialization.dumps(encode_error(last)).count('"module"') < 300, "not two for each that is twice as deep"


class Order(pydantic.BaseModel):
    amount: int = pydantic.Field(gt=0)
    card: str

    @pydantic.field_validator("card")
    @classmethod
    def check(cls, card: str) -> str:
        if card == "custom":
            raise PydanticCustomError("card", "no {what}", {"what": "such card"})
        raise ValueError(f"no card {card}")


class HiddenOrder(Order):
    model_config = pydantic.ConfigDict(hide_input_in_errors=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Order.model_validate({"amount": "x", "card": "A1"}),
        lambda: Order(amount=0, card="custom"),
        lambda: Order.model_validate([1, 2]),
        lambda: Order.model_validate_json("{]"),
        lambda: pydantic.TypeAdapter(int).validate_python(object()),
    ],
)
def test_a_validation_error_of_pydantic_comes_back(make: Callable[[], Any]) -> None:
    with pytest.raises(pydantic.ValidationError) as raised:
        make()
    back = through_storage(raised.value)
    assert isinstance(back, pydantic.ValidationError)
    assert back.title == raised.value.title
    for found, expected in zip(back.errors(), raised.value.errors(), strict=True):
        assert {**found, "input": 0, "ctx": 0, "url": 0} == {**expected, "input": 0, "ctx": 0, "url": 0}
        assert str(found.get("ctx")) == str(expected.get("ctx"))
        assert found["input"] in (expected["input"], repr(expected["input"]))


def test_input_that_a_validation_error_hides_is_not_stored() -> None:
    with pytest.raises(pydantic.ValidationError) as raised:
        HiddenOrder.model_validate({"amount": "4111-secret", "card": "custom"})
    stored = serialization.dumps(encode_error(raised.value))
    assert "secret" not in stored
    back = through_storage(raised.value)
    assert isinstance(back, pydantic.ValidationError)
    assert str(back) == str(raised.value)


# --- what never costs a result ----------------------------------------------------------------------------------------


class Text(str):
    __slots__ = ()


class OddError(Exception):
    """Does all that an exception should not."""

    args = property(lambda self: 1 / 0)
    __cause__ = property(lambda self: 1 / 0)
    __module__ = 3  # type: ignore[assignment]

    def __str__(self) -> str:
        return Text("odd")


class NoDictError(Exception):
    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no attributes")


class OddClass(type):
    """Has nothing to say of its classes."""

    def __getattribute__(cls, name: str) -> Any:
        if name in {"__module__", "__qualname__"}:
            raise LookupError(name)
        return super().__getattribute__(name)


class OddClassError(Exception, metaclass=OddClass):
    pass


class OddArgument(metaclass=OddClass):
    pass


class BrokenRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no words")

    __str__ = __repr__


def test_odd_exceptions_are_stored_whatever_they_do() -> None:
    keys = ValueError("keys")
    vars(keys).update({1: 2, Text("text"): Text("x")})  # type: ignore[dict-item]
    deep: Any = "deep"
    for _ in range(99):
        deep = [deep]
    odd = [
        OddError("x"),
        NoDictError("x"),
        OddClassError("x"),
        ValueError(OddArgument()),
        keys,
        ValueError(BrokenRepr()),
        ValueError(deep),
        ValueError({object(): 1}, {"a": BrokenRepr()}),
        ValueError(float("nan"), 10**5000, b"\xff", "\ud800"),
        ValueError({"taskiq_flow:part": "error", "value": 1}),
    ]
    for error in odd:
        back = through_storage(error)
        assert isinstance(back, Exception)
        assert through_storage(ExceptionGroup("g", [ExceptionGroup("g", [error])]))
    assert str(through_storage(odd[0])).endswith("odd")
    assert through_storage(keys).text == "'x'"  # type: ignore[attr-defined]
    assert through_storage(odd[-1]).args == odd[-1].args
