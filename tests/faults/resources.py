"""What this process holds open."""

import asyncio
import gc
import os
import threading
import time

from taskiq_flow.storage.threads import end_idle_threads

__all__ = ["held", "nothing_is_left", "open_files", "others_have_ended", "settled"]


def open_files() -> int:
    """Return how many files this process has open, sockets included."""
    return len(os.listdir("/dev/fd"))


def held() -> dict[str, int]:
    """Return how many files and threads this process has."""
    gc.collect()
    return {"files": open_files(), "threads": threading.active_count()}


def others_have_ended() -> None:
    """Wait until the threads of adapters that earlier tests have dropped are gone: they end in their own time."""
    end_idle_threads()
    deadline = time.monotonic() + 30.0
    while left := [thread.name for thread in threading.enumerate() if thread.name.startswith("taskiq-flow_")]:
        assert time.monotonic() < deadline, left
        gc.collect()  # each time: what one still works at may refer to its adapter
        time.sleep(0.01)


def settled(before: dict[str, int]) -> dict[str, int]:
    """Return what this process holds once it is the same as before, or after a while."""
    deadline = time.monotonic() + 30.0
    while (now := held()) != before and time.monotonic() < deadline:
        time.sleep(0.01)  # the thread of an SQLite connection ends after the call that closes it
    return now


async def nothing_is_left(files: int) -> None:
    """Wait until this process has no more files and sockets open than that, and the event loop no task but this."""
    deadline = time.monotonic() + 30.0
    while True:
        # What was given up is closed by a thread, or when the server has answered: nobody says when.
        await asyncio.sleep(0.01)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        more = open_files() - files
        if more <= 0 and not tasks:
            return
        assert time.monotonic() < deadline, f"{more} files and connections and the tasks {tasks} are left"
