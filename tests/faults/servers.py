"""Servers of a test's own, that keep what they acknowledged and may be killed, stopped and started again."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from taskiq_flow.pytest_plugin.servers.kinds import Launch, ServerKind
from taskiq_flow.pytest_plugin.servers.model import SourceFailed, StartedServer
from taskiq_flow.pytest_plugin.servers.programs import (
    Program,
    ProgramServer,
    find_local,
    find_wheel,
    may_enter,
    other_user,
)
from taskiq_flow.pytest_plugin.servers.stale import PREFIX, Process, Record, temporary_homes
from taskiq_flow.pytest_plugin.stores.mysql import MySQLServer
from taskiq_flow.pytest_plugin.stores.postgres import PostgresServer
from taskiq_flow.pytest_plugin.stores.redis import RedisServer

__all__ = ["KINDS", "PrivateServer", "private_server"]

_START_TIMEOUT = 60.0
_POLL = 0.02


class _Redis(RedisServer):
    def probe(self, url: str, timeout: float) -> str:
        once = Retry(NoBackoff(), 0)  # whoever waits for a server asks again
        with Redis.from_url(url, socket_connect_timeout=timeout, socket_timeout=timeout, retry=once) as client:
            client.ping()  # unlike INFO, it fails while the data of an earlier life are loaded
        return super().probe(url, timeout)

    def launch(self, program: Path, data: Path, port: int, password: str) -> Launch:
        launch = super().launch(program, data, port, password)
        return replace(launch, stdin=launch.stdin + "appendonly yes\nappendfsync always\n")


class _Postgres(PostgresServer):
    def launch(self, program: Path, data: Path, port: int, password: str) -> Launch:
        launch = super().launch(program, data, port, password)
        durable = ("-c", "fsync=on", "-c", "synchronous_commit=on", "-c", "full_page_writes=on")
        return replace(launch, command=[*launch.command, *durable])


class _MySQL(MySQLServer):
    def launch(self, program: Path, data: Path, port: int, password: str) -> Launch:
        launch = super().launch(program, data, port, password)
        # And it takes a value of 100 MB.
        durable = ("--innodb-flush-log-at-trx-commit=1", "--innodb-doublewrite=ON", "--max-allowed-packet=1G")
        return replace(launch, command=[*launch.command, *durable])


# The plugin's own are for data that nobody wants back; these keep what they acknowledged.
KINDS: dict[str, type[ServerKind]] = {"redis": _Redis, "postgres": _Postgres, "mysql": _MySQL}


class PrivateServer(ProgramServer):
    """A server program that is started again on the same port, with the same data."""

    url: str

    @property
    def address(self) -> str:
        """Host and port, as messages name them."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def password(self) -> str:
        """The password, which nobody may see."""
        return urlsplit(self.url).password or ""

    @property
    def pid(self) -> int:
        """The number of the server's first process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL the server and all of its processes, as a power cut would."""
        for process in self._processes():
            process.kill()
        self._wait()

    def shut_down(self) -> None:
        """Ask the server to end now, whoever is connected, as an administrator does."""
        self._processes()[0].send_signal(self._kind.stop_signal)
        self._wait()

    def start_again(self) -> None:
        """Start it after its end, and wait until it answers."""
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            self._process = self._spawn(self._launched)
            self.spawned(self._process.pid)
            try:
                await_ready(self.url, self)
            except SourceFailed:
                # PostgreSQL refuses until the last process of the one that was killed is gone.
                if time.monotonic() > deadline:
                    raise
            else:
                return

    @contextmanager
    def paused(self) -> Iterator[None]:
        """SIGSTOP the server and all of its processes: connections stay open, and nothing is ever answered."""
        processes = self._processes()
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def stop(self) -> None:
        """End the server and wait until it is gone; paused processes would outlive it."""
        if self._process is not None and self._process.poll() is None:
            for process in self._processes():
                process.resume()
        super().stop()

    def _processes(self) -> list[psutil.Process]:
        main = psutil.Process(self.pid)
        return [main, *main.children(recursive=True)]

    def _wait(self) -> None:
        assert self._process is not None
        self._process.wait(_START_TIMEOUT)

    def _spawn(self, launch: Launch) -> "subprocess.Popen[bytes]":
        self._launched = launch
        return super()._spawn(launch)


@contextmanager
def private_server(name: str) -> Iterator[PrivateServer]:
    """Run a server of this kind; should this process be killed, the next run of tests ends it.

    :raises SourceFailed: neither this machine nor a wheel has its program, or it cannot be run here.
    """
    kind = KINDS[name]()
    program, user = _find(kind), other_user(kind)
    home = next((home for home in temporary_homes() if user is None or may_enter(user, home)), None)
    if user is not None and home is None:
        raise SourceFailed(f"the user {user.pw_name}, who has to run it, can enter no folder for temporary files")
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{name}-", dir=home) as folder:
        place, me = Path(folder), Process.of(os.getpid())
        place.chmod(0o711)
        server = PrivateServer(kind, program, place, _START_TIMEOUT)
        server.spawned = lambda pid: Record("faults", me, server=Process.of(pid), stop_signal=kind.stop_signal).write(
            place
        )
        try:
            server.url, _ = server.start(await_ready)
            yield server
        finally:
            server.stop()


def _find(kind: ServerKind) -> Program:
    try:
        return find_local(kind)
    except SourceFailed as not_local:
        try:
            return find_wheel(kind)
        except SourceFailed as no_wheel:
            raise SourceFailed(f"{not_local}; {no_wheel}") from None


def await_ready(url: str, server: StartedServer) -> str:
    """Return the version of a server once it answers.

    :raises SourceFailed: it has ended, or takes too long.
    """
    assert isinstance(server, PrivateServer)
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        try:
            return server._kind.probe(url, timeout=2.0)
        except Exception as error:  # noqa: BLE001 - not ready, whatever the driver calls it
            reason = server.ended() or (f"not ready: {error!r}" if time.monotonic() > deadline else "")
            if reason:
                raise SourceFailed(f"{reason}: {server.last_words()}") from None
        time.sleep(_POLL)  # only asking tells whether a server is ready
