"""``key_of``: the storage key of what belongs to an id of taskiq's, which may be any text."""

import hashlib

from taskiq_flow.exceptions import InvalidKeyError
from taskiq_flow.storage import rules

__all__ = ["key_of"]

_HASHED = "sha256:"


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
