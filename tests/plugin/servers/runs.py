"""Runs of tests, and what they have left on the machine: for the tests of real servers."""

import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import pytest

from taskiq_flow.pytest_plugin.servers import Server, ServerPool, ServerSettings, stale
from taskiq_flow.pytest_plugin.stores import built_in, server_kind
from taskiq_flow.pytest_plugin.stores.sql import first_value

posix_only = pytest.mark.skipif(os.name != "posix", reason="servers are started on POSIX systems only")
as_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root has to be another user")

SERVERS = [kind.name for kind in built_in() if kind.server is not None]
IMAGES = {kind: os.environ.get(f"TASKIQ_FLOW_{kind.upper()}_IMAGE") for kind in SERVERS}
Theirs = Callable[[str], tuple[Server, "stale.Record"]]
NO_ENGINE = "unix:///nonexistent/docker.sock"


class Runs:
    """Makes pools as separate test runs have them, and knows what a run has left on the machine."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.pools: list[ServerPool] = []

    def folder(self) -> tuple[Path, str]:
        run_id = f"test-{token_hex(4)}"
        run_dir = self._home / run_id
        run_dir.mkdir(mode=0o700)
        return run_dir, run_id

    def pool(self, *kinds: str, run: tuple[Path, str] | None = None, **settings: Any) -> ServerPool:
        run_dir, run_id = run or self.folder()
        wanted = {kind: ServerSettings(server_kind(kind), **{"image": IMAGES[kind], **settings}) for kind in kinds}
        pool = ServerPool(run_dir, run_id, os.getpid(), wanted)
        self.pools.append(pool)
        return pool


def records(run_id: str) -> dict[Path, stale.Record]:
    """Return the folders of a run's servers, and what they say."""
    found = {}
    for home in stale.temporary_homes():
        for file in home.glob(f"{stale.PREFIX}*/{stale.RECORD}"):
            with contextlib.suppress(FileNotFoundError):
                record = stale.Record.from_json(file.read_text())
                if record.run_id == run_id:
                    found[file.parent] = record
    return found


def containers(run_id: str) -> list[str]:
    """Return the names of a run's containers."""
    import docker

    with contextlib.closing(docker.from_env()) as client:
        return [each.name for each in client.containers.list(all=True) if run_id in each.name]


def processes(run_id: str) -> list[stale.Process]:
    """Return the supervisors and servers of a run."""
    return [process for record in records(run_id).values() for process in (record.supervisor, record.server) if process]


def until(condition: Callable[[], object], seconds: float = 8.0) -> bool:
    """Wait for other processes: real time, because they have no other."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def need(kind: str, source: str) -> None:
    plan = ServerPool(Path(), "", 0, {kind: ServerSettings(server_kind(kind), sources=(source,))}).plan(kind)
    if plan.startswith("unavailable"):
        pytest.skip(plan)


def need_image(kind: str, source: str) -> None:
    """Skip where Docker has no image of the server and can fetch none. Not if servers were to come from Docker: then
    the test fails, and says why.
    """
    if source != "docker" or os.environ.get("TASKIQ_FLOW_TEST_SERVERS") == "docker":
        return
    if reason := missing(IMAGES[kind] or server_kind(kind).image):
        pytest.skip(reason)


@functools.cache
def missing(image: str) -> str:
    """Return why Docker cannot have an image; an empty string where it has it, or has it now."""
    import docker
    from docker.errors import DockerException, ImageNotFound

    with contextlib.closing(docker.from_env()) as client:
        try:
            client.images.get(image)
        except ImageNotFound:
            try:
                client.images.pull(image)
            except DockerException as error:
                return f"Docker has no image {image}, and cannot fetch it: {error}"
    return ""


def use(url: str) -> str:
    """Write and read on the server at ``url``, as a user of it would, and return what was read."""
    if url.startswith("redis"):
        import redis

        with redis.Redis.from_url(url, decode_responses=True) as client:
            client.set("greeting", "hello", ex=10)
            return str(client.get("greeting"))

    return first_value(url, "SELECT 'hello'", timeout=10)


def gone(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((parts.hostname or "", parts.port or 0)) != 0


MEMBER = """
    import json, os, sys, time
    from pathlib import Path
    from taskiq_flow.pytest_plugin.servers import ServerPool, ServerSettings
    from taskiq_flow.pytest_plugin.stores import server_kind

    run_dir, run_id, owner, source, kinds = sys.argv[1:]
    kinds = kinds.split(",")
    images = {kind: os.environ.get(f"TASKIQ_FLOW_{kind.upper()}_IMAGE") for kind in kinds}
    settings = {kind: ServerSettings(server_kind(kind), image=images[kind], sources=(source,)) for kind in kinds}
    pool = ServerPool(Path(run_dir), run_id, int(owner) or os.getpid(), settings)
    try:
        for kind in kinds:
            print(json.dumps(pool.get(kind).to_json()), flush=True)
        if int(owner) == 0:
            time.sleep(60)
    finally:
        pool.close()
"""


def member(run: tuple[Path, str], owner: int, *kinds: str, source: str = "wheel") -> "subprocess.Popen[str]":
    """Start a process that uses servers of a run: as its owner where ``owner`` is 0, and then it stays."""
    command = [sys.executable, "-c", textwrap.dedent(MEMBER), str(run[0]), run[1], str(owner), source, ",".join(kinds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def served(process: "subprocess.Popen[str]") -> Server:
    assert process.stdout
    return Server.from_json(json.loads(process.stdout.readline()))
