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
    "MAX_TTL_SECONDS",
    "checked_key",
    "checked_namespace",
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


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return the test that ``keys(pattern)`` applies to each key: the rules of ``fnmatch.fnmatchcase``."""
    matches = re.compile(fnmatch.translate(pattern)).match
    return lambda key: matches(key) is not None


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
