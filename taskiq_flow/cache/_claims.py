"""``Claim``: a creator's hold on a key, renewed for as long as it works."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from taskiq_flow.cache import _marks

__all__ = ["Claim"]

logger = logging.getLogger(__name__)

Mark = dict[str, Any]


class Claim:
    """A hold on one key.

    It is renewed by the event loop's time, whatever other clocks do. A creator that blocks its event loop, or whose
    process dies, renews nothing.

    :param mark: what was stored under the key to get hold of it.
    :param swap: replaces one mark by another, which lives on from then; returns whether the first was there.
    :param look: returns what is under the key.
    :param pause: seconds between renewals.
    """

    def __init__(
        self,
        mark: Mark,
        *,
        swap: Callable[[Mark, Mark], Awaitable[bool]],
        look: Callable[[], Awaitable[Any]],
        pause: float,
    ) -> None:
        self._mark = mark
        self._swap, self._look, self._pause = swap, look, pause
        self._ended = asyncio.Event()
        self._renewing: asyncio.Task[None] | None = None
        self._is_certain = True
        """Whether the mark is the one that was stored last: a renewal that failed may have been stored, or not."""
        self._timer = asyncio.get_running_loop().call_later(pause, self._begin)  # most creators end before

    def stop(self) -> None:
        """Begin no further renewal."""
        self._timer.cancel()
        self._ended.set()

    async def end(self) -> Mark:
        """Stop, wait for the renewal that is under way, and return the mark that is under the key."""
        self.stop()
        with anyio.CancelScope(shield=True):
            if self._renewing is not None:
                await self._renewing
            if not self._is_certain:
                await self._make_certain()
        return self._mark

    def _begin(self) -> None:
        self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        while not self._ended.is_set():
            if not self._is_certain:
                await self._make_certain()
            renewed = _marks.renewed(self._mark)
            try:
                if not await self._swap(self._mark, renewed):
                    return  # the key was set or forgotten, or another creator has it
            except Exception as error:  # noqa: BLE001 - a custom adapter may raise anything
                logger.info("a creator's hold on a cache key could not be renewed, and is tried again: %s", error)
                self._is_certain = False
            else:
                self._mark = renewed
            with anyio.move_on_after(self._pause):
                await self._ended.wait()

    async def _make_certain(self) -> None:
        try:
            found = await self._look()
        except Exception:  # noqa: BLE001 - a custom adapter may raise anything
            return
        self._is_certain = True
        if _marks.is_of_same_creator(found, self._mark):
            self._mark = found
