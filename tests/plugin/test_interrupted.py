"""A run that is interrupted or killed leaves no process, container or folder behind."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from taskiq_flow.pytest_plugin.servers import stale
from tests.plugin.servers.runs import need, need_image

CODE = """
import asyncio

async def test_long(storage_adapter, storage_backend, storage_config):
    await storage_adapter.set("key", "value")
    print("on", storage_backend.name, storage_config.storage_namespace, flush=True)
    if storage_backend.name == "postgres":
        await asyncio.sleep(60)  # until the outer test interrupts it
"""


@pytest.fixture
def long_run(pytester: pytest.Pytester) -> Callable[..., tuple[subprocess.Popen[str], str]]:
    """Start a run that starts its own servers and then waits; return its process and the run's name."""
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    path = pytester.makepyfile(test_long=CODE)
    ours = ("PYTEST", "TASKIQ_FLOW_TEST")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}

    def start(source: str) -> tuple[subprocess.Popen[str], str]:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-s",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:hypothesispytest",
            "--storage-require=all",
        ]
        command += [f"--storage-servers={source}", str(path)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=path.parent, env=environment
        )
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"on postgres (tfk_\w+)_main_\d+", line):
                return process, found[1]
        raise AssertionError(f"the run ended too early:\n{said}")

    return start


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda end: end.name)
@pytest.mark.parametrize("source", ["wheel", "docker"])
def test_nothing_stays(
    long_run: Callable[..., tuple[subprocess.Popen[str], str]], source: str, end: signal.Signals
) -> None:
    need("redis", source)
    for kind in ("redis", "postgres"):
        need_image(kind, source)
    process, run = long_run(source)
    assert len(_left(run, source)) >= 3, "the run has a folder and two servers"
    process.send_signal(end)
    process.communicate(timeout=30)
    # Who is told to stop clears up before it ends; who is killed cannot, and the supervisors need a moment to see it.
    deadline = time.monotonic() + (0 if end is signal.SIGINT else 15)
    while (left := _left(run, source)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def _left(run: str, source: str) -> list[str]:
    """Return what there is of a run: its folders, and its servers' folders and processes, or containers."""
    places = (Path(tempfile.gettempdir()), Path("/dev/shm"))  # where SQLite's files are
    found = [str(path) for place in places for path in place.glob(f"{run}*")]
    for home in stale.temporary_homes():
        for file in home.glob(f"{stale.PREFIX}*/{stale.RECORD}"):
            with contextlib.suppress(FileNotFoundError):
                record = stale.Record.from_json(file.read_text())
                if record.run_id == run:
                    found += [str(file.parent), *(str(each) for each in (record.supervisor, record.server) if each)]
    return found + (_containers(run) if source == "docker" else [])


def _containers(run: str) -> list[str]:
    import docker

    with contextlib.closing(docker.from_env()) as client:
        return [each.name for each in client.containers.list(all=True, ignore_removed=True) if run in each.name]
