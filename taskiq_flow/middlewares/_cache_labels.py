"""What the labels of a task mean to ``CacheMiddleware``."""

from taskiq import TaskiqMessage

from taskiq_flow.middlewares._labels import is_given, is_true

__all__ = [
    "CACHE",
    "CACHED",
    "CACHE_ERRORS",
    "CACHE_KEY",
    "CACHE_TTL",
    "caches_errors",
    "is_cached",
    "is_retry",
    "waiting_seconds",
]

CACHE = "cache"
"""The label of a task whose results are cached for the middleware's default time; False runs it in any case."""
CACHE_TTL = "cache_ttl"
"""The label of a task whose results are cached for that many seconds."""
CACHE_KEY = "cache_key"
"""The label with a custom key, instead of the task's arguments."""
CACHE_ERRORS = "cache_errors"
"""The label of a task whose errors are cached as well."""
CACHED = "cached"
"""The label, True, of a result that comes from the cache, or from a run of the same task at the same time."""

_GRACE = 0.5
"""Seconds from a run's time-out until those who wait for it have seen its end."""


def is_cached(message: TaskiqMessage) -> bool:
    """Return whether the labels ask for the cache."""
    return is_true(message.labels[CACHE]) if is_given(message, CACHE) else is_given(message, CACHE_TTL)


def caches_errors(message: TaskiqMessage) -> bool:
    """Return whether errors are cached as well."""
    return is_true(message.labels.get(CACHE_ERRORS))


def is_retry(message: TaskiqMessage) -> bool:
    """Return whether one of taskiq's retry middlewares sent a message."""
    return bool(message.labels.get("_retries"))


def waiting_seconds(message: TaskiqMessage) -> float | None:
    """Return how many seconds a task waits for another run of it; None for as long as that takes."""
    try:
        return float(message.labels["timeout"]) + _GRACE
    except (KeyError, TypeError, ValueError):  # what cannot be used fails the task when it is run
        return None
