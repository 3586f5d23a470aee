"""Storage adapters that tests share."""

from typing import Any

from taskiq_flow.storage import BaseStorageAdapter

__all__ = ["SixMethods"]


class SixMethods(BaseStorageAdapter):
    """A custom adapter: the six abstract methods and nothing else, over another adapter."""

    def __init__(self, inner: BaseStorageAdapter) -> None:
        self.inner = inner

    async def get(self, key: str) -> Any | None:
        return await self.inner.get(key)

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await self.inner.set(key, value, ttl_seconds)

    async def delete(self, key: str) -> bool:
        return await self.inner.delete(key)

    async def exists(self, key: str) -> bool:
        return await self.inner.exists(key)

    async def keys(self, pattern: str = "*") -> list[str]:
        return await self.inner.keys(pattern)

    async def cleanup(self, ttl_seconds: int = 3600) -> int:
        return await self.inner.cleanup(ttl_seconds)
