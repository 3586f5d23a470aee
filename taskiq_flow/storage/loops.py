"""``PerLoop``: one resource for each event loop that asks, closed on its own loop before that loop ends.

Connections belong to the loop that opened them. An adapter may be used from one ``asyncio.run`` and later from
another, or from the loops of several threads, so it keeps its client or engine here.
"""

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import anyio

from taskiq_flow.storage.forks import leave_to_parent, reset_in_child

__all__ = ["PerLoop", "Slots"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Held(Generic[T]):
    resource: T
    keeper: AsyncGenerator[None, None]


class PerLoop(Generic[T]):
    """Makes a resource for each running event loop on first use, and closes it there.

    A resource is closed when its loop ends, or as soon as this object is dropped, whichever is first: ``make`` and
    ``close`` must not refer to the holder of this object, or dropping that one would leave both to the cycle collector.

    :param make: makes the resource; does no I/O.
    :param close: closes it; runs on the loop that it was made for, and again if it is cancelled.
    :param stays: whether the resource is still given out while it is being closed, as what ``close`` waits for may need
        it; else another is made.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]], *, stays: bool = False) -> None:
        self._make = make
        self._close = close
        self._stays = stays
        self._held: dict[asyncio.AbstractEventLoop, _Held[T]] = {}
        self._closing: dict[asyncio.AbstractEventLoop, T] = {}
        self._lock = threading.Lock()
        reset_in_child(self)

    def after_fork(self) -> None:
        """Forget what the parent process opened; its loops do not run here."""
        leave_to_parent((self._held, self._closing))
        self._held, self._closing, self._lock = {}, {}, threading.Lock()

    async def get(self) -> T:
        """Return the running loop's resource, made now if need be."""
        loop = asyncio.get_running_loop()
        if loop in self._closing:
            return self._closing[loop]
        held = self._held.get(loop)
        if held is None:
            resource = self._make()
            held = self._held[loop] = _Held(resource, _keep(weakref.ref(self), loop, resource, self._close))
            await held.keeper.__anext__()
            self._forget_closed_loops()
        return held.resource

    def resources(self) -> list[T]:
        """Return the resources that are there, one for each loop."""
        return [held.resource for held in list(self._held.values())] + list(self._closing.values())

    async def aclose(self) -> None:
        """Close every resource, each on its loop. Those of a loop that does not run are left to that loop's end."""
        for loop in list(self._held):
            if loop is asyncio.get_running_loop():
                await self._end(loop)
            elif loop.is_running():
                ending = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._end(loop), loop))
                await asyncio.wait([ending])
                if not ending.cancelled():  # else that loop ended in the meantime, and has closed its own
                    ending.result()
        self._forget_closed_loops()

    def close_from_outside(self, timeout: float = 10.0) -> None:
        """Close every resource, from a thread that runs no event loop: for test kits, between tests.

        :param timeout: seconds to wait for a loop that runs in another thread.
        """
        for loop in list(self._held):
            if loop.is_closed():
                continue
            if loop.is_running():
                with suppress(CancelledError):  # that loop ended in the meantime, and has closed its own
                    asyncio.run_coroutine_threadsafe(self._end(loop), loop).result(timeout)
            else:
                loop.run_until_complete(self._end(loop))
        self._forget_closed_loops()

    async def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        held = self._held.pop(loop, None)  # popped first: of two that close at once, one does
        if held is not None:
            await held.keeper.aclose()

    def _forget_closed_loops(self) -> None:
        # Only loops that were closed without shutdown_asyncgens are still here; nothing can be awaited on them.
        with self._lock:
            for loop in [loop for loop in self._held if loop.is_closed()]:
                del self._held[loop]


class Slots:
    """A limit, in each event loop, of how much is under way at once.

    :param limit: how many; further ones wait for their turn.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._semaphores: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, anyio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a slot in the running loop, and hold it."""
        loop = asyncio.get_running_loop()
        semaphore = self._semaphores.get(loop)
        if semaphore is None:
            semaphore = self._semaphores[loop] = anyio.Semaphore(self._limit)
        async with semaphore:
            yield


async def _keep(
    owner: "weakref.ref[PerLoop[T]]",
    loop: asyncio.AbstractEventLoop,
    resource: T,
    close: Callable[[T], Awaitable[None]],
) -> AsyncGenerator[None, None]:
    # An event loop finalizes its asynchronous generators before it closes (`shutdown_asyncgens`, which asyncio.run and
    # the async test plugins call), and one that nobody refers to any more at once: so the resource is closed on its own
    # loop, whether or not anybody calls aclose().
    try:
        yield
    except asyncio.CancelledError:
        # The end of the loop cancelled the task that was to finalize this before it had begun, and it goes on all the
        # same. Before Python 3.12 it then says a second time, at the next await, that this is to end: not in `close`.
        with suppress(GeneratorExit):
            await asyncio.sleep(0)
        raise
    finally:
        if (per_loop := owner()) is not None:
            per_loop._held.pop(loop, None)
            if per_loop._stays:
                per_loop._closing[loop] = resource
        try:
            await close(resource)
        except asyncio.CancelledError:
            await close(resource)  # the end of a loop cancels every task once, and then waits for it
            raise
        finally:
            if per_loop is not None:
                per_loop._closing.pop(loop, None)
