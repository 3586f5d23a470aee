"""URLs: what may be shown of one, and how a database's driver takes what it says.

Passwords with ``@``, ``/``, ``:``, ``%``, ``#`` or ``?`` that were not quoted make another URL than was meant, and
drivers then tell parts of them as host, port or database. So what is shown of a URL is only what cannot belong to a
password, and what a driver says is shown without any part of one.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

if TYPE_CHECKING:
    from sqlalchemy import URL

__all__ = ["for_driver", "masked", "scrubbed"]

_SECRET_ARGUMENT = re.compile(
    r"[?&;][a-z_.-]*(?:pass|pwd|secret|token|key)[a-z_.-]*=(.*?)(?=[&;][a-z_.-]+=|$)", re.IGNORECASE | re.DOTALL
)
"""An argument of the query that says a secret, whatever that has in it."""
_SEPARATORS = re.compile(r"[^\w.~!$*-]+")
"""At which a driver may take apart what was not quoted."""
_DISTINCT = 4
"""Characters of a secret's part that no other word has in it by accident."""


def masked(url: str) -> str:
    """Return ``url`` with its password, and all that its query says, hidden: for messages, ``repr`` and logs."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url.rpartition("@")[2].partition("?")[0]
    if not rest.startswith("/"):  # with an empty authority, as in "sqlite:///a@b", there is no password
        credentials, at, rest = rest.rpartition("@")
        if "?" in credentials:
            return f"{scheme}://***"  # a password with "?", or a query with "@": nobody knows
        if at:
            rest = f"{credentials.partition(':')[0]}:***@{rest}"
    address, question, _ = rest.partition("?")
    return f"{scheme}://{address}?***" if question else f"{scheme}://{address}"


def scrubbed(text: str, url: str) -> str:
    """Return ``text``, as of a driver's error, with ``***`` for every secret that ``url`` holds.

    That is its password and the secrets of its query, as they stand there, quoted or not, and all parts that a driver
    may have taken for something else.
    """
    for secret in sorted(_hidden(url), key=len, reverse=True):
        exact = re.escape(secret)
        # Some drivers write hosts in small letters.
        text = re.sub(exact if len(secret) >= _DISTINCT else rf"(?<!\w){exact}(?!\w)", "***", text, flags=re.IGNORECASE)
    return text


def _hidden(url: str) -> set[str]:
    """Return what must not be shown, whole and in parts."""
    forms = {
        form
        for secret in _secrets(url)
        for plain in (secret, unquote(secret), unquote_plus(secret))
        for form in (plain, quote(plain), quote(plain, safe=""), quote_plus(plain), repr(plain)[1:-1])
    }
    return {part for form in forms for part in (form, *_SEPARATORS.split(form)) if part}


def _secrets(url: str) -> Iterator[str]:
    """Yield passwords as ``url`` writes them; where it can be read in two ways, those of both."""
    rest = url.partition("://")[2] or url
    yield from (found[1] for found in _SECRET_ARGUMENT.finditer(rest))
    if not rest.startswith("/"):
        for login in (rest.rpartition("@")[0], rest.partition("?")[0].rpartition("@")[0]):
            yield login.partition(":")[2]


def for_driver(url: "URL") -> "tuple[URL, dict[str, Any]]":
    """Return the URL as its driver takes it, and the arguments that the driver is told beside it."""
    from taskiq_flow.storage.sql import drivers

    return drivers.for_driver(url.difference_update_query(["max_connections", "pgbouncer"]))
