"""The contract's rules for keys, namespaces, times to live and patterns: each is checked only here."""

import fnmatch
import math
import re
import sys
from collections.abc import Callable

from taskiq_flow._text import shown
from taskiq_flow.exceptions import ConfigurationError, InvalidKeyError, InvalidTTLError

__all__ = [
    "DEFAULT_NAMESPACE",
    "DEFAULT_TABLE",
    "MAX_KEY_BYTES",
    "MAX_NAMESPACE_BYTES",
    "MAX_PATTERN_LENGTH",
    "MAX_TTL_SECONDS",
    "checked_key",
    "checked_max_connections",
    "checked_namespace",
    "checked_pattern",
    "checked_timeout",
    "literal_prefix",
    "matcher",
    "ttl_ms",
    "upper_bound",
]

DEFAULT_NAMESPACE = "taskiq_flow"
DEFAULT_TABLE = "taskiq_flow_storage"
MAX_KEY_BYTES = 1024
MAX_NAMESPACE_BYTES = 255
MAX_PATTERN_LENGTH = 4096
MAX_TTL_SECONDS = 100 * 365.25 * 24 * 60 * 60


def checked_key(key: str) -> str:
    """Return ``key`` if every backend can hold it.

    :raises InvalidKeyError: if it is not a str, empty, not valid UTF-8, longer than 1,024 bytes, or contains a NUL.
    """
    if not isinstance(key, str):
        raise InvalidKeyError(f"a storage key must be a str, not {type(key).__name__}: {shown(key)}")
    # The text itself: str() of a subclass may be another (an enum that is a str gives its name).
    key = str.__str__(key)
    if complaint := _complaint(key, MAX_KEY_BYTES):
        raise InvalidKeyError(f"the storage key {shown(key)} {complaint}")
    return key


def checked_namespace(namespace: str) -> str:
    """Return ``namespace`` if every backend can hold it.

    :raises ConfigurationError: if it is not a str, empty, not valid UTF-8, longer than 255 bytes, or contains a NUL.
    """
    if not isinstance(namespace, str):
        raise ConfigurationError(f"a storage namespace must be a str, not {type(namespace).__name__}: {namespace!r}")
    if complaint := _complaint(namespace, MAX_NAMESPACE_BYTES):
        raise ConfigurationError(f"the storage namespace {shown(namespace)} {complaint}")
    return namespace


def ttl_ms(ttl_seconds: float) -> int:
    """Return a time to live in whole milliseconds, at least 1.

    :raises InvalidTTLError: if it is not an int or float (a bool is not one here), NaN, not above 0, or over 100 years.
    """
    if isinstance(ttl_seconds, bool) or not isinstance(ttl_seconds, (int, float)):
        raise InvalidTTLError(f"ttl_seconds must be an int or float of seconds, not {shown(ttl_seconds)}")
    if not 0 < ttl_seconds <= MAX_TTL_SECONDS:  # NaN compares false
        raise InvalidTTLError(f"ttl_seconds must be above 0 and at most 100 years, not {shown(ttl_seconds)}")
    return max(1, round(ttl_seconds * 1000))


def checked_timeout(name: str, seconds: float) -> float:
    """Return a time-out in seconds.

    :raises ConfigurationError: if it is not a finite number above 0: no adapter waits without end.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise ConfigurationError(f"{name} must be a number of seconds above 0, not {seconds!r}")
    return float(seconds)


def checked_max_connections(number: int) -> int:
    """Return a number of connections.

    :raises ConfigurationError: if it is not a whole number above 0.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ConfigurationError(f"max_connections must be a whole number above 0, not {number!r}")
    return number


def checked_pattern(pattern: str) -> str:
    """Return a pattern of keys.

    :raises TypeError: if it is not a str.
    :raises InvalidKeyError: if it is longer than 4,096 characters.
    """
    if not isinstance(pattern, str):
        raise TypeError(f"a key pattern must be a str, not {type(pattern).__name__}: {shown(pattern)}")
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise InvalidKeyError(
            f"a key pattern may have at most {MAX_PATTERN_LENGTH:,} characters, not {len(pattern):,}: {shown(pattern)}"
        )
    return pattern


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return the test that ``keys(pattern)`` applies to each key: the rules of ``fnmatch.fnmatchcase``.

    It takes time in proportion to the key's length. ``fnmatch`` itself looks for the end of each ``[`` anew, which for
    thousands of them takes seconds.
    """
    segments = _segments(pattern)
    if sum(map(len, segments)) > MAX_KEY_BYTES:
        return lambda _key: False  # each part takes a character: no legal key has as many
    first, *others = map("".join, segments)
    # After each "*", the first place where the next segment matches will do: atomic groups never look for another.
    middle = "".join(f"(?>.*?{segment})" for segment in others[:-1] if segment)
    last = f".*{others[-1]}" if others else ""
    matches = re.compile(rf"(?s:{first}{middle}{last})\Z").match
    return lambda key: matches(key) is not None


def _segments(pattern: str) -> list[list[str]]:
    """Return what is between the ``*`` of a pattern: for each character of the key, a regular expression."""
    segments: list[list[str]] = [[]]
    position, has_end = 0, True
    while position < len(pattern):
        character, position = pattern[position], position + 1
        if character == "*":
            segments.append([])
        elif character == "?":
            segments[-1].append(".")
        elif character == "[" and has_end:
            # As in `fnmatch`, "]" is an end unless it is the first in the set, whether that is negated or not.
            begin = position + (pattern[position : position + 1] == "!")
            end = pattern.find("]", begin + (pattern[begin : begin + 1] == "]"))
            if end < 0:
                has_end = pattern.find("]", position) >= 0
                segments[-1].append(r"\[")
            else:
                segments[-1].append(_set(pattern[position - 1 : end + 1]))
                position = end + 1
        else:
            segments[-1].append(re.escape(character))
    return segments


def _set(text: str) -> str:
    """Return a set such as ``[!a-z]`` as a regular expression: as ``fnmatch`` has it, which wraps it in ``(?s:…)``."""
    translated = fnmatch.translate(text)
    return translated[len("(?s:") : translated.rindex(")")]


def literal_prefix(pattern: str) -> str:
    """Return the text that every key which matches ``pattern`` begins with; it may be empty."""
    return re.split(r"[*?[]", pattern, maxsplit=1)[0]


def upper_bound(prefix: str) -> str | None:
    """Return the smallest text above all that begin with ``prefix`` in the order of code points, which is that of
    UTF-8 bytes; None where there is none.
    """
    head = prefix.rstrip(chr(sys.maxunicode))
    if not head:
        return None
    following = ord(head[-1]) + 1
    # Surrogates are no characters: after U+D7FF comes U+E000.
    return head[:-1] + chr(0xE000 if following == 0xD800 else following)


def _complaint(text: str, limit: int) -> str:
    if not text:
        return "is empty"
    if "\0" in text:
        return "contains a NUL character, which PostgreSQL cannot store"
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        return f"contains a lone surrogate at position {error.start} and has no UTF-8 form"
    return f"is {size:,} bytes long in UTF-8; at most {limit:,} are allowed" if size > limit else ""
