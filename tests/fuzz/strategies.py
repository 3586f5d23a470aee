"""What the differential test calls storages with: keys that collide, patterns made of them, values of every kind."""

import unicodedata
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from datetime import datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.fuzz.model import is_legal_key


def evenly(*kinds: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """Draw from each as often as from the others; ``one_of`` would count the parts that each is made of."""
    return st.sampled_from(kinds).flatmap(lambda kind: kind)


def mostly(common: SearchStrategy[Any], *rare: SearchStrategy[Any], one_in: int) -> SearchStrategy[Any]:
    """Draw from ``common``, and one time in ``one_in`` from the others."""
    return st.integers(1, one_in).flatmap(lambda n: evenly(*rare) if n == one_in else common)


# --- keys -------------------------------------------------------------------------------------------------------------

_ALPHABET = "aAbése\u0301ß*?[]!-^\\%_'\"`;:{}.$/# \t\n😀\ud7ff\ue000\uffff\U0010ffff"


class TextEnum(str, Enum):  # noqa: UP042 - the str() of a StrEnum is its text
    """A str whose ``str()`` is another text than itself."""

    MEMBER = "a"


def _filled(head: str, size: int) -> str:
    return head + "k" * (size - len(head.encode()))


_short_keys = st.text(_ALPHABET, min_size=1, max_size=4)
_long_keys = st.builds(_filled, st.text(_ALPHABET, max_size=2), st.sampled_from([255, 256, 1023, 1024]))
_illegal_keys = st.one_of(
    st.sampled_from(
        ["", "\0", "a\0", "\ud800", "a\udfff", "\ud83d\ude00", "é" * 513, b"a", 1, None, True, ["a"], ("a",)]
    ),
    st.builds(_filled, st.text(_ALPHABET, max_size=2), st.sampled_from([1025, 3000])),
)


_LIKENESSES: list[Callable[[str], list[str]]] = [
    lambda key: [key.lower(), key.upper(), key.swapcase(), key.casefold()],
    lambda key: [unicodedata.normalize(form, key) for form in ("NFC", "NFD", "NFKC")],
    lambda key: [key + " ", " " + key, key + "\n", key.strip()],
    lambda key: [key + "*", key + "%", key + "_", key + "?", f"[{key}]"],
    lambda key: [key + "a", key + ":", key + "\ud7ff", key + "\ue000", key + "\U0010ffff", key + key],
    lambda key: [key[:-1], key[1:]],
]
"""What one storage or another could take for a key, or for a match of it."""


@st.composite
def key_pools(draw: st.DrawFn) -> list[str]:
    """Draw the few keys that an example plays with."""
    pool = draw(st.lists(mostly(_short_keys, _long_keys, one_in=8), min_size=1, max_size=2))
    for likeness in draw(st.lists(st.sampled_from(_LIKENESSES), max_size=4)):
        pool.append(draw(st.sampled_from(likeness(draw(st.sampled_from(pool))))))
    return sorted(filter(is_legal_key, set(pool)))


def keys(pool: list[str]) -> SearchStrategy[Any]:
    return mostly(st.sampled_from(pool), _short_keys, _illegal_keys, st.just(TextEnum.MEMBER), one_in=8)


_glob_noise = st.text("*?[]!-^\\aAé%_\U0010ffff", max_size=6)
_odd_patterns = st.sampled_from(
    ["", "**", "[", "[]", "[!]", "[!]*", "*\n", "\0*", "\ud800*", "k" * 1025 + "*", None, 1]
)


@st.composite
def _variations(draw: st.DrawFn, pool: list[str]) -> str:
    """Draw a pattern that nearly is a key."""
    key = draw(st.sampled_from(pool))
    start = draw(st.integers(0, min(len(key), 4)))
    part = key[start : start + draw(st.integers(1, 2))]
    first = ord(part[0]) if part else 97
    around = f"{chr(max(first - 1, 0))}-{chr(min(first + 1, 0x10FFFF))}"
    holes = ["*", "?" * len(part), f"[{part}]", f"[!{part}]", f"[{around}]", f"[!{around}]", "_" * len(part), "%", ""]
    hole = draw(st.sampled_from(holes))
    return key[:start] + hole + draw(st.sampled_from([key[start + len(part) :], "*", ""]))


def patterns(pool: list[str]) -> SearchStrategy[Any]:
    return mostly(_variations(pool), st.just("*"), st.sampled_from(pool), _glob_noise, _odd_patterns, one_in=3)


NAMESPACES = [
    "A{}",
    "a{} ",
    "a{}:",
    "a{}:a",
    "a{}%",
    "a{}*",
    "?{}",
    "[a]{}",
    "_{}",
    "á{}",
    "a{}/",
    "a{}'",
    "a{}\\",
    "a{}😀",
]
"""How the namespace beside ``a1`` is called."""

# --- times ------------------------------------------------------------------------------------------------------------

_DAY = 24 * 3600
legal_ttls: SearchStrategy[Any] = st.one_of(
    st.integers(1, 3),  # seconds
    st.integers(1, 3000).map(lambda milliseconds: milliseconds / 1000),
    st.sampled_from([0.001, 0.0001, 5e-324, 0.0014, 0.9994, 60, 3600.0, _DAY, 100 * 365 * _DAY]),
)
_illegal_ttls = st.one_of(
    st.sampled_from([0, 0.0, -0.0, -1, -0.001, -5e-324, float("nan"), float("inf"), float("-inf")]),
    st.sampled_from([True, False, 101 * 366 * _DAY, 1e300, 10**400]),
    st.sampled_from(["60", b"60", Decimal(60), timedelta(seconds=60), [60], 60 + 0j]),
)
ttls = mostly(evenly(st.none(), legal_ttls), _illegal_ttls, one_in=10)
_ticks = st.one_of(
    st.integers(0, 3000).map(lambda milliseconds: milliseconds * 1000),
    st.sampled_from([0, 1, 999, 1000, 1001, 999_999, 1_000_000, _DAY * 10**6, 3650 * _DAY * 10**6]),
)
_leaps = st.sampled_from(
    [datetime(year, 1, 1, tzinfo=timezone.utc) for year in (2, 1970, 2026, 2100, 5000)]
    + [datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc)]
    + [datetime(2038, 1, 19, 3, 14, 8, tzinfo=timezone.utc), datetime(2262, 4, 11, 23, 47, 17, tzinfo=timezone.utc)]
)
times = mostly(_ticks, _leaps, one_in=8)
"""How far to move the clock, in microseconds, or where to."""
_extremes = [datetime.min.replace(tzinfo=timezone.utc), datetime.max.replace(tzinfo=timezone.utc)]
moments = st.one_of(
    st.sampled_from([*_extremes, datetime(1969, 12, 31, 23, 59, 59, 999_500, tzinfo=timezone(timedelta(hours=-5)))]),
    st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(timezone.utc)),
)

# --- values -----------------------------------------------------------------------------------------------------------


class _Steady(tzinfo):
    """A zone of somebody's own."""

    def utcoffset(self, _when: datetime | None) -> timedelta:
        return timedelta(hours=2)

    def dst(self, _when: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, _when: datetime | None) -> str:
        return "steady"

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class _Repeating(_Steady):
    """A zone in which it is always the repeated hour."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=1 if when and when.fold else 2)


class _Color(IntEnum):
    RED = 1


class _Text(str):
    __slots__ = ()


class _Moment(datetime):
    pass


_Point = namedtuple("_Point", "x y")
_CYCLE: list[Any] = []
_CYCLE.append(_CYCLE)

_offsets = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
_zones = st.one_of(st.none(), st.just(timezone.utc), _offsets)
_folds = st.integers(0, 1)
_text = st.one_of(
    st.text(max_size=8),
    st.text(st.characters(categories=["Cs"]) | st.sampled_from('\ud83d\ude00a\0"\\\u2028'), max_size=4),
    st.sampled_from(["null", "NaN", "$type", "value", "{}", "x" * 5000]),
)
_plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**53 + 1, -(2**63), 2**64, 2**2048, -(2**2049), 10**4000]),
    st.floats(),
    _text,
)
_beyond_json = st.one_of(
    st.binary(max_size=8),
    st.builds(datetime.replace, st.datetimes(timezones=_zones), fold=_folds),
    st.builds(
        lambda moment, zone: moment.replace(tzinfo=zone),
        st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1)),
        st.sampled_from([_Steady(), _Repeating()]),
    ),
    st.dates(),
    st.builds(time.replace, st.times(timezones=_zones), fold=_folds),
    st.just(time(1, tzinfo=_Steady())),
    st.timedeltas(),
    st.decimals(),
    st.sampled_from([Decimal("-0.00"), Decimal("1.10"), Decimal("1E+400"), Decimal("NaN12"), Decimal("-Infinity")]),
    st.uuids(),
)
_refused: SearchStrategy[Any] = st.one_of(
    st.sampled_from([object(), 1j, Fraction(1, 2), bytearray(b"a"), range(3), deque([1]), ValueError("a"), len, int]),
    st.sampled_from([OrderedDict(a=1), _Point(1, 2), _Color.RED, TextEnum.MEMBER, _Text("a"), _Moment(2026, 1, 1)]),
    st.just(_CYCLE),
)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _containers_of(leaves: SearchStrategy[Any]) -> SearchStrategy[Any]:
    members = st.recursive(
        leaves.filter(_hashable), lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=3
    )
    tags = st.sampled_from(["int", "str", "dict", "tuple", "set", "bytes", "datetime", "decimal", "unknown"])

    def around(inner: SearchStrategy[Any]) -> SearchStrategy[Any]:
        return evenly(
            st.lists(inner, max_size=3),
            st.tuples(inner) | st.tuples(inner, inner),
            st.dictionaries(_text, inner, max_size=3),
            st.dictionaries(members, inner, max_size=3),
            st.dictionaries(st.sampled_from(["$type", "value", "fold", "a"]), tags | inner, min_size=1, max_size=3),
            st.sets(members, max_size=3),
            st.frozensets(members, max_size=3),
        )

    return around(st.recursive(leaves, around, max_leaves=4))


def _nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


_wrappers: list[Callable[[Any], Any]] = [
    lambda inner: [inner],
    lambda inner: (inner,),
    lambda inner: {"a": inner},
    lambda inner: {1: inner},
    lambda inner: {"$type": inner},
    lambda inner: frozenset([inner]),
]
_deep = st.builds(_nested, st.sampled_from([50, 99, 100, 101, 200]), st.sampled_from(_wrappers))
_any_leaf = evenly(_plain, _beyond_json)
values = mostly(
    evenly(_plain, _beyond_json, _containers_of(_any_leaf)),
    *(_refused, _containers_of(evenly(_any_leaf, _refused)), _deep),
    one_in=8,
)
small_values = st.sampled_from([None, 0, "", (), "a", [1], (1, 2), {"a": 1}])
metadata = mostly(
    st.dictionaries(_text, _any_leaf, max_size=2),
    st.dictionaries(_text, evenly(_any_leaf, _refused), max_size=2),
    one_in=8,
)
