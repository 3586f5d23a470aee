"""What an error of redis-py means."""

from collections.abc import Callable
from traceback import walk_tb

from redis import exceptions as redis_errors
from redis.asyncio.sentinel import MasterNotFoundError

from taskiq_flow.exceptions import SerializationError, StorageError

__all__ = ["UNREACHABLE", "translated"]

UNREACHABLE = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.RedisClusterException,
    redis_errors.ClusterDownError,
    OSError,
)
"""The errors of redis-py, and of the system, which say that the server cannot be reached."""


def translated(
    error: Exception,
    doing: str,
    unreachable: Callable[[str, object], StorageError],
    refused: Callable[[str, object], StorageError],
) -> StorageError | None:
    """Return this package's error for one of redis-py's, not yet raised; None if it is something else.

    :param doing: the call, as messages show it.
    :param unreachable: makes the error of a server that cannot be reached, from ``doing`` and a reason.
    :param refused: makes the error of a server that refused the call.
    """
    if isinstance(error, MasterNotFoundError):
        # redis-py shows its clients in this message, and older versions the passwords in them.
        error.args = (str(error).partition(" : ")[0],)
    if isinstance(error, UNREACHABLE):
        return unreachable(doing, str(error) or type(error).__name__)  # some say nothing
    if isinstance(error, redis_errors.RedisError):
        if str(error).startswith("WRONGTYPE"):
            return SerializationError(f"the entry under {doing} is not one of ours: {error}")
        return refused(doing, error)
    if isinstance(error, UnicodeDecodeError):  # a client that was passed in with decode_responses=True
        return SerializationError(f"the entry under {doing} is not one of ours: {error}")
    if _is_of_a_lost_transport(error):
        return unreachable(doing, "the connection was lost")
    return None


def _is_of_a_lost_transport(error: Exception) -> bool:
    """Return whether asyncio itself failed to write: in older Pythons it uses None where the connection is lost.

    See https://github.com/python/cpython/issues/136234 (seen on 3.13.0); redis-py does not know this error.
    """
    if not isinstance(error, (TypeError, AttributeError)):
        return False
    return any(frame.f_code.co_name == "writelines" for frame, _ in walk_tb(error.__traceback__))
