"""What an error of redis-py means: one table.

A Redis server begins an error with a word, its prefix. They are listed in the server's ``src/server.c``
(``createSharedObjects``) and in https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors; redis-py
has classes for some, and keeps the prefix of the others in the message.
"""

import ssl
from traceback import walk_tb

from redis import exceptions as redis_errors
from redis.asyncio.sentinel import MasterNotFoundError, SlaveNotFoundError

from taskiq_flow.storage.failures import Diagnosis, Failure

__all__ = ["ROLE_CHANGED", "diagnose"]

ROLE_CHANGED = (
    redis_errors.ReadOnlyError,  # READONLY: it has become a replica
    redis_errors.BusyLoadingError,  # LOADING: it has just started, or is reading what its new primary sends
    redis_errors.ClusterDownError,  # CLUSTERDOWN, and MASTERDOWN: a replica that has lost its primary
    redis_errors.TryAgainError,  # TRYAGAIN: a slot is moving
)
"""Answers that mean: not here, or not any more. The server did nothing; another connection may reach the right one."""

_LOST = (redis_errors.ConnectionError, redis_errors.RedisClusterException, OSError)
_REFUSED_CONNECTION = (
    redis_errors.AuthenticationError,  # WRONGPASS, NOAUTH
    redis_errors.AuthorizationError,
    redis_errors.ExternalAuthProviderError,
    redis_errors.CrossSlotTransactionError,
    ssl.SSLCertVerificationError,
)
_BY_PREFIX = {
    "READONLY": Failure.LOST,
    "LOADING": Failure.LOST,
    "MASTERDOWN": Failure.LOST,
    "CLUSTERDOWN": Failure.LOST,
    "TRYAGAIN": Failure.LOST,
    "OOM": Failure.PASSING,  # above maxmemory, until entries expire or are evicted
    "BUSY": Failure.PASSING,  # a script runs
    "NOREPLICAS": Failure.PASSING,  # fewer replicas than min-replicas-to-write
    "MISCONF": Failure.PASSING,  # the last snapshot could not be written: a full disk
    "INPROG": Failure.PASSING,
}
_BY_TEXT = {
    "max number of clients reached": Failure.PASSING,
    "max number of clients + cluster connections reached": Failure.PASSING,
    "Too many connections": Failure.PASSING,  # of a client that was handed in, whose pool does not wait
    "string exceeds maximum allowed size": Failure.UNSTORABLE,
    "invalid bulk length": Failure.UNSTORABLE,  # above proto-max-bulk-len
}


def diagnose(error: Exception) -> Diagnosis | None:
    """Return what an error of redis-py means; None if it is not one."""
    words = str(error) or type(error).__name__  # some say nothing
    if isinstance(error, MasterNotFoundError):
        # redis-py shows its clients in this message, and older versions the passwords in them.
        words = words.partition(" : ")[0]
        error.args = (words,)
    if isinstance(error, UnicodeDecodeError) or words.startswith("WRONGTYPE"):
        # The former from a client that was passed in with decode_responses=True.
        return Diagnosis(Failure.UNSTORABLE, words, is_foreign_entry=True)
    if isinstance(error, redis_errors.WatchError) and isinstance(cause := error.__context__, Exception):
        return diagnose(cause)  # a connection that was lost while it watched
    if isinstance(error, (redis_errors.RedisError, redis_errors.RedisClusterException, OSError)):
        failure = _sorted(error, words)
        did_nothing = isinstance(error, ROLE_CHANGED) or words.split(" ")[0] in _BY_PREFIX
        refuses_connection = isinstance(error, (redis_errors.ConnectionError, OSError))
        return Diagnosis(failure, words, did_nothing, refuses_connection=refuses_connection)
    if _is_of_a_lost_transport(error):
        return Diagnosis(Failure.LOST, "the connection was lost")
    return None


def _sorted(error: Exception, words: str) -> Failure:
    for text, failure in _BY_TEXT.items():
        if text in words:
            return failure
    if isinstance(error, (redis_errors.TimeoutError, TimeoutError)):
        return Failure.TIMEOUT
    if isinstance(error, _REFUSED_CONNECTION) or isinstance(error.__cause__, ssl.SSLCertVerificationError):
        return Failure.REFUSED
    if isinstance(error, redis_errors.OutOfMemoryError):
        return Failure.PASSING
    if isinstance(error, (*ROLE_CHANGED, *_LOST, SlaveNotFoundError)):
        return Failure.LOST
    return _BY_PREFIX.get(words.split(" ", maxsplit=1)[0], Failure.REFUSED)


def _is_of_a_lost_transport(error: Exception) -> bool:
    """Return whether asyncio itself failed to write: in older Pythons it uses None where the connection is lost.

    See https://github.com/python/cpython/issues/136234 (seen on 3.13.0); redis-py does not know this error.
    """
    if not isinstance(error, (TypeError, AttributeError)):
        return False
    return any(frame.f_code.co_name == "writelines" for frame, _ in walk_tb(error.__traceback__))
