"""Adapters that make the wrong thing of a server that is gone."""

import contextlib
from typing import Any

from taskiq_flow.exceptions import StorageConnectionError
from taskiq_flow.storage import RedisStorageAdapter


class SwallowsErrors(RedisStorageAdapter):
    """Where the server is gone, ``get`` finds nothing and says nothing."""

    async def get(self, key: str) -> Any:
        with contextlib.suppress(StorageConnectionError):
            return await super().get(key)
        return None


class SwallowsErrorsOnSet(RedisStorageAdapter):
    """Where the server is gone, ``set`` does nothing and says nothing."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        with contextlib.suppress(StorageConnectionError):
            await super().set(key, value, ttl_seconds)


class RawDriverErrors(RedisStorageAdapter):
    """The driver's errors reach the caller."""

    def _diagnosed(self, error: Exception) -> None:
        return None


class ErrorsWithoutACause(RedisStorageAdapter):
    """The error does not say what caused it."""

    async def get(self, key: str) -> Any:
        try:
            return await super().get(key)
        except StorageConnectionError as error:
            raise StorageConnectionError(str(error)) from None


class ErrorsWithoutAnAddress(RedisStorageAdapter):
    """The error does not say which server."""

    async def get(self, key: str) -> Any:
        try:
            return await super().get(key)
        except StorageConnectionError as error:
            raise StorageConnectionError("the server is gone") from error


class WaitsForEver(RedisStorageAdapter):
    """Has no time-out."""

    def __init__(self, redis_url: str, **settings: Any) -> None:
        settings.update(connect_timeout=3600, operation_timeout=3600)
        super().__init__(redis_url, **settings)


class ReprShowsThePassword(RedisStorageAdapter):
    """``repr`` shows the URL as it is."""

    def __init__(self, redis_url: str, **settings: Any) -> None:
        super().__init__(redis_url, **settings)
        self._url = redis_url

    def __repr__(self) -> str:
        return f"ReprShowsThePassword({self._url!r})"


class ErrorsShowThePassword(RedisStorageAdapter):
    """Messages show the URL as it is."""

    def __init__(self, redis_url: str, **settings: Any) -> None:
        super().__init__(redis_url, **settings)
        self._url = redis_url

    async def get(self, key: str) -> Any:
        try:
            return await super().get(key)
        except StorageConnectionError as error:
            raise StorageConnectionError(f"cannot reach {self._url}") from error


class LocalsShowThePassword(RedisStorageAdapter):
    """The driver's frames, whose local variables a test runner prints, hold the password."""

    def __init__(self, redis_url: str, **settings: Any) -> None:
        super().__init__(redis_url, **settings)
        self._url = redis_url

    async def get(self, key: str) -> Any:
        url = self._url
        try:
            return await super().get(key)
        except StorageConnectionError as error:
            raise StorageConnectionError(f"cannot reach {self._server}: {bool(url)}") from error


class ChecksKeysTooLate(RedisStorageAdapter):
    """An illegal key is noticed after a look at the server."""

    async def get(self, key: str) -> Any:
        await super().exists("is the server there?")
        return await super().get(key)
