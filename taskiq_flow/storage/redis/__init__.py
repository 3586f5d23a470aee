"""Entries on a Redis or Valkey server: :class:`RedisStorageAdapter` and its parts."""

from taskiq_flow.storage.redis.adapter import RedisStorageAdapter

__all__ = ["RedisStorageAdapter"]
