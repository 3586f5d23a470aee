"""The storage keys of what belongs to an id or a key, which may be any text, each under its own prefix."""

import hashlib

from taskiq_flow.exceptions import ConfigurationError, InvalidKeyError
from taskiq_flow.storage import rules

__all__ = ["checked_prefix", "key_of"]

_HASHED = "sha256:"
_LONGEST_ID = _HASHED + "0" * 64


def key_of(prefix: str, identifier: str) -> str:
    """Return ``{prefix}:{identifier}``; where that is no legal key (too long, for example), with the id's hash instead.

    Ids that look like a hash are hashed too, so that two ids never have one key.
    """
    key = f"{prefix}:{identifier}"
    try:
        if not identifier.startswith(_HASHED):
            return rules.checked_key(key)
    except InvalidKeyError:
        pass
    return f"{prefix}:{_HASHED}{hashlib.sha256(identifier.encode('utf-8', 'surrogatepass')).hexdigest()}"


def checked_prefix(prefix: str) -> str:
    """Return a prefix as :func:`key_of` takes it: without the colon at its end, which may be given or left out.

    :raises ConfigurationError: if it is empty, or keys cannot begin with it.
    """
    if not isinstance(prefix, str):
        raise ConfigurationError(f"prefix must be a str, not {prefix!r}")
    name = prefix.removesuffix(":")
    if not name:
        raise ConfigurationError(f"prefix is empty ({prefix!r}): keys begin with it, to tell them from all others")
    try:
        rules.checked_key(f"{name}:{_LONGEST_ID}")
    except InvalidKeyError as error:
        raise ConfigurationError(f"prefix cannot be used: with an id, {error}") from None
    return name
