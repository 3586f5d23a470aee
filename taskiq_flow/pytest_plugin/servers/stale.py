"""What a run leaves behind when it is killed together with its supervisors, and how the next run removes it.

Each server has a folder of its own below the machine's temporary folders, whose record says which run on which host
it belongs to, which processes look after it, and what is to be ended: a process or a container. So has each run that
started one. What no process looks after any more is stale. What belongs to another user, another host, or a run
that still goes on stays.
"""

import contextlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from taskiq_flow.pytest_plugin.machine import process_space

from . import docker

__all__ = [
    "HOST",
    "PREFIX",
    "RECORD",
    "Process",
    "Record",
    "remove_stale",
    "remove_stale_containers",
    "temporary_homes",
]

PREFIX = "taskiq-flow-"
RECORD = "taskiq-flow-owner.json"
_GRACE = 5.0  # seconds that a server has to end by itself
_POLL = 0.01


HOST = process_space()


@dataclass(frozen=True)
class Process:
    """A process that is still the same one: numbers are used again, numbers with a time of start are not.

    ``started`` is in seconds since the machine's start, so that setting the clock does not change it.
    """

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> "Process":
        """Return the process that has this number now.

        :raises ProcessLookupError: if none has.
        """
        try:
            boot = psutil.boot_time()
            return cls(pid, psutil.Process(pid).create_time() - boot)
        except psutil.NoSuchProcess:
            raise ProcessLookupError(f"there is no process {pid}") from None

    def handle(self) -> psutil.Process | None:
        """Return psutil's object for it while it is alive; one that only waits to be reaped is not."""
        with contextlib.suppress(psutil.NoSuchProcess):
            boot = psutil.boot_time()
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - boot - self.started) < 1.0
            if same and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def alive(self) -> bool:
        """Say whether it still runs."""
        return self.handle() is not None

    def wait(self, timeout: float) -> bool:
        """Wait until it has ended, for about ``timeout`` seconds at most, and say whether it has.

        Unlike psutil's, it does not wait for the parent, which may be slow to reap it, nor for a frozen clock.
        """
        for _ in range(int(timeout / _POLL)):
            if not self.alive():
                return True
            time.sleep(_POLL)
        return False

    def end(self, stop_signal: int) -> None:
        """Make it end: by ``stop_signal``, or by force where it does not obey."""
        if process := self.handle():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(stop_signal)
                if not self.wait(_GRACE):
                    process.kill()
                    self.wait(_GRACE)


@dataclass(frozen=True)
class Record:
    """Whose a folder is. ``container`` is a name; ``server`` is the program's process, ended by ``stop_signal``."""

    run_id: str
    owner: Process
    supervisor: Process | None = None
    server: Process | None = None
    stop_signal: int = 0
    container: str | None = None
    host: str = HOST

    def orphaned(self) -> bool:
        """Say whether nobody looks after it any more: on this host neither its run nor its supervisor is alive."""
        return self.host == HOST and not self.owner.alive() and not (self.supervisor and self.supervisor.alive())

    def write(self, folder: Path) -> None:
        """Put the record into ``folder``, whole or not at all."""
        draft = folder / f"{RECORD}.{os.getpid()}"
        draft.touch(mode=0o600)
        draft.write_text(self.to_json())
        draft.replace(folder / RECORD)

    def to_json(self) -> str:
        """Return the record as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """Return the record that ``text`` holds.

        :raises ValueError, KeyError, TypeError: it holds none, or none of this version.
        """
        fields = json.loads(text)
        for name in ("owner", "supervisor", "server"):
            fields[name] = fields[name] and Process(**fields[name])
        return cls(**fields)


def temporary_homes() -> list[Path]:
    """Return the folders in which servers' folders may be, the preferred one first."""
    homes = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    return [home for home in dict.fromkeys(homes) if home.is_dir()]


def remove_stale(run_id: str | None = None) -> None:
    """Remove what dead runs left, or those of one run, whose own supervisors must have ended before.

    Several processes may do so at the same time. What cannot be removed now is left to the next call.
    """
    for folder in _folders():
        # Unreadable: somebody else's, or just being made or removed. And what another run left, and cannot be removed,
        # is no reason to fail this one.
        with contextlib.suppress(Exception):
            record = Record.from_json((folder / RECORD).read_text())
            if record.run_id == run_id if run_id else record.orphaned():
                _remove(folder, record)


def remove_stale_containers() -> None:
    """Remove containers of dead runs whose folders are gone, as after a restart of the machine."""

    def orphaned(label: str) -> bool:
        try:
            return Record.from_json(label).orphaned()
        except (ValueError, KeyError, TypeError):
            return False

    with contextlib.suppress(Exception):  # as above
        docker.remove_stale_containers(orphaned)


def _folders() -> Iterator[Path]:
    """Yield the folders that this user made: in a shared folder, anybody can make one that looks like it."""
    for home in temporary_homes():
        for record in home.glob(f"*/{RECORD}"):
            with contextlib.suppress(OSError):
                found = record.parent.lstat()
                if stat.S_ISDIR(found.st_mode) and found.st_uid == record.lstat().st_uid == os.geteuid():
                    yield record.parent


def _remove(folder: Path, record: Record) -> None:
    if record.server:
        record.server.end(record.stop_signal)
    if record.container:
        docker.remove_container(record.container)
    shutil.rmtree(folder, ignore_errors=True)
