"""Entries on a Redis or Valkey server: :class:`RedisStorageAdapter` and its parts."""

from taskiq_flow.exceptions import MissingDependencyError

try:
    import redis as redis
except ImportError as error:
    raise MissingDependencyError.for_extra("RedisStorageAdapter", "redis", "redis") from error

from taskiq_flow.storage.redis.adapter import RedisStorageAdapter

__all__ = ["RedisStorageAdapter"]
