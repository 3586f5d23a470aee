"""``CacheSuite``: the base of all groups of cache contract tests, and the creators that they pass to caches."""

import asyncio
from collections.abc import Callable, Generator, Iterator
from typing import Any, ClassVar

import pytest

from taskiq_flow.cache.base import BaseCacheAdapter
from taskiq_flow.pytest_plugin.contract.check import CallRecorder, RuleCheck
from taskiq_flow.pytest_plugin.contract.comparison import shown
from taskiq_flow.pytest_plugin.contract.suite import BaseSuite
from taskiq_flow.pytest_plugin.contract.suite_clock import suite_clock

__all__ = ["CacheSuite", "Creator", "PendingCreation"]


class CacheSuite(BaseSuite):
    """The hooks of a cache's test class; :class:`CacheAdapterContract` explains them."""

    capabilities: ClassVar[dict[str, str]] = {
        "default_ttl": "a default time to live: make_cache_adapter(default_ttl=…)",
        "shared_store": "several caches on one store, where one creates: make_cache_adapter()",
        "prefixes": "several caches in one store that do not see each other: make_cache_adapter(prefix=…)",
        "event_loops": "one cache used from several event loops, one after another and at the same time",
    }
    lock_timeout: ClassVar[float] = 10.0
    settle_seconds: ClassVar[float] = 0.05
    """Seconds of real time in which a caller that fails to wait would be seen."""

    @pytest.fixture
    def check(self, request: pytest.FixtureRequest, cache_adapter: BaseCacheAdapter) -> Iterator[RuleCheck]:
        """The check of one rule, on the cache under test."""
        make = self._maker(request, "make_cache_adapter")
        self._skip_or_fail(request.function, cache_adapter, make)
        with suite_clock(self.expiry_clock, self.server_life) as clock:
            yield RuleCheck(cache_adapter, make, clock, self.timeout, "cache")

    def _why_not(self, capability: str, adapter: Any, make: Callable[..., Any] | None) -> str:
        """Return the reason why this capability is not there; empty where it is."""
        if reason := super()._why_not(capability, adapter, make):
            return reason
        if make is None and capability in {"default_ttl", "shared_store", "prefixes"}:
            needed = self.capabilities[capability]
            return f"{type(self).__name__} has no make_cache_adapter, which this rule needs ({needed})"
        return ""


class Creator:
    """A creator that counts its calls, and may wait until it is released.

    :param value: what it makes; an exception is raised.
    :param held: whether it waits for :meth:`release`.
    """

    def __init__(self, value: Any, *, held: bool = False) -> None:
        self.calls = 0
        self.begun = asyncio.Event()
        self._value = value
        self._released = asyncio.Event()
        if not held:
            self._released.set()

    async def __call__(self) -> Any:
        """Make the value, or raise it."""
        self.calls += 1
        self.begun.set()
        await self._released.wait()
        if isinstance(self._value, Exception):
            raise self._value
        return self._value

    def release(self) -> None:
        """Let the creator go on."""
        self._released.set()

    def __repr__(self) -> str:
        return f"creator of {shown(self._value, 30)}"


class PendingCreation:
    """A call of ``get_or_create`` whose creator has begun, and goes on when it is released, or the block ends.

    Awaiting it awaits the call.
    """

    def __init__(self, cache: CallRecorder, key: str, error: Exception | None = None) -> None:
        self._creator = Creator(error or "created", held=True)
        self._call = cache.get_or_create(key, self._creator)

    async def __aenter__(self) -> "PendingCreation":
        self.task = asyncio.ensure_future(self._call)
        begun = asyncio.ensure_future(self._creator.begun.wait())
        await asyncio.wait([self.task, begun], return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()
        if self.task.done():  # it did not call the creator
            self.task.result()
        return self

    def release(self) -> None:
        """Let the creator go on."""
        self._creator.release()

    async def __aexit__(self, *_: object) -> None:
        self.release()
        await asyncio.wait([self.task])

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self.task)
