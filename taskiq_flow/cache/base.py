"""``BaseCacheAdapter``: the interface of a cache."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

__all__ = ["BaseCacheAdapter", "CacheStats"]


@dataclass(frozen=True)
class CacheStats:
    """What became of the calls of one cache object, since it was made."""

    hits: int
    """Calls of ``get`` and ``get_or_create`` that found the value at once."""
    misses: int
    """Those that did not."""
    created: int
    """How many values creators made here."""
    waited: int
    """How many calls got the value that another caller, here or elsewhere, was just creating."""
    failed: int
    """How many creators raised here."""


class BaseCacheAdapter(ABC):
    """What every cache promises.

    Keys and values follow the storage contract: what you get is a copy of what was set, of the same type, and what
    could not come back the same is refused with ``SerializationError``. Times to live are seconds on the clock of
    ``taskiq_flow.clock``.

    A cache is an asynchronous context manager; leaving the block closes what the cache opened.
    """

    @abstractmethod
    async def get(self, key: str, default: Any = None) -> Any:
        """Return a copy of the value under ``key``; ``default`` if there is none, or only one that is being created.

        :raises InvalidKeyError: if the key is not legal.
        :raises SerializationError: what is stored there is damaged or foreign.
        """

    @abstractmethod
    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        """Store a copy of ``value``, whatever was there or is being created.

        :param ttl_seconds: seconds to live, above 0; None for the cache's default.
        :raises InvalidKeyError: if the key is not legal.
        :raises InvalidTTLError: if the time to live is not.
        :raises SerializationError: if the value would not come back as it is.
        """

    @abstractmethod
    async def get_or_create(self, key: str, creator: Callable[[], Any], ttl_seconds: float | None = None) -> Any:
        """Return a copy of the value under ``key``; where there is none, of what ``creator()`` makes.

        Of any number of callers at the same time one creates, and the others get its value. A creator that raises
        passes its error to those who wait, and nothing is stored. What ``invalidate`` or ``clear`` overtakes is given
        to those who waited for it, and not stored.

        :param creator: called without arguments; may return an awaitable.
        :param ttl_seconds: as for :meth:`set`, from the moment when the value is there.
        :raises InvalidKeyError: if the key is not legal.
        :raises InvalidTTLError: if the time to live is not.
        :raises SerializationError: what was created would not come back as it is.
        :raises RuntimeError: if ``creator`` asks for its own key.
        """

    @abstractmethod
    async def invalidate(self, key: str) -> bool:
        """Forget the value under ``key``, and one that is being created too; return whether there was one.

        :raises InvalidKeyError: if the key is not legal.
        """

    @abstractmethod
    async def clear(self) -> int:
        """Forget everything in this cache, and nothing else; return how many entries that were."""

    @abstractmethod
    def get_stats(self) -> CacheStats:
        """Return what became of the calls of this object so far."""

    async def aclose(self) -> None:  # noqa: B027 - a default, not an obligation
        """Close what this cache opened, and nothing that it was handed. Closing twice is fine; use reopens it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
