"""URLs: what may be shown of one, and how a database's driver takes what it says."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import URL

__all__ = ["for_driver", "masked"]


def masked(url: str) -> str:
    """Return ``url`` with its password, and all that its query says, hidden: for messages, ``repr`` and logs.

    A password with ``/``, ``#``, ``?`` or ``@`` that was not quoted makes another URL than was meant. It is hidden as
    well: what is shown is what cannot belong to a password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url.rpartition("@")[2].partition("?")[0]
    if not rest.startswith("/"):  # with an empty authority, as in "sqlite:///a@b", there is no password
        credentials, at, rest = rest.rpartition("@")
        if "?" in credentials:
            return f"{scheme}://***"  # a password with "?", or a query with "@": nobody knows
        if at:
            rest = f"{credentials.partition(':')[0]}:***@{rest}"
    place, question, _ = rest.partition("?")
    return f"{scheme}://{place}?***" if question else f"{scheme}://{place}"


def for_driver(url: "URL") -> "tuple[URL, dict[str, Any]]":
    """Return the URL as its driver takes it, and the arguments that the driver is told beside it.

    asyncpg has another form for libpq's ``application_name``, which no URL can say.
    """
    name = url.query.get("application_name")
    if name is None or url.get_driver_name() != "asyncpg":
        return url, {}
    return url.difference_update_query(["application_name"]), {"server_settings": {"application_name": name}}
