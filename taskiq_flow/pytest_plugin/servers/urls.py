"""Server addresses in messages: whoever reads a report may see where a server is, not its password."""

import re
from urllib.parse import unquote

__all__ = ["mask", "scrub"]

_SECRET_ARGUMENT = re.compile(r"([?&;](?:[a-z_]*password|[a-z_]*secret)=)([^&#]*)", re.IGNORECASE)


def mask(url: str) -> str:
    """Return ``url`` with ``***`` for its password; works on addresses that no parser takes."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    return _SECRET_ARGUMENT.sub(r"\1***", f"{scheme}{separator}{user}{':***' if colon else ''}{at}{place}")


def scrub(text: str, url: str) -> str:
    """Return ``text`` (a driver's error, say) with ``***`` for whatever is secret in ``url``."""
    login = url.partition("://")[2].rpartition("@")[0]
    secrets = {login.partition(":")[2], *(match[2] for match in _SECRET_ARGUMENT.finditer(url))}
    for secret in sorted(filter(None, secrets | {unquote(secret) for secret in secrets}), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
