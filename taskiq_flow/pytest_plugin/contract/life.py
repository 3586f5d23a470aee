"""The contract's rules for an adapter's own life: built, used from one event loop and another, closed, used again."""

import asyncio
import gc
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from taskiq_flow.pytest_plugin.contract.suite import Suite
from taskiq_flow.pytest_plugin.contract.trial import Trial, needs, rule

__all__ = ["LifeRules"]

_OPEN_FILES = Path("/dev/fd")


class LifeRules(Suite):
    """Building, closing and reopening."""

    @needs("shared_store")
    @rule
    def test_the_constructor_does_no_io(self, trial: Trial) -> None:
        """The constructor does no I/O: it opens no file, database, connection or process."""
        trial.another()  # imports and the like are done then
        with _IOWatch() as seen:
            trial.another()
        if seen:
            trial.fail(came_back=f"the constructor did: {', '.join(seen)}", should_be="no I/O")

    @needs("shared_store")
    @rule
    def test_an_adapter_may_be_built_outside_a_loop(self, trial: Trial) -> None:
        """The constructor may be called outside a running event loop."""
        adapter = trial.another("built outside")

        async def use() -> None:
            await adapter.set("key", 1)
            trial.expect(await adapter.get("key"), 1)

        trial.run(use())

    @needs("shared_store")
    @rule
    async def test_an_adapter_may_be_built_inside_a_loop(self, trial: Trial) -> None:
        """The constructor may be called inside a running event loop."""
        adapter = trial.another("built inside")
        await adapter.set("key", 1)
        trial.expect(await adapter.get("key"), 1)

    @needs("event_loops")
    @rule
    def test_one_event_loop_after_another(self, trial: Trial) -> None:
        """An adapter may be used from one event loop and later from another, without being closed in between."""

        async def use(number: int) -> None:
            if number:
                trial.expect(await trial.storage.get("key"), number - 1, "set on the event loop before")
            await trial.storage.set("key", number)
            # At once, so that what an adapter keeps to wait with (a lock, a pool) is waited for on every loop.
            values = await asyncio.gather(*(trial.storage.get("key") for _ in range(5)))
            trial.expect(values, [number] * 5)

        for number in range(3):
            trial.transcript.append(f"(event loop {number})")
            trial.run(use(number), close=number == 2)

    @needs("event_loops")
    @rule
    def test_one_event_loop_after_another_with_aclose_between(self, trial: Trial) -> None:
        """An adapter that was closed on one event loop may be used from another."""

        async def use() -> None:
            await trial.storage.set("key", 1)
            trial.expect(await trial.storage.get("key"), 1)

        for number in range(3):
            trial.transcript.append(f"(event loop {number})")
            trial.run(use())

    @rule
    async def test_closing_twice_is_fine(self, trial: Trial) -> None:
        """Closing twice is fine, also at the same time."""
        await trial.storage.set("key", 1)
        await trial.storage.aclose()
        await trial.storage.aclose()
        await asyncio.gather(trial.storage.aclose(), trial.storage.aclose())

    @rule
    async def test_closing_unused_is_fine(self, trial: Trial) -> None:
        """An adapter that was never used can be closed."""
        await trial.storage.aclose()
        trial.expect(await trial.storage.keys(), [])

    @rule
    async def test_use_after_aclose_reopens(self, trial: Trial) -> None:
        """Use after aclose reopens the adapter, every method of it."""
        await trial.storage.set("key", 1)
        for _ in range(2):
            await trial.storage.aclose()
            await trial.storage.set("key", 2)
            trial.expect(await trial.storage.get("key"), 2)
            await trial.storage.aclose()
            await trial.storage.exists("key")
            await trial.storage.aclose()
            await trial.storage.keys()
            await trial.storage.aclose()
            await trial.storage.cleanup()
            await trial.storage.aclose()
            await trial.storage.delete("key")

    @needs("shared_store")
    @rule
    async def test_closing_one_adapter_leaves_the_others_open(self, trial: Trial) -> None:
        """``aclose`` closes what the adapter opened: another one on the same store goes on, and nothing is lost."""
        other = trial.another()
        await trial.storage.set("key", 1)
        trial.expect(await other.get("key"), 1)
        await other.aclose()
        trial.expect(await trial.storage.get("key"), 1)
        trial.expect(await other.get("key"), 1)

    @rule
    async def test_async_with_gives_the_adapter_and_closes_it(self, trial: Trial) -> None:
        """``async with`` gives the adapter itself, closes it at the end, and swallows no exception."""
        adapter: Any = trial.adapter
        async with adapter as entered:
            if entered is not adapter:
                trial.fail(came_back=f"async with … as {entered!r}", should_be="the adapter itself")
            await trial.storage.set("key", 1)

        async def leave_by_an_exception() -> None:
            async with adapter:
                await trial.storage.set("key", 2)
                raise _Expected

        await trial.raises(leave_by_an_exception(), _Expected)
        await trial.storage.set("key", 3)
        trial.expect(await trial.storage.get("key"), 3)

    @rule
    async def test_closing_leaves_no_task_behind(self, trial: Trial) -> None:
        """``aclose`` closes all that the adapter opened: no task is left."""
        before = asyncio.all_tasks()
        await trial.storage.set("key", 1)
        await asyncio.gather(*(trial.storage.get("key") for _ in range(5)))
        await trial.storage.aclose()
        for _ in range(20):
            if not (left := asyncio.all_tasks() - before):
                return
            await asyncio.sleep(0.01)  # what was cancelled may need a moment to end
        trial.fail(came_back=f"still running: {', '.join(map(repr, left))}", should_be="no task")

    @pytest.mark.skipif(not _OPEN_FILES.exists(), reason="this system does not show a process its open files")
    @needs("event_loops")
    @rule
    def test_closing_leaves_no_connection_or_file_behind(self, trial: Trial) -> None:
        """``aclose`` closes all that the adapter opened: connections and files do not pile up from use to use."""

        async def use() -> None:
            await trial.storage.set("key", 1)
            await asyncio.gather(*(trial.storage.get("key") for _ in range(5)))

        trial.run(use())
        before = _open_files()
        for _ in range(4):
            trial.run(use())
        if (after := _open_files()) - before >= 4:
            gc.collect()  # what only waits for the garbage collector is not left behind
            after = _open_files()
        if after - before >= 4:
            trial.fail(came_back=f"{after - before} more open files after 4 uses", should_be="as many as before")


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

    @staticmethod
    def _hook(event: str, arguments: tuple[Any, ...]) -> None:
        watch = _IOWatch._watching
        if watch is not None and threading.get_ident() == watch._thread:
            writes = event == "open" and isinstance(arguments[1], str) and set("wax+") & set(arguments[1])
            if event in _IOWatch._EVENTS or writes:
                watch._seen.append(event)
