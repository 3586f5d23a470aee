"""``PerLoop``: each event loop has its own resource, closed on that loop, whether or not anybody thinks of it."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.storage.loops import PerLoop


class Resource:
    """Remembers on which loops it was made and closed."""

    def __init__(self) -> None:
        self.made_on = asyncio.get_running_loop()
        self.closed_on: list[asyncio.AbstractEventLoop] = []

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.closed_on.append(asyncio.get_running_loop())

    @property
    def is_closed_at_home(self) -> bool:
        return self.closed_on == [self.made_on]


@pytest.fixture
def per_loop() -> PerLoop[Resource]:
    return PerLoop(Resource, Resource.close)


@contextmanager
def loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in a thread of its own."""
    loop = asyncio.new_event_loop()

    def run() -> None:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def get_on(loop: asyncio.AbstractEventLoop, per_loop: PerLoop[Resource]) -> Resource:
    """Return the resource of a loop that runs in another thread."""
    return asyncio.run_coroutine_threadsafe(per_loop.get(), loop).result(10)


# --- making -----------------------------------------------------------------------------------------------------------


async def test_tasks_of_a_loop_share_a_resource(per_loop: PerLoop[Resource]) -> None:
    found = await asyncio.gather(*[per_loop.get() for _ in range(50)])
    assert len(set(found)) == 1


def test_each_loop_has_its_own_resource(per_loop: PerLoop[Resource]) -> None:
    found = [asyncio.run(per_loop.get()) for _ in range(50)]
    assert len(set(found)) == 50


async def test_resources_lists_those_of_all_loops(per_loop: PerLoop[Resource]) -> None:
    with loop_in_a_thread() as loop:
        assert per_loop.resources() == []
        held = [await per_loop.get(), get_on(loop, per_loop)]
        assert per_loop.resources() == held
        await per_loop.aclose()
    assert per_loop.resources() == []


async def test_failed_make_keeps_nothing() -> None:
    failures = iter([OSError("no more files")])

    def make() -> str:
        for error in failures:
            raise error
        return "made"

    async def close(_resource: str) -> None:
        """Nothing to do."""

    per_loop = PerLoop(make, close)
    with pytest.raises(OSError, match="no more files"):
        await per_loop.get()
    assert await per_loop.get() == "made"


# --- closing ----------------------------------------------------------------------------------------------------------


def test_loop_closes_its_resource_when_it_ends(per_loop: PerLoop[Resource]) -> None:
    for _ in range(3):
        assert asyncio.run(per_loop.get()).is_closed_at_home
    assert not per_loop._held


async def test_get_after_aclose_makes_another(per_loop: PerLoop[Resource]) -> None:
    first = await per_loop.get()
    await asyncio.gather(per_loop.aclose(), per_loop.aclose())
    await per_loop.aclose()
    assert first.is_closed_at_home
    second = await per_loop.get()
    assert second is not first
    assert not second.closed_on


async def test_dropped_owner_closes_its_resources() -> None:
    per_loop = PerLoop(Resource, Resource.close)
    resource = await per_loop.get()
    del per_loop
    gc.collect()
    for _ in range(5):  # a few turns of the loop
        await asyncio.sleep(0)
    assert resource.is_closed_at_home


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_owner_dropped_shortly_before_the_loop_ends_closes_its_resources(
    turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of ``asyncio.run`` cancels every task: the one that closes what was dropped as well."""
    made: list[Resource] = []
    closed: list[Resource] = []

    async def close(resource: Resource) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        closed.append(resource)

    async def scenario() -> None:
        made.append(await PerLoop(Resource, close).get())
        for _ in range(turns):
            await asyncio.sleep(0)

    asyncio.run(scenario())
    gc.collect()
    assert closed == made
    assert caplog.messages == [], "nobody complains"


async def test_aclose_reaches_loops_of_other_threads(per_loop: PerLoop[Resource]) -> None:
    with loop_in_a_thread() as loop:
        here, there = await per_loop.get(), get_on(loop, per_loop)
        await per_loop.aclose()
        assert here.is_closed_at_home
        assert there.is_closed_at_home
        assert here.made_on is not there.made_on


@pytest.mark.parametrize("stays", [{}, {"stays": True}])
async def test_get_while_closing(stays: dict[str, bool]) -> None:
    asked: list[Resource] = []

    async def close(_resource: Resource) -> None:
        if not asked:
            asked.append(await closing.get())
            assert closing.resources() == asked
            await closing.aclose()  # of what stays, nothing is left to be closed

    closing = PerLoop(Resource, close, **stays)
    first = await closing.get()
    await closing.aclose()
    assert (asked == [first]) is bool(stays)
    assert closing.resources() == []
    assert await closing.get() not in [first, *asked]


async def test_resource_is_forgotten_where_closing_fails() -> None:
    async def close(_resource: Resource) -> None:
        raise OSError("already gone")

    per_loop = PerLoop(Resource, close, stays=True)
    await per_loop.get()
    with pytest.raises(OSError, match="already gone"):
        await per_loop.aclose()
    assert per_loop.resources() == []


def test_close_from_outside_without_resources_needs_no_loop(per_loop: PerLoop[Resource]) -> None:
    """A test under trio may end what it has not used."""
    with pytest.raises(StopIteration):
        per_loop.aclose().send(None)


def test_aclose_leaves_a_loop_that_does_not_run(per_loop: PerLoop[Resource]) -> None:
    loop = asyncio.new_event_loop()
    resource = loop.run_until_complete(per_loop.get())
    asyncio.run(per_loop.aclose())
    assert not resource.closed_on
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert resource.is_closed_at_home
    loop.close()


def test_close_from_outside_closes_on_the_loop(per_loop: PerLoop[Resource]) -> None:
    idle = asyncio.new_event_loop()
    with loop_in_a_thread() as busy:
        resources = [idle.run_until_complete(per_loop.get()), get_on(busy, per_loop)]
        per_loop.close_from_outside()
        assert all(resource.is_closed_at_home for resource in resources)
        per_loop.close_from_outside()
    idle.close()


def test_close_from_outside_has_a_timeout() -> None:
    may_end = threading.Event()

    async def close(_resource: Resource) -> None:
        await asyncio.to_thread(may_end.wait, 10)

    per_loop = PerLoop(Resource, close)
    with loop_in_a_thread() as busy:
        get_on(busy, per_loop)
        try:
            with pytest.raises(FutureTimeoutError):
                per_loop.close_from_outside(timeout=0.01)
            assert not may_end.is_set()
        finally:
            may_end.set()


def test_close_from_outside_while_another_loop_ends(per_loop: PerLoop[Resource]) -> None:
    opened, asked = threading.Event(), threading.Event()
    found: list[Resource] = []

    async def other() -> None:
        found.append(await per_loop.get())
        opened.set()
        asked.wait(10)

    thread = threading.Thread(target=asyncio.run, args=(other(),))
    thread.start()
    opened.wait(10)

    def ask(loop: Any, *callback: Any, **context: Any) -> Any:
        handle = call_soon_threadsafe(loop, *callback, **context)
        asked.set()
        return handle

    call_soon_threadsafe = asyncio.BaseEventLoop.call_soon_threadsafe
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(asyncio.BaseEventLoop, "call_soon_threadsafe", ask)
        per_loop.close_from_outside()
    thread.join()
    assert found[0].is_closed_at_home


def test_closed_loop_does_not_keep_others_open(per_loop: PerLoop[Resource]) -> None:
    gone, idle = asyncio.new_event_loop(), asyncio.new_event_loop()
    gone.run_until_complete(per_loop.get())
    resource = idle.run_until_complete(per_loop.get())
    gone.close()
    per_loop.close_from_outside()
    assert resource.is_closed_at_home
    idle.close()


async def test_two_acloses_at_once_close_each_resource_once(per_loop: PerLoop[Resource]) -> None:
    with loop_in_a_thread() as loop:
        resources = [await per_loop.get(), get_on(loop, per_loop)]
        await asyncio.gather(*[per_loop.aclose() for _ in range(3)])
    assert all(resource.is_closed_at_home for resource in resources)


def test_loop_closed_without_shutdown_is_forgotten(per_loop: PerLoop[Resource]) -> None:
    loop = asyncio.new_event_loop()
    resource = loop.run_until_complete(per_loop.get())
    loop.close()
    per_loop.close_from_outside()
    assert not resource.closed_on
    assert not per_loop._held
    assert asyncio.run(per_loop.get()) is not resource


async def test_aclose_while_another_loop_ends(per_loop: PerLoop[Resource]) -> None:
    """The other loop is busy when it is asked to close its resource, and then comes to its end."""
    opened, may_end = threading.Event(), threading.Event()
    found: list[Resource] = []

    async def other() -> None:
        found.append(await per_loop.get())
        opened.set()
        may_end.wait(10)

    thread = threading.Thread(target=asyncio.run, args=(other(),))
    thread.start()
    await asyncio.to_thread(opened.wait, 10)
    closing = asyncio.ensure_future(per_loop.aclose())
    await asyncio.sleep(0)  # it has asked
    may_end.set()
    try:
        await closing
    finally:
        await asyncio.to_thread(thread.join)
    assert found[0].is_closed_at_home


# --- real adapters, in a process that takes every warning for an error ------------------------------------------------

PROCESS = """
import asyncio, gc, logging, threading, time
from taskiq_flow.storage import StorageAdapterFactory
create = StorageAdapterFactory.create_storage_adapter
logging.getLogger("asyncio").setLevel("ERROR")  # where -X dev would tell of slow callbacks

async def use(adapter):
    await asyncio.gather(*[adapter.set(f"key {number}", number) for number in range(5)])
    assert await adapter.get("key 3") == 3

async def close(adapter):
    async with adapter:
        await use(adapter)

def wait_for_threads(at_most):
    deadline = time.monotonic() + 10
    while threading.active_count() > at_most:  # those of an adapter end after it, in their own time
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.001)

async def drop():
    await use(create())
    gc.collect()
    await asyncio.sleep(0)
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0.001)  # closing takes real input and output

forgotten = create()
for _ in range(3):
    asyncio.run(use(forgotten))
threads = [threading.Thread(target=asyncio.run, args=(use(forgotten),)) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
asyncio.run(close(create()))
asyncio.run(drop())
of_others = [one for one in threading.enumerate() if not one.name.startswith("taskiq-flow_")]
assert of_others == [threading.main_thread()], of_others
wait_for_threads(1 + 5)  # five are SQLite's while its adapter lives
del forgotten, threads, thread, of_others
gc.collect()
wait_for_threads(1)
gc.collect()
print("done")
"""


def run_process() -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", "-W", "ignore::DeprecationWarning", "-c", PROCESS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("done\n", "")


@pytest.mark.storage_backends("sqlite", "redis", "postgres")
def test_adapter_needs_no_aclose(storage_config: TaskiqFlowConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("storage_url", "storage_namespace", "storage_table"):
        monkeypatch.setenv(f"TASKIQ_FLOW_{name.upper()}", getattr(storage_config, name))
    run_process()


def test_adapter_in_threads_needs_no_aclose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_URL", f"sqlite+pysqlite:///{tmp_path}/storage.db")
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_ASYNC_MODE", "false")
    run_process()
