"""Adapters that cannot be built, closed or reopened as they should."""

import asyncio
import copy
import sqlite3
import tempfile
from collections.abc import Iterable
from typing import Any, ClassVar

from taskiq_flow.storage.backend import Record
from tests.contract.broken.base import Memory


class ConstructorConnects(Memory):
    """The constructor opens a database."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        sqlite3.connect(":memory:").close()


class ConstructorMakesAFolder(Memory):
    """The constructor makes a folder."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        with tempfile.TemporaryDirectory():
            pass


class ConstructorNeedsALoop(Memory):
    """The constructor asks for the running event loop."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        asyncio.get_running_loop()


class ConstructorRunsALoop(Memory):
    """The constructor calls ``asyncio.run``."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        nothing = asyncio.sleep(0)
        try:
            asyncio.run(nothing)
        finally:
            nothing.close()


class ClosedForGood(Memory):
    """Cannot be used again once it was closed."""

    _closed = False

    async def aclose(self) -> None:
        self._closed = True

    async def _read(self, key: str, now: int) -> Record | None:
        if self._closed:
            raise RuntimeError("the adapter is closed")
        return await super()._read(key, now)


class WritesClosedForGood(Memory):
    """Can be read, but not written, once it was closed."""

    _closed = False

    async def aclose(self) -> None:
        self._closed = True

    async def _write(self, key: str, record: Record, now: int) -> None:
        if self._closed:
            raise RuntimeError("the adapter is closed")
        await super()._write(key, record, now)


class ClosingTwiceFails(Memory):
    """Closing a second time is an error."""

    _closed = False

    async def aclose(self) -> None:
        if self._closed:
            raise RuntimeError("closed already")
        self._closed = True

    async def _read(self, key: str, now: int) -> Record | None:
        self._closed = False
        return await super()._read(key, now)


class ClosingUnusedFails(Memory):
    """Closing what was never opened is an error."""

    _opened = False

    async def aclose(self) -> None:
        if not self._opened:
            raise AttributeError("'NoneType' object has no attribute 'close'")

    async def _live_keys(self, prefix: str, now: int) -> Iterable[str]:
        self._opened = True
        return await super()._live_keys(prefix, now)

    async def _read(self, key: str, now: int) -> Record | None:
        self._opened = True
        return await super()._read(key, now)

    async def _write(self, key: str, record: Record, now: int) -> None:
        self._opened = True
        await super()._write(key, record, now)


class ClosesForAll(Memory):
    """``aclose`` empties the store that others use too."""

    async def aclose(self) -> None:
        self.store.records.clear()


class SwallowsExceptions(Memory):
    """``async with`` swallows the exception that leaves the block."""

    async def __aexit__(self, *_exception: Any) -> Any:
        await self.aclose()
        return True


class EntersAsAnother(Memory):
    """``async with`` gives a copy of the adapter."""

    async def __aenter__(self) -> Any:
        return copy.copy(self)


class LeavesATask(Memory):
    """A task that cleans in the background outlives ``aclose``."""

    async def _write(self, key: str, record: Record, now: int) -> None:
        self._cleaner = asyncio.ensure_future(asyncio.sleep(1000))
        await super()._write(key, record, now)


class LeavesConnectionsOpen(Memory):
    """Opens a file for each event loop, and never closes it."""

    kept: ClassVar[list[Any]] = []

    async def _write(self, key: str, record: Record, now: int) -> None:
        if key == "key":
            self.kept.append(tempfile.TemporaryFile())  # noqa: SIM115 - that is what is wrong with it
        await super()._write(key, record, now)
