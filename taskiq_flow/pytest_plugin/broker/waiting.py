"""What a task waits for: the line of the application at which it stands."""

import asyncio
import linecache
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["what_it_waits_for"]

# Where the code of others lies: what a task waits for is shown in the application's own.
_OTHERS = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "purelib", "platlib"))
_OURS = f"{Path(__file__).parents[2]}{os.sep}"


def what_it_waits_for(task: "asyncio.Task[None] | None") -> str:
    """Return where a task stands, as the end of a sentence that begins with its name."""
    if task is None:
        return "is about to begin: its event loop does not run"
    frames = [
        frame for frame in _suspended(task.get_coro()) if not frame.f_code.co_filename.startswith((*_OTHERS, _OURS))
    ]
    if not frames:  # what is seen is taskiq, which waits for a thread or has not begun
        return "runs in a thread, or is about to begin"
    where = frames[-1]
    file, line = where.f_code.co_filename, where.f_lineno
    shown = linecache.getline(file, line).strip()
    return f"waits in {where.f_code.co_name} ({_short(file)}:{line}): {shown}"


def _suspended(coroutine: Any) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine and of what it awaits, the outermost first."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            yield frame
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)


def _short(file: str) -> str:
    here = f"{Path.cwd()}{os.sep}"
    return file.removeprefix(here)
