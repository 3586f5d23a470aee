"""Showing a URL without its secrets."""

__all__ = ["masked"]


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
