"""Showing a URL without its secrets."""

from urllib.parse import urlsplit

__all__ = ["masked"]


def masked(url: str) -> str:
    """Return ``url`` with its password, and all that its query says, hidden: for messages, ``repr`` and logs."""
    head, at, location = url.rpartition("@")
    try:
        parts = urlsplit(url)
        credentials, at, location = parts.netloc.rpartition("@")
    except ValueError:  # not parsable as a URL: show nothing of what may hold a password
        return f"{head.partition('://')[0]}://***@{location}" if at else url.partition("?")[0]
    netloc = f"{credentials.partition(':')[0]}:***@{location}" if at else location
    shown = parts._replace(netloc=netloc, query="***" if parts.query else "").geturl()
    # urlsplit drops an empty authority: "sqlite:///x" must not become "sqlite:/x", nor "memory://" "memory:".
    return shown if "://" in shown or "://" not in url else shown.replace(":", "://", 1)
