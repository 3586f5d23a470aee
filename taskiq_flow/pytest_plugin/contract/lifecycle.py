"""The contract's rules for an adapter's lifecycle: built, used from several event loops, closed, used again."""

import asyncio
import gc
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from taskiq_flow.pytest_plugin.contract.check import RuleCheck, needs, rule
from taskiq_flow.pytest_plugin.contract.suite import Suite

__all__ = ["LifecycleRules"]

_OPEN_FILES = Path("/dev/fd")


class LifecycleRules(Suite):
    """Building, closing and reopening."""

    @needs("shared_store")
    @rule
    def test_the_constructor_does_no_io(self, check: RuleCheck) -> None:
        """The constructor does no I/O: it opens no file, database, connection or process."""
        check.another()  # imports and the like are done then
        with _IOWatch() as seen:
            check.another()
        if seen:
            check.fail(came_back=f"the constructor did: {', '.join(seen)}", should_be="no I/O")

    @needs("shared_store")
    @rule
    def test_an_adapter_may_be_built_outside_a_loop(self, check: RuleCheck) -> None:
        """The constructor may be called outside a running event loop."""
        adapter = check.another("built outside")

        async def use() -> None:
            await adapter.set("key", 1)
            check.expect(await adapter.get("key"), 1)

        check.run(use())

    @needs("shared_store")
    @rule
    async def test_an_adapter_may_be_built_inside_a_loop(self, check: RuleCheck) -> None:
        """The constructor may be called inside a running event loop."""
        adapter = check.another("built inside")
        await adapter.set("key", 1)
        check.expect(await adapter.get("key"), 1)

    @needs("event_loops")
    @rule
    def test_one_event_loop_after_another(self, check: RuleCheck) -> None:
        """An adapter may be used from one event loop and later from another, without being closed in between."""

        async def use(number: int) -> None:
            if number:
                check.expect(await check.storage.get("key"), number - 1, "set on the event loop before")
            await check.storage.set("key", number)
            # At once, so that what an adapter keeps to wait with (a lock, a pool) is waited for on every loop.
            values = await asyncio.gather(*(check.storage.get("key") for _ in range(5)))
            check.expect(values, [number] * 5)

        for number in range(3):
            check.transcript.append(f"(event loop {number})")
            check.run(use(number), close=number == 2)

    @needs("event_loops")
    @rule
    def test_one_event_loop_after_another_with_aclose_between(self, check: RuleCheck) -> None:
        """An adapter that was closed on one event loop may be used from another."""

        async def use() -> None:
            await check.storage.set("key", 1)
            check.expect(await check.storage.get("key"), 1)

        for number in range(3):
            check.transcript.append(f"(event loop {number})")
            check.run(use())

    @rule
    async def test_closing_twice_is_fine(self, check: RuleCheck) -> None:
        """Closing twice is fine, also at the same time."""
        await check.storage.set("key", 1)
        await check.storage.aclose()
        await check.storage.aclose()
        await asyncio.gather(check.storage.aclose(), check.storage.aclose())

    @rule
    async def test_closing_unused_is_fine(self, check: RuleCheck) -> None:
        """An adapter that was never used can be closed."""
        await check.storage.aclose()
        check.expect(await check.storage.keys(), [])

    @rule
    async def test_use_after_aclose_reopens(self, check: RuleCheck) -> None:
        """Use after aclose reopens the adapter, every method of it."""
        await check.storage.set("key", 1)
        for _ in range(2):
            await check.storage.aclose()
            await check.storage.set("key", 2)
            check.expect(await check.storage.get("key"), 2)
            await check.storage.aclose()
            await check.storage.exists("key")
            await check.storage.aclose()
            await check.storage.keys()
            await check.storage.aclose()
            await check.storage.cleanup()
            await check.storage.aclose()
            await check.storage.delete("key")

    @needs("shared_store")
    @rule
    async def test_closing_one_adapter_leaves_the_others_open(self, check: RuleCheck) -> None:
        """``aclose`` closes what the adapter opened: another one on the same store goes on, and nothing is lost."""
        other = check.another()
        await check.storage.set("key", 1)
        check.expect(await other.get("key"), 1)
        await other.aclose()
        check.expect(await check.storage.get("key"), 1)
        check.expect(await other.get("key"), 1)

    @rule
    async def test_async_with_gives_the_adapter_and_closes_it(self, check: RuleCheck) -> None:
        """``async with`` gives the adapter itself, closes it at the end, and swallows no exception."""
        adapter: Any = check.adapter
        async with adapter as entered:
            if entered is not adapter:
                check.fail(came_back=f"async with … as {entered!r}", should_be="the adapter itself")
            await check.storage.set("key", 1)

        async def leave_by_an_exception() -> None:
            async with adapter:
                await check.storage.set("key", 2)
                raise _Expected

        await check.raises(leave_by_an_exception(), _Expected)
        await check.storage.set("key", 3)
        check.expect(await check.storage.get("key"), 3)

    @rule
    async def test_closing_leaves_no_task_behind(self, check: RuleCheck) -> None:
        """``aclose`` closes all that the adapter opened: no task is left."""
        before = asyncio.all_tasks()
        await check.storage.set("key", 1)
        await asyncio.gather(*(check.storage.get("key") for _ in range(5)))
        await check.storage.aclose()
        for _ in range(20):
            if not (left := asyncio.all_tasks() - before):
                return
            await asyncio.sleep(0.01)  # what was cancelled may need a moment to end
        check.fail(came_back=f"still running: {', '.join(map(repr, left))}", should_be="no task")

    @pytest.mark.skipif(not _OPEN_FILES.exists(), reason="this system does not show a process its open files")
    @needs("event_loops")
    @rule
    def test_closing_leaves_no_connection_or_file_behind(self, check: RuleCheck) -> None:
        """``aclose`` closes all that the adapter opened: connections and files do not pile up from use to use."""

        async def use() -> None:
            await check.storage.set("key", 1)
            await asyncio.gather(*(check.storage.get("key") for _ in range(5)))

        check.run(use())
        before = _open_files()
        for _ in range(4):
            check.run(use())
        if (after := _open_files()) - before >= 4:
            gc.collect()  # what only waits for the garbage collector is not left behind
            after = _open_files()
        if after - before >= 4:
            check.fail(came_back=f"{after - before} more open files after 4 uses", should_be="as many as before")


class _Expected(Exception):  # noqa: N818 - a signal of this module's own
    """Leaves a block."""


def _open_files() -> int:
    return len(os.listdir(_OPEN_FILES))


class _IOWatch:
    """Notes what this thread opens, as the interpreter's own audit reports it, for the length of a ``with`` block."""

    _EVENTS = frozenset({"socket.connect", "socket.getaddrinfo", "sqlite3.connect", "os.mkdir", "subprocess.Popen"})
    _watching: "_IOWatch | None" = None
    _hooked = False

    def __init__(self) -> None:
        self._seen: list[str] = []
        self._thread = threading.get_ident()

    def __enter__(self) -> list[str]:
        if not _IOWatch._hooked:  # an audit hook cannot be removed: there is one, and it does next to nothing
            sys.addaudithook(_IOWatch._hook)
            _IOWatch._hooked = True
        _IOWatch._watching = self
        return self._seen

    def __exit__(self, *_exception: object) -> None:
        _IOWatch._watching = None

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note an event of the watched thread if it is I/O."""
        if threading.get_ident() != self._thread:
            return
        writes = event == "open" and isinstance(arguments[1], str) and set("wax+") & set(arguments[1])
        if event in self._EVENTS or writes:
            self._seen.append(event)

    @staticmethod
    def _hook(event: str, arguments: tuple[Any, ...]) -> None:
        if (watch := _IOWatch._watching) is not None:
            watch.note(event, arguments)
