"""Keys, values and patterns that storages are known to get wrong."""

import unicodedata
import uuid
from collections import OrderedDict, UserDict, deque, namedtuple
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from typing import Any

__all__ = [
    "ILLEGAL_KEYS",
    "ILLEGAL_TTLS",
    "LEGAL_KEYS",
    "NAMESPACES",
    "PATTERNS",
    "REFUSED",
    "VALUES",
    "TextEnum",
]

_UTC = timezone.utc


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


# --- keys -------------------------------------------------------------------------------------------------------------

# fmt: off - tables, to be read by the line
_LOOKALIKES = [
    *("a", "A", "à", "À", "a ", "a  ", " a", "a\t", "a\n", "a\r\n", "\na", "aa", "aA"),
    *("Å", "\u212b", "A\u030a", unicodedata.normalize("NFD", "à"), "ß", "ss", "SS", "ẞ", "ﬁ", "fi"),
    *("i", "I", "İ", "ı", "o", "ø", "ö", "e", "é", "ア", "ｱ", "あ", "日本", "日本語", "\u200ba", "a\u200b", "\ufeffa"),
    *("😀", "😁", "👩", "👩\u200d👧", "❤", "❤\ufe0f", "\ud7ff", "\ue000", "\uffff", "\U0010ffff"),
    *(" ", "  ", "\t", "\n", "\r", "\x01", "\x7f", "\x85", "\xa0", "\u2028"),
]
_SPECIAL_TO_SOMETHING = [
    # globs
    *(
        "*",
        "?",
        "[",
        "]",
        "[]",
        "[*]",
        "[!a]",
        "a*",
        "a?",
        "a[b]",
        "a]b",
        "^",
        "[^a]",
        "a-c",
        "\\",
        "\\\\",
        "\\*",
        "a\\b",
    ),
    # SQL
    *(
        "%",
        "%%",
        "_",
        "__",
        "a%",
        "a_",
        "a_c",
        "abc",
        "'",
        "''",
        '"',
        "`",
        "a'b",
        "';--",
        "a;b",
        "--",
        "/*",
        ":a",
        "?1",
    ),
    # regular expressions, format strings, shells, URLs, paths
    *(".", "..", "a.c", "a+", "(a)", "a|b", "^a$", "{a}", "{", "}", "{}", "%s", "%(a)s", "$a", "$(a)", "#a", "a#b"),
    *("a/b", "/", "//", "../a", "./a", "~", "a&b", "a=b", "a@b", "a,b", "%61", "%2e%2e", "a%20b", "a+b", "http://a/b"),
    # what this package itself uses
    *("a:b", "a::b", ":", "::", "a:", "b:c", "a:b:c", "taskiq_flow", "taskiq_flow:a", "pipeline:run42:status"),
    # names
    *("None", "null", "NULL", "true", "0", "00", "1", "-1", "1.0", "1e3", "nan", "keys", "__class__", "CON", "con"),
    *("$type", "value", "a.json", "a.tmp", ".a", "-a", "--a"),
]
_LONG = [
    *("k" * 1024, "k" * 1023, "k" * 1023 + "l", "k" * 1023 + "K", "k" * 1023 + " ", "k" * 255, "k" * 256, "k" * 257),
    *("é" * 512, "😀" * 256, "%" * 1024, "/" * 1024),
]
# fmt: on
LEGAL_KEYS = [*_LOOKALIKES, *_SPECIAL_TO_SOMETHING, *_LONG]

ILLEGAL_KEYS: dict[str, Any] = {
    "empty": "",
    "a NUL": "a\0b",
    "only a NUL": "\0",
    "a lone surrogate": "a\ud800",
    "1,025 bytes": "k" * 1025,
    "1,025 bytes in 513 characters": "é" * 512 + "k",
    "1,028 bytes in 257 characters": "😀" * 257,
    "bytes": b"key",
    "an int": 1,
    "None": None,
    "a bool": True,
    "a list": ["key"],
    "a tuple": ("a", "b"),
    "an object": object(),
}


class TextEnum(str, Enum):  # noqa: UP042 - the str() of a StrEnum is its text
    """A str whose ``str()`` is another text than itself."""

    MEMBER = "member"


NAMESPACES = [
    "a",
    "A",
    "a ",
    "à",
    "a\u0300",
    "a_",
    "a%",
    "a*",
    "a?",
    "[a]",
    "a:",
    "a:b",
    "%61",
    "a%3Ab",
    "'",
    "\\",
    "/",
    "😀",
]

# --- patterns ---------------------------------------------------------------------------------------------------------

# fmt: off
PATTERNS = [
    *("*", "**", "", "?", "??", "???", "a", "A", "a*", "A*", "*a"),
    *("*a*", "a?", "?a", "a??", "*?", "?*", "* ", "*\n", "\n*"),
    *("[a]", "[!a]", "[ab]*", "[!ab]*", "[a-c]", "[a-c]*", "[c-a]"),
    *("[!c-a]", "[a-]", "[-a]", "[--0]", "[a-c-e]", "[A-z]*"),
    *("[", "]", "[]", "[]]", "[!]", "[!]]", "[[]", "[[]*", "[[a]"),
    *("[a", "[!a", "a[", "a[b", "a[b]", "a[[]b]", "[]a]*", "[a]]"),
    *("[*]", "[?]", "[*]*", "[^a]", "[^]*", "^*", "[!^]", "[\\]"),
    *("\\*", "\\?", "\\", "\\\\*", "a\\*", "[\\\\]*", "\\[a]"),
    *("%", "%*", "_", "_*", "a%", "a_", "a_c", "a%*", "*%", "*_"),
    *("'*", '"*', "*'*", "*;*", "--*", ":*", "*:*", "*:*:*"),
    *(".", ".*", "a.c", "a.*", "a+", "(a)", "a|b", "^a$", "{a}", "{a,b}", "{*}", "$*", "#*", "~*", "/*", "*/*", "../*"),
    *("à*", "é*", "[é]*", "[à-é]*", "😀*", "[😀-😁]", "日*", "日本?", "*本*", "\ud7ff*", "\U0010ffff*", "\uffff*"),
    *("[[:alpha:]]", "[a&&b]", "[a||b]", "[a~~b]", "[!-~]", "k*"),
    *("k" * 1023 + "?", "k" * 1024, "k" * 1025 + "*", "%61"),
    *("pipeline:run42:*", "pipeline:*:status", "pipeline:run??:status"),
    *("PIPELINE:*", "taskiq_flow:*", "a:*", "nothing*"),
    *("\0*", "\ud800*"),
]
# fmt: on

# --- values -----------------------------------------------------------------------------------------------------------


class _Zone(tzinfo):
    """A time zone of somebody's own, as those of zoneinfo are."""

    def utcoffset(self, _when: datetime | None) -> timedelta:
        return timedelta(hours=2)

    def dst(self, _when: datetime | None) -> timedelta:
        return timedelta(hours=1)

    def tzname(self, _when: datetime | None) -> str:
        return "CEST"


_ODD_OFFSET = timezone(timedelta(hours=-3, minutes=-30, seconds=-52, microseconds=-1))

# fmt: off
VALUES: dict[str, list[Any]] = {
    "None and booleans": [None, True, False, [None, True, False], {"n": None, "t": True}],
    "integers": [0, 1, -1, 255, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63, 2**64, 10**400, 10**5000, -(10**5000)],
    "floats": [0.0, 1.0, -1.5, 0.1, 1 / 3, 1e16, 123456789012345680.0, 5e-324, 1.7976931348623157e308],
    "minus zero": [-0.0, [-0.0]],
    "infinities and NaN": [float("inf"), float("-inf"), float("nan"), [float("nan"), float("-inf")]],
    "text": [
        *("", " ", "text", " text ", "a\nb\r\n\t", "Grüße, 世界 😀"),
        *("e\u0301 é", "\u2028\u2029\x85", "\x00", "a\x00b", "\x7f"),
        *("'\"`\\/", "%s %(x)s {x} {{}}", "null", "true", "1"),
        *("1.0", "[]", "{}", '"', "2026-01-01", "b'x'", "<a>&amp;"),
        *("\ufeffBOM", "\uffff", "\U0010ffff", "x" * 300_000, "😀" * 10_000),
    ],
    "lone surrogates": ["\ud800", "a\udfffb", "\udc80", {"\ud800": ["\udfff"]}],
    "lists": [[], [[]], [1, [2, [3, []]]], list(range(1000)), [None] * 10, _nested(50)],
    "dicts": [{}, {"": ""}, {"a": {"b": {"c": []}}}, {"\x00": 1, "ü": 2, " ": 3}, {str(n): n for n in range(500)}],
    "the order of a dict": [{"b": 1, "a": 2, "c": 3}, {"z": {"y": 1, "x": 2}, "a": 0}],
    "tuples": [(), (1,), (1, 2), ((),), [(1, 2), [1, 2]], {"t": (1, ("x",))}],
    "sets": [set(), {1}, {1, "1"}, {"a", "b", "c"}, {(1, 2), (3,)}, {frozenset({1})}],
    "frozensets": [frozenset(), frozenset({1, "x", None}), [frozenset({frozenset()})]],
    "bytes": [b"", b"text", b"\x00\xff\xfe", bytes(range(256)), {"b": [b"x"]}],
    "datetimes": [
        *(datetime(2026, 1, 2, 3, 4, 5, tzinfo=_UTC), datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=_UTC)),
        *(datetime(1, 1, 1, tzinfo=_UTC), datetime(2026, 7, 1, 12, 0, tzinfo=timezone(timedelta(hours=5, minutes=45)))),
        *(datetime(2026, 1, 1, tzinfo=_ODD_OFFSET), datetime(2026, 1, 1, tzinfo=_Zone())),
    ],
    "naive datetimes": [datetime(2026, 1, 2, 3, 4, 5), datetime.min, datetime.max],  # noqa: DTZ001, DTZ901 - that's it
    "folds": [
        datetime(2026, 10, 25, 2, 30, fold=1),  # noqa: DTZ001 - naive on purpose
        *(datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=_UTC), time(2, 30, fold=1)),
    ],
    "dates and times": [
        *(date(2026, 2, 28), date.min, date.max, time(0), time.max, time(1, 2, 3, 4)),
        *(time(1, 2, tzinfo=_UTC), time(1, 2, 3, tzinfo=_ODD_OFFSET)),
    ],
    "timedeltas": [
        *(timedelta(0), timedelta(days=-1, microseconds=1), timedelta(milliseconds=1500), timedelta(hours=36)),
        *(timedelta.min, timedelta.max),
    ],
    "decimals": [
        *map(Decimal, ("0", "-0", "1.1", "1.10", "0E-10", "1E+400", "-12345678901234567890.1234567890", "Infinity")),
    ],
    "decimals that are no numbers": [*map(Decimal, ("NaN", "-NaN123", "sNaN", "-sNaN1"))],
    "UUIDs": [uuid.UUID(int=0), uuid.UUID("12345678-1234-5678-1234-567812345678"), uuid.UUID(int=2**128 - 1)],
    "dicts whose keys are no strings": [
        *({1: "x"}, {1: "int", "1": "str"}, {None: 0}, {True: "yes", "True": "text"}, {1.5: [], (1, 2): {3: 4}}),
        *({b"k": 1, date(2026, 1, 1): 2, Decimal("1.10"): 3, frozenset({1}): 4}, {"a": 1, 2: "b", "c": 3}),
    ],
    "dicts that look like tags": [
        *({"$type": "tuple", "value": [1, 2]}, {"$type": "decimal", "value": "1"}),
        *({"$type": "unknown"}, {"$type": None}),
        *({"$type": {"$type": "set"}, "value": []}, {"value": 1}, {"a": [{"$type": "dict", "value": [["$type", 1]]}]}),
        *({"__type__": "tuple"}, {"__tuple__": [1]}, {"py/object": "os.system"}, {"$date": 0}, {"__class__": "x"}),
        *({"expires_at": 0, "created_at": 0, "metadata": {}, "value": 1}, {"$type": "tuple", 1: 2}),
    ],
    "all of it, nested": [
        {
            "t": (1, 2.0, True, None, ("x", [b"y"])),
            "when": [datetime(2026, 1, 1, tzinfo=_UTC), date(2026, 1, 1), timedelta(1)],
            "n": {"price": Decimal("1.10"), "ids": {uuid.UUID(int=1), uuid.UUID(int=2)}},
            "3": {3: "x", (4,): {"$type": "tuple"}},
        },
    ],
}
# fmt: on


class _Color(IntEnum):
    RED = 1


class _Moment(datetime):
    """A class of somebody's own."""


class _Text(str):
    """A class of somebody's own."""

    __slots__ = ()


class _Thing:
    """A class of somebody's own."""


_Point = namedtuple("_Point", ["x", "y"])
_CYCLE: list[Any] = [1]
_CYCLE.append(_CYCLE)
_DICT_CYCLE: dict[str, Any] = {}
_DICT_CYCLE["self"] = [_DICT_CYCLE]

REFUSED: dict[str, list[Any]] = {
    "instances and exceptions": [object(), _Thing(), ValueError("x"), UserDict(a=1)],
    "code": [_Thing, len, lambda: None, uuid, iter(())],
    "other types of the standard library": [1j, Fraction(1, 3), bytearray(b"x"), range(3), deque([1]), {"a": 1}.keys()],
    "subclasses of what can be stored": [OrderedDict(a=1), _Point(1, 2), _Moment(2026, 1, 1, tzinfo=_UTC), _Text("x")],
    "enums": [_Color.RED, TextEnum.MEMBER],
    "parts deep inside": [{object(): 1}, {"a": ({"b": _Point(1, 2)},)}, {_Thing()}, [{"a": [1, frozenset({_Thing})]}]],
    "values that contain themselves": [_CYCLE, _DICT_CYCLE],
    "values nested too deeply": [_nested(10_000), {"a": _nested(10_000)}],
}

# --- times to live ----------------------------------------------------------------------------------------------------

ILLEGAL_TTLS: dict[str, Any] = {
    "0": 0,
    "0.0": 0.0,
    "-0.0": -0.0,
    "-1": -1,
    "-0.001": -0.001,
    "True": True,
    "False": False,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "over 100 years": 101 * 366 * 24 * 3600,
    "1e300": 1e300,
    "10**400": 10**400,
    "text": "60",
    "bytes": b"60",
    "a timedelta": timedelta(seconds=60),
    "a Decimal": Decimal(60),
    "a list": [60],
    "a complex number": 60 + 0j,
}
