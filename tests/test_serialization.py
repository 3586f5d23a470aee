"""The codec: what comes back is what went in, to the type; what would not is refused; nothing is ever run."""

import json
import sys
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import IntEnum
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskiq_flow.exceptions import SerializationError
from taskiq_flow.serialization import MAX_DEPTH, dumps, loads


def alike(one: Any, other: Any) -> bool:
    """Return whether two values are equal and of the same types, all the way down; NaN is like NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and alike(list(one.items()), list(other.items()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, (set, frozenset)):
        return len(one) == len(other) and sorted(map(repr, one)) == sorted(map(repr, other))
    return repr(one) == repr(other)


# --- round trip -------------------------------------------------------------------------------------------------------

HASHABLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(),
    st.uuids(),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    HASHABLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text() | st.just("$type"), inner, max_size=3),
        st.dictionaries(st.integers() | st.text() | st.booleans(), inner, max_size=3),
        st.sets(st.integers() | st.text(), max_size=3),
        st.frozensets(st.dates() | st.uuids(), max_size=3),
    ),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(value=VALUES)
def test_what_comes_back_is_what_went_in(value: Any) -> None:
    text = dumps(value)
    assert alike(loads(text), value)
    assert alike(loads(text.encode()), value)
    json.loads(text)
    assert dumps(loads(text)) == text, "equal values are equal text"


@pytest.mark.parametrize(
    "value",
    [
        {"t": (1, 2), "when": datetime(2026, 1, 2, tzinfo=UTC), "n": Decimal("1.10"), 3: "x"},
        {"$type": "tuple", "value": [1, 2]},
        {"$type": {"$type": "set", "value": []}},
        {1: "a", "1": "b", None: "c", (1, (2,)): "d", frozenset({1}): "e"},
        [10**617, 10**618, -(10**4000), 2**2048, -(2**2048)],
        [float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, 0.1],
        ["\0", "\ud800", "é", "e\u0301", "😀", "\u2028", '"\\'],
        [Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity"), Decimal("-0.00"), Decimal("1E+400")],
        [datetime.min, datetime.max],  # noqa: DTZ901 - naive, on purpose
        [date.min, date.max, time.max, timedelta.min, timedelta.max],
        datetime(2026, 10, 25, 2, 30, fold=1),
        time(2, 30, 0, 5, timezone(timedelta(hours=5, minutes=30, seconds=7)), fold=1),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=-1))),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(microseconds=-1))),
        time(1, tzinfo=timezone(timedelta(microseconds=999_999)), fold=1),
        UUID(int=0),
        set(),
        (),
        b"",
    ],
)
def test_corners(value: Any) -> None:
    assert alike(loads(dumps(value)), value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"phase": "läuft", "n": [1, 1.5, True, None]}, '{"phase": "läuft", "n": [1, 1.5, true, null]}'),
        ((1, "a"), '{"$type": "tuple", "value": [1, "a"]}'),
        (Decimal("1.10"), '{"$type": "decimal", "value": "1.10"}'),
        ({3: "x"}, '{"$type": "dict", "value": [[3, "x"]]}'),
        ({3, 1, 2}, '{"$type": "set", "value": [1, 2, 3]}'),
        (2**2048 - 1, str(2**2048 - 1)),
        (2**2048, f'{{"$type": "int", "value": "{2**2048:#x}"}}'),
    ],
)
def test_text_that_is_stored(value: Any, text: str) -> None:
    """What is stored today must be readable by every later version."""
    assert dumps(value) == text
    assert loads(text) == value


def test_zones_come_back_as_the_offset_that_they_had() -> None:
    summer = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    back = loads(dumps(summer))
    assert back == summer
    assert back.tzinfo == timezone(timedelta(hours=2))


def test_depth() -> None:
    for wrap in ((lambda inner: [inner]), (lambda inner: {1: inner}), (lambda inner: {"a": (inner,)})):
        value: Any = 1
        while True:
            deeper = wrap(value)
            try:
                assert alike(loads(dumps(deeper)), deeper)
            except SerializationError as error:
                assert f"more than {MAX_DEPTH} levels deep" in str(error)  # noqa: PT017 - it must be the writer's
                break
            value = deeper


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: [inner],
        lambda inner: (inner,),
        lambda inner: {"a": inner},
        lambda inner: {1: inner},
        lambda inner: frozenset({inner}),
    ],
)
def test_a_hundred_levels_and_no_more(wrap: Any) -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    assert alike(loads(dumps(value)), value)
    with pytest.raises(SerializationError, match="is nested more than 100 levels deep, or contains itself"):
        dumps(wrap(value))


# --- what is refused --------------------------------------------------------------------------------------------------


class Color(IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


class Moment(datetime):
    pass


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (object(), "at value: an object of type object"),
        ({"a": [1, {"b": {1j}}]}, "at value['a'][1]['b'][0]: an object of type complex"),
        ({(1, object()): 1}, "[1]: an object of type object"),
        (Color.RED, "Color cannot be stored without loss: convert it to int first"),
        (Text("a"), "Text cannot be stored without loss: convert it to str first"),
        ({Text("a"): 1}, "convert it to str first"),
        (Moment(2026, 1, 1), "convert it to datetime first"),
        (OrderedDict(a=1), "convert it to dict first"),
        (Point(1, 2), "convert it to tuple first"),
        (bytearray(b"a"), "bytearray"),
        (len, "builtin_function"),
        (int, "type"),
        (time(1, tzinfo=ZoneInfo("Europe/Berlin")), "depends on the day"),
    ],
)
def test_what_would_not_come_back_is_refused(value: Any, told: str) -> None:
    with pytest.raises(SerializationError) as raised:
        dumps(value, "the value for key 'k', at value")
    assert str(raised.value).startswith("the value for key 'k', at value")
    assert told in str(raised.value)
    assert len(str(raised.value)) < 500


def test_what_the_refusal_says() -> None:
    for length, shown in ((78, f"['{'k' * 78}']"), (79, f"['{'k' * 78}…]")):
        with pytest.raises(SerializationError) as raised:
            dumps({"k" * length: [object()]})
        assert str(raised.value) == (
            f"value{shown}[0]: an object of type object cannot be stored without loss: "
            "convert it to JSON-like data first"
        )


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(SerializationError, match="contains itself"):
        dumps(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "words",
        "{",
        "1 2",
        "[1, 2",
        "9" * 10_000,
        "[" * 100_000,
        '{"$type": "module", "value": "os"}',
        '{"$type": "tuple"}',
        '{"$type": "tuple", "value": 1}',
        '{"$type": "tuple", "value": [], "call": "os.system"}',
        '{"$type": ["tuple"], "value": []}',
        '{"$type": "set", "value": [[1]]}',
        '{"$type": "dict", "value": [1]}',
        '{"$type": "dict", "value": [[1]]}',
        '{"$type": "dict", "value": [[[1], 2]]}',
        '{"$type": "decimal", "value": 1}',
        '{"$type": "decimal", "value": "one"}',
        '{"$type": "uuid", "value": "1"}',
        '{"$type": "bytes", "value": "é"}',
        '{"$type": "bytes", "value": "YQ"}',
        '{"$type": "int", "value": 1}',
        '{"$type": "timedelta", "value": [1, 2]}',
        '{"$type": "timedelta", "value": [1e308, 0, 0]}',
        '{"$type": "datetime", "value": "2026-02-30T00:00:00"}',
        '{"$type": "datetime", "value": "2026-01-01T00:00:00", "fold": 2}',
        '{"$type": "date", "value": null}',
        b"\xff\xfe",
        b"\x80\x04K\x01.",
    ],
)
def test_other_text_is_refused(text: str | bytes) -> None:
    with pytest.raises(SerializationError) as raised:
        loads(text)
    assert len(str(raised.value)) < 300
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("words", "the stored text is not one of ours: Expecting value: line 1 column 1 (char 0)"),
        ("[" * 100_000, "the stored text is nested too deeply to be ours"),
        ('{"$type": "module", "value": "os"}', "the stored text is not one of ours: unknown tag 'module'"),
        ('{"$type": ["tuple"], "value": []}', "the stored text is not one of ours: unknown tag ['tuple']"),
        ('{"$type": "tuple", "value": 1}', "the stored text is not one of ours: a tuple tag without its list"),
        ('{"$type": "dict", "value": [1]}', "the stored text is not one of ours: a dict tag without its pairs"),
        ('{"$type": "uuid", "value": 1}', "the stored text is not one of ours: a uuid tag without its text"),
    ],
)
def test_what_is_said_of_other_text(text: str, told: str) -> None:
    with pytest.raises(SerializationError) as raised:
        loads(text)
    assert str(raised.value) == told


@pytest.mark.parametrize("content", ['["ab"]', '{"ab": 1}', '""'])
def test_pairs_of_a_dict_are_lists(content: str) -> None:
    with pytest.raises(SerializationError):
        loads(f'{{"$type": "dict", "value": {content}}}')


# --- time zones -------------------------------------------------------------------------------------------------------

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize(
    "wall", [datetime(2026, 10, 25, 2, 30), datetime(2026, 3, 29, 2, 30)], ids=["comes twice", "never comes"]
)
def test_a_time_at_a_change_of_the_clocks_comes_back_as_the_moment_that_it_was(wall: datetime, fold: int) -> None:
    moment = wall.replace(tzinfo=BERLIN, fold=fold)
    back = loads(dumps(moment))
    assert back.timestamp() == moment.timestamp()
    assert (back.utcoffset(), back.fold) == (moment.utcoffset(), fold)
    assert back.replace(tzinfo=None) == wall


class BrokenZone(tzinfo):
    """Has no offset to give."""

    def __init__(self, offset: object = None) -> None:
        self.offset = offset

    def utcoffset(self, when: datetime | None) -> Any:
        if self.offset is None:
            raise LookupError("no such zone")
        return self.offset

    def tzname(self, when: datetime | None) -> str:
        raise LookupError("no such zone")

    dst = utcoffset

    def __repr__(self) -> str:
        raise LookupError("no such zone")


@pytest.mark.parametrize("offset", [None, 3, "x", timedelta(days=2)])
def test_a_zone_that_fails_is_refused(offset: object) -> None:
    moment, hour = datetime(2026, 1, 1, tzinfo=BrokenZone(offset)), time(12, tzinfo=BrokenZone(offset))
    for value in (moment, [moment], {"a": (moment,)}):
        with pytest.raises(SerializationError, match="its time zone fails"):
            dumps(value)
    with pytest.raises(SerializationError, match="whose offset depends on the day"):
        dumps([hour])


def test_what_cannot_be_shown_is_refused_all_the_same() -> None:
    class Mute:
        def __repr__(self) -> str:
            raise LookupError("no words")

    for value in ({10**5000: Mute()}, {Mute(): 1}, {"a": {(Mute(),): 1}}):
        with pytest.raises(SerializationError, match="cannot be stored without loss"):
            dumps(value)


# --- cost -------------------------------------------------------------------------------------------------------------

PERIOD = sys.hash_info.modulus
"""Multiples of it hash alike."""


def many(number: int) -> list[int]:
    return [each * PERIOD for each in range(number)]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"$type": "set", "value": many(2000)}),
        json.dumps({"$type": "frozenset", "value": many(2000)}),
        json.dumps({"$type": "dict", "value": [[each, 0] for each in many(2000)]}),
        json.dumps({"$type": "set", "value": [{"$type": "decimal", "value": str(each)} for each in many(2000)]}),
        json.dumps({"$type": "set", "value": [{"$type": "uuid", "value": f"{each:032x}"} for each in many(2000)]}),
        json.dumps({"$type": "set", "value": [{"$type": "tuple", "value": [each]} for each in many(2000)]}),
    ],
    ids=["set", "frozenset", "dict", "decimals", "uuids", "tuples"],
)
def test_items_that_hash_alike_are_refused(text: str) -> None:
    """They would be compared with each other, in quadratic time."""
    with pytest.raises(SerializationError, match="hash alike"):
        loads(text)


@pytest.mark.parametrize("value", [set(many(200)), frozenset(many(200)), dict.fromkeys(many(200)), [set(many(200))]])
def test_what_could_not_be_read_is_not_written(value: Any) -> None:
    with pytest.raises(SerializationError, match="hash alike"):
        dumps(value)


@pytest.mark.parametrize(
    "value",
    [set(range(-1000, 1000)), set(many(20)), dict.fromkeys(range(1000)), {float(each) for each in range(1000)}],
    ids=["integers", "a few", "keys", "floats"],
)
def test_other_sets_come_back(value: Any) -> None:
    assert loads(dumps(value)) == value


def test_a_number_of_endless_digits_is_refused_whatever_the_interpreter_allows() -> None:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        for text in ("1" * 100_000, "[" + "1" * 100_000 + "]", '{"a": -' + "1" * 100_000 + "}"):
            with pytest.raises(SerializationError, match="digits"):
                loads(text)
        assert loads('["' + "1" * 100_000 + '", 5]') == ["1" * 100_000, 5]
    finally:
        sys.set_int_max_str_digits(before)
