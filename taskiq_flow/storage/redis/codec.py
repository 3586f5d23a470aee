"""How entries lie on a Redis server: the name of a key, and a record as text.

An entry is one string, so that ``SET`` writes it whole and a person can read it with ``redis-cli``::

    taskiq_flow:pipeline:run42:status
    {"expires_at": 1767225600000, "created_at": 1767222000000, "metadata": {}, "value": {"phase": "running"}}

The deadline stands first, so that its few bytes (``GETRANGE``) tell whether an entry is live.
"""

import json
import re
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from taskiq_flow.exceptions import SerializationError
from taskiq_flow.storage.backend import Record

__all__ = [
    "HEADER_BYTES",
    "entry_name",
    "is_live_header",
    "is_unchanged",
    "key_of",
    "namespace_pattern",
    "namespace_prefix",
    "pack",
    "unpack",
]

HEADER_BYTES = 48
"""How many bytes of a record hold its deadline, whatever it is."""

_HEADER = re.compile(r'\{"expires_at": (null|-?\d{1,17}), "created_at": (-?\d{1,17}), "metadata": ')
_DEADLINE = re.compile(rb'\{"expires_at": (null|-?\d{1,17}), ')
_VALUE = ', "value": '


# --- names ------------------------------------------------------------------------------------------------------------


@lru_cache
def namespace_prefix(namespace: str) -> str:
    """Return what the names of a namespace's entries begin with on the server, its colon included.

    There is no other colon inside, so that no namespace's prefix is the beginning of another's.
    """
    return quote(namespace, safe="") + ":"


def entry_name(namespace: str, key: str) -> str:
    """Return the name on the server of the entry under ``key``."""
    return namespace_prefix(namespace) + key


def key_of(name: bytes, namespace: str) -> str | None:
    """Return the key of the entry with that name on the server; None for a foreign name, which is not UTF-8."""
    try:
        return name.decode().removeprefix(namespace_prefix(namespace))
    except UnicodeDecodeError:
        return None


def namespace_pattern(namespace: str, key_prefix: str = "") -> str:
    """Return the pattern (of Redis' ``SCAN``) of the names of a namespace's keys that begin with ``key_prefix``."""
    return namespace_prefix(namespace) + re.sub(r"([*?\[\]^\\])", r"\\\1", key_prefix) + "*"


# --- records ----------------------------------------------------------------------------------------------------------


def pack(record: Record) -> str:
    """Return a record as text."""
    expires_at = "null" if record.expires_at is None else record.expires_at
    return (
        f'{{"expires_at": {expires_at}, "created_at": {record.created_at}, '
        f'"metadata": {record.metadata}{_VALUE}{record.value}}}'
    )


def unpack(key: str, stored: str | bytes) -> Record:
    """Return the record that was packed.

    :raises SerializationError: if it was not, or is damaged.
    """
    try:
        text = stored if isinstance(stored, str) else stored.decode()
        if not (header := _HEADER.match(text)):
            raise ValueError("it does not begin like one")
        _, end = json.JSONDecoder().raw_decode(text, header.end())
        if not text.startswith(_VALUE, end) or not text.endswith("}"):
            raise ValueError("it is cut off or mixed up")
    except (ValueError, RecursionError) as error:
        reason = f"the entry under key {key!r} cannot be read: it is not one of ours, or damaged: {error}"
        raise SerializationError(reason) from None
    expires_at = None if header[1] == "null" else int(header[1])
    return Record(text[end + len(_VALUE) : -1], int(header[2]), expires_at, text[header.end() : end])


def is_unchanged(text: str | bytes | None, seen: Record | None, now: int | None) -> bool:
    """Return whether ``text`` is the record that was ``seen``; where that is None, whether it is nothing live.

    :param now: milliseconds; None where the server decides what is live.
    """
    if seen is None:
        return text is None or (now is not None and not is_live_header(text, now))
    return text in {pack(seen), pack(seen).encode()}


def is_live_header(header: Any, now: int) -> bool | None:
    """Return whether the record that begins with ``header`` is live; None where there is none.

    What is damaged or foreign counts as live: it is there, and only ``get`` can say what is wrong with it.

    :param header: the first :data:`HEADER_BYTES` of a record, or the error that was the server's answer.
    """
    if isinstance(header, Exception):
        return True
    if not header:
        return None
    deadline = _DEADLINE.match(header.encode() if isinstance(header, str) else header)
    return deadline is None or deadline[1] == b"null" or now < int(deadline[1])
