"""URLs: what may be shown of one, and how a database's driver takes what it says.

Passwords with ``@``, ``/``, ``:``, ``%``, ``#`` or ``?`` that were not quoted make another URL than was meant, and
drivers then tell parts of them as host, port or database. So what is shown of a URL is only what cannot belong to a
password, and what a driver says is shown without any part of one.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

if TYPE_CHECKING:
    from sqlalchemy import URL

__all__ = ["for_driver", "masked", "scrubbed", "without_secrets"]

_SECRET_ARGUMENT = re.compile(
    r"[?&;][a-z_.-]*(?:pass|pwd|secret|token|key)[a-z_.-]*=(.*?)(?=[&;][a-z_.-]+=|$)", re.IGNORECASE | re.DOTALL
)
"""An argument of the query that says a secret, whatever that has in it."""
_SEPARATORS = re.compile(r"[^\w.~!$*-]+")
"""At which a driver may take apart what was not quoted."""
_DISTINCT = 4
"""Characters of a secret's part that no other word has in it by accident."""
_TEXTS = ("strerror", "filename", "filename2", "object", "reason", "orig", "detail")
"""What errors of Python and SQLAlchemy say beside their arguments."""


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
    pattern = _pattern(url)
    return text if pattern is None else pattern.sub("***", text)


def without_secrets(error: BaseException, url: str) -> BaseException:
    """Return a driver's error, and all that it is chained to, without the secrets of ``url``.

    It is the same object, changed; or a ``RuntimeError`` in its place, where it says a secret all the same.
    """
    if _pattern(url) is None:
        return error
    _scrub(error, url, set())
    told = f"{error} {error!r}"
    return error if scrubbed(told, url) == told else RuntimeError(scrubbed(f"{type(error).__name__}: {error}", url))


def _scrub(error: BaseException, url: str, seen: set[int]) -> None:
    if id(error) in seen:
        return
    seen.add(id(error))

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return scrubbed(value, url)
        if type(value) in (list, tuple):
            return type(value)(map(clean, value))
        if isinstance(value, BaseException):
            _scrub(value, url, seen)
        return value

    with suppress(Exception):  # a class of a driver's may refuse
        error.args = clean(error.args)
    for name in (*vars(error), *_TEXTS):
        with suppress(Exception):
            found = getattr(error, name)
            if (cleaned := clean(found)) is not found:
                setattr(error, name, cleaned)
    for other in (error.__cause__, error.__context__, *getattr(error, "exceptions", ())):
        if other is not None:
            _scrub(other, url, seen)


@lru_cache(maxsize=64)
def _pattern(url: str) -> "re.Pattern[str] | None":
    """Return what finds the secrets of ``url``; None where it holds none."""
    found = [
        exact if len(secret) >= _DISTINCT else rf"(?<!\w){exact}(?!\w)"
        for secret in sorted(_hidden(url), key=len, reverse=True)
        for exact in [re.escape(secret)]
    ]
    # Some drivers write hosts in small letters.
    return re.compile("|".join(found), re.IGNORECASE) if found else None


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
