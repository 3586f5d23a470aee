"""What a test kit needs of the storage layer, beside the contract. Production code calls nothing of this.

==========================  ======================================================================================
:class:`KitSupport`         how an adapter is closed between tests, where no event loop runs
:func:`intercept_calls`     puts something between the adapters and their storages: faults, or a choice of what is next
:func:`recycle`             lets adapters that follow one another share idle threads, and the state of engines
:func:`keep_expired`        leaves expired entries where they are until ``cleanup()``
:func:`server_ttl_grace`    keeps a server from removing what the frozen clock still calls alive
==========================  ======================================================================================

The pytest plugin uses it; another test kit may do so as well.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from taskiq_flow import clock
from taskiq_flow.exceptions import StorageConnectionError
from taskiq_flow.storage.base import BaseStorageAdapter

__all__ = [
    "Call",
    "Interceptor",
    "KitSupport",
    "intercept_calls",
    "interceptor",
    "is_recycling",
    "keep_expired",
    "keeps_expired",
    "recycle",
    "server_ttl_grace",
    "when_recycling_ends",
]


class KitSupport:
    """What a test kit asks of an adapter, beyond the contract."""

    __slots__ = ()

    def close_from_outside(self) -> None:
        """Close what this adapter opened, from a thread that runs no event loop: between tests.

        Connections of loops that do not run any more are closed as well, without waiting for their servers.
        Under :func:`recycle`, threads are left to the next adapter.
        """


# --- calls ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One call of an adapter, before it reaches its storage."""

    adapter: BaseStorageAdapter
    operation: str
    """The method: ``get`` (also for ``get_entry``), ``set``, ``delete``, ``exists``, ``keys``, ``cleanup``,
    ``set_entry`` or ``compare_and_set``."""
    arguments: tuple[str, ...]
    """Its key or pattern, if it has one."""
    timeout: float
    """Seconds that it may take."""
    unreachable: Callable[[str], StorageConnectionError]
    """Makes the error of this adapter and call for a reason such as "no answer within 2 s"."""

    def __str__(self) -> str:
        return f"{self.operation}({', '.join(map(repr, self.arguments))})"


Interceptor: TypeAlias = Callable[[Call], AbstractAsyncContextManager[None]]
"""Surrounds a call: what it raises on entering is what the call raises, and the storage is not reached."""

_interceptor: Interceptor | None = None


def interceptor() -> Interceptor | None:
    """Return what surrounds each call just now; None, as always in production, for nothing."""
    return _interceptor


@contextmanager
def intercept_calls(surround: Interceptor) -> Iterator[None]:
    """Surround each call of every adapter of this package, in this process, for the length of a ``with`` block.

    What surrounds calls already is inside of it.
    """
    global _interceptor  # noqa: PLW0603 - one for the process, as the fault of a server would be
    before = _interceptor
    _interceptor = surround if before is None else _around(surround, before)
    try:
        yield
    finally:
        _interceptor = before


def _around(outer: Interceptor, inner: Interceptor) -> Interceptor:
    @asynccontextmanager
    async def both(call: Call) -> AsyncIterator[None]:
        async with outer(call), inner(call):
            yield

    return both


# --- sharing between adapters -----------------------------------------------------------------------------------------

_recycling = False
_when_recycling_ends: list[Callable[[], None]] = []


def is_recycling() -> bool:
    """Return whether adapters share idle threads and the state of engines."""
    return _recycling


@contextmanager
def recycle() -> Iterator[None]:
    """Let adapters that follow one another share idle threads and the state of engines, until the block ends.

    Each test has its own adapters: to start threads anew, and to ask a server anew what it can do, costs more than most
    tests. Shared are the dialect of an engine, which knows its server, and the statements that were compiled for it.
    """
    global _recycling  # noqa: PLW0603 - see above
    before, _recycling = _recycling, True
    try:
        yield
    finally:
        _recycling = before
        if not _recycling:
            for end in _when_recycling_ends:
                end()


def when_recycling_ends(end: Callable[[], None]) -> Callable[[], None]:
    """Let ``end`` be called whenever :func:`recycle` ends: a decorator, for what keeps things from owner to owner."""
    _when_recycling_ends.append(end)
    return end


# --- what has expired -------------------------------------------------------------------------------------------------

_keeps_expired = False


def keeps_expired() -> bool:
    """Return whether expired entries stay until somebody calls ``cleanup()``."""
    return _keeps_expired


@contextmanager
def keep_expired(keep: bool = True) -> Iterator[None]:
    """Let expired entries stay until ``cleanup()``, for the length of a ``with`` block: tests count them.

    :param keep: False lets them go by themselves again, as in production.
    """
    global _keeps_expired  # noqa: PLW0603 - see above
    before, _keeps_expired = _keeps_expired, keep
    try:
        yield
    finally:
        _keeps_expired = before


# --- the frozen clock -------------------------------------------------------------------------------------------------

_GRACE_MS = 24 * 60 * 60 * 1000


def server_ttl_grace() -> int:
    """Return how many milliseconds a server keeps an entry beyond its deadline: a day under a frozen clock, else 0.

    A server's clock runs on, and must not remove what the frozen clock still calls alive. A day outlasts every test,
    and what a killed run left on the server still goes.
    """
    return _GRACE_MS if clock.is_frozen() else 0
