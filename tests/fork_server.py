"""Runs pytest in processes that are forked from one in which the packages that all of them import are loaded already.

To load pytest, taskiq, SQLAlchemy and the drivers anew takes longer than all the rest of an inner run. What is under
test, ``taskiq_flow``, is not loaded before the fork.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["ForkServer", "interpreter_settings"]

_LOADED = (
    "_pytest.pytester",
    "aiosqlite",
    "anyio._backends._asyncio",
    "asyncpg",
    "fakeredis.aioredis",
    "pydantic_settings",
    "pytest",
    "redis.asyncio",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    "sqlalchemy.ext.asyncio",
    "taskiq",
    "taskiq_pipelines",
)


class ForkServer:
    """The process that is forked; it ends when it is closed, or when this process ends."""

    def __init__(self) -> None:
        self.environment = dict(os.environ)
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], out: Path, err: Path) -> int:
        """Run ``python -m pytest`` with these arguments in a folder, and return its exit status.

        :param out: the file to which it writes what it prints.
        :param err: the file for its standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"arguments": [*arguments], "folder": str(folder), "environment": {**environment}}
        print(json.dumps({**request, "out": str(out), "err": str(err)}), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        with self._process:
            pass  # it ends with its standard input


def interpreter_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what an interpreter reads of its environment when it starts: a process that was forked cannot."""
    return {name: value for name, value in environment.items() if name.startswith("PYTHON")}


def _serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become_pytest(**json.loads(line))
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become_pytest(arguments: list[str], folder: str, environment: dict[str, str], out: str, err: str) -> None:
    """Make this process one that was started with ``python -m pytest`` in that folder."""
    for path, stream in ((os.devnull, sys.stdin), (out, sys.stdout), (err, sys.stderr)):
        with open(path, "rb" if stream is sys.stdin else "wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:] = arguments
    sys.path.insert(0, folder)
    runpy.run_module("pytest", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; each inner run decides for itself
    for name in _LOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    _serve()
