"""What is legal, to the last byte and millisecond, and what is said of the rest."""

import fnmatch
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskiq_flow.exceptions import ConfigurationError, InvalidKeyError, InvalidTTLError
from taskiq_flow.storage import rules

YEARS_100 = 3_155_760_000
NUL = "contains a NUL character, which PostgreSQL cannot store"


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (5, "a storage key must be a str, not int: 5"),
        (b"k" * 77, f"a storage key must be a str, not bytes: {b'k' * 77!r}"),  # 80 characters are shown whole
        (b"k" * 78, f"a storage key must be a str, not bytes: b'{'k' * 77}…"),
        ("", "the storage key '' is empty"),
        ("a\0", rf"the storage key 'a\x00' {NUL}"),
        ("ab\ud800", r"the storage key 'ab\ud800' contains a lone surrogate at position 2 and has no UTF-8 form"),
        ("k" * 1025, f"the storage key '{'k' * 78}… is 1,025 bytes long in UTF-8; at most 1,024 are allowed"),
        ("é" * 513, f"the storage key '{'é' * 78}… is 1,026 bytes long in UTF-8; at most 1,024 are allowed"),
    ],
)
def test_illegal_key_is_refused(key: Any, told: str) -> None:
    with pytest.raises(InvalidKeyError) as raised:
        rules.checked_key(key)
    assert str(raised.value) == told


@pytest.mark.parametrize("key", ["k", " ", "k" * 1024, "é" * 512, "XX", "😀", "\uffff"])
def test_legal_key_is_returned(key: str) -> None:
    assert rules.checked_key(key) == key


@pytest.mark.parametrize(
    ("namespace", "told"),
    [
        (5, "a storage namespace must be a str, not int: 5"),
        ("", "the storage namespace '' is empty"),
        ("\0", rf"the storage namespace '\x00' {NUL}"),
        ("é" * 128, f"the storage namespace '{'é' * 78}… is 256 bytes long in UTF-8; at most 255 are allowed"),
    ],
)
def test_illegal_namespace_is_refused(namespace: Any, told: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        rules.checked_namespace(namespace)
    assert str(raised.value) == told


def test_legal_namespace_is_returned() -> None:
    for namespace in ("n", "é" * 127 + "n"):
        assert rules.checked_namespace(namespace) == namespace


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [
        (5e-324, 1),
        (0.0004, 1),
        (0.0016, 2),
        (1, 1000),
        (1.2345, 1234),
        (YEARS_100, YEARS_100 * 1000),
        (float(YEARS_100), YEARS_100 * 1000),
    ],
)
def test_ttl_is_rounded_to_milliseconds(seconds: float, milliseconds: int) -> None:
    assert rules.ttl_ms(seconds) == milliseconds
    assert type(rules.ttl_ms(seconds)) is int


@pytest.mark.parametrize("seconds", [0, -0.0, -1, float("nan"), float("inf"), YEARS_100 + 0.001, 10**20])
def test_ttl_out_of_range_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidTTLError) as raised:
        rules.ttl_ms(seconds)
    assert str(raised.value) == f"ttl_seconds must be above 0 and at most 100 years, not {seconds!r}"


@pytest.mark.parametrize("seconds", [True, "1", None, 1j])
def test_ttl_of_another_type_is_refused(seconds: Any) -> None:
    with pytest.raises(InvalidTTLError) as raised:
        rules.ttl_ms(seconds)
    assert str(raised.value) == f"ttl_seconds must be an int or float of seconds, not {seconds!r}"


def test_time_out_must_be_a_finite_number_above_zero() -> None:
    assert rules.checked_timeout("patience", 1) == 1
    assert type(rules.checked_timeout("patience", 1)) is float
    assert rules.checked_timeout("patience", 5e-324) > 0
    for wrong in (0, -1, float("nan"), float("inf"), True, "1", None):
        seconds: Any = wrong
        with pytest.raises(ConfigurationError) as raised:
            rules.checked_timeout("patience", seconds)
        assert str(raised.value) == f"patience must be a number of seconds above 0, not {wrong!r}"


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        ("", ""),
        ("abc", "abc"),
        ("ab*c", "ab"),
        ("ab?c*", "ab"),
        ("ab[c]", "ab"),
        ("a]b!c-^\\*", "a]b!c-^\\"),
        ("*", ""),
    ],
)
def test_literal_prefix_begins_every_match(pattern: str, prefix: str) -> None:
    assert rules.literal_prefix(pattern) == prefix


LAST = chr(sys.maxunicode)


@pytest.mark.parametrize(
    ("prefix", "bound"),
    [
        ("a", "b"),
        ("ab", "ac"),
        ("a" + LAST, "b"),
        ("ab" + LAST * 2, "ac"),
        ("a\ud7ff", "a\ue000"),
        ("a\uffff", "a\U00010000"),
        (LAST, None),
        ("", None),
    ],
)
def test_upper_bound_follows_all_that_begin_with_the_prefix(prefix: str, bound: str | None) -> None:
    assert rules.upper_bound(prefix) == bound


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [("a*", ["a", "ab", "a\nb"]), ("?", ["a", "A", "\n"]), ("[!a]", ["A", "\n"]), ("a", ["a"]), ("", [])],
)
def test_matcher_follows_fnmatchcase(pattern: str, matched: list[str]) -> None:
    matches: Callable[[str], bool] = rules.matcher(pattern)
    assert [key for key in ("a", "A", "ab", "ba", "a\nb", "\n") if matches(key)] == matched


@given(pattern=st.text("ab*?[]!-^\\&~|.\n", max_size=12), key=st.text("ab[]!-^\\&~|.\n", min_size=1, max_size=8))
def test_matcher_means_what_fnmatchcase_means(pattern: str, key: str) -> None:
    assert rules.matcher(pattern)(key) == fnmatch.fnmatchcase(key, pattern)


def test_pattern_that_is_too_long_is_refused() -> None:
    assert rules.checked_pattern("*" * 4096) == "*" * 4096
    with pytest.raises(InvalidKeyError, match="at most 4,096 characters, not 4,097"):
        rules.checked_pattern("[" * 4097)


@pytest.mark.parametrize("pattern", ["[" * 4096, "*a" * 2048, "[!]" * 1365, "*[!b]" * 800 + "c", "[a-" * 1365])
def test_hostile_pattern_is_matched(pattern: str) -> None:
    """That this comes to an end in no time is what it shows: with `fnmatch`, some of these take seconds."""
    assert not rules.matcher(pattern)("a" * 1024)
