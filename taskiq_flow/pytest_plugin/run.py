"""``Run``: one run of pytest, whatever number of processes it has.

Everything that the kit leaves on a server, in a database or in a folder carries the run's identity, which says who
started it: so that a later run can tell what was left behind by one that was killed, and whose.
"""

import hashlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from taskiq_flow.pytest_plugin.machine import process_space, this_boot, uptime

__all__ = ["Run", "is_run", "is_stale"]

_IDENTITY = re.compile(r"tfk_(?P<host>[0-9a-f]{6})_(?P<pid>\d+)_(?P<began>\d+)_[0-9a-f]{6}(?![^_])", re.ASCII)

_IN_MEMORY = Path("/dev/shm")  # Linux has it; in a container of Docker's it is too small unless told otherwise
_ROOM = 1 << 30
"""Bytes that tests may well fill, with many workers."""


@dataclass(frozen=True)
class Run:
    """The identity of a run, shared by its processes."""

    id: str
    """Names this run on servers and in databases: small letters, digits and underscores, at most 40 characters."""
    folder: Path
    """The run's temporary folder, for this user only."""
    owner_pid: int
    """The process that pytest was started as: with xdist, the controller."""
    database_folder: Path
    """Another one, for SQLite's files: in memory where this system has such folders."""

    @classmethod
    def begin(cls) -> "Run":
        """Return a new run, owned by this process, with its folders; remove those of runs that were killed."""
        on_disk, in_memory = Path(tempfile.gettempdir()), _folder_in_memory()
        for place in filter(None, (on_disk, in_memory)):
            for left in place.glob("tfk_*"):
                if is_stale(left.name):
                    shutil.rmtree(left, ignore_errors=True)
        name = f"tfk_{_host()}_{os.getpid()}_{uptime()}_{token_hex(3)}"
        folder = Path(tempfile.mkdtemp(prefix=f"{name}_", dir=on_disk))
        return cls(name, folder, os.getpid(), Path(tempfile.mkdtemp(prefix=f"{name}_", dir=in_memory or folder)))

    @classmethod
    def of_worker(cls, shared: dict[str, str]) -> "Run":
        """Return the run that the controller described by :meth:`shared`."""
        return cls(shared["id"], Path(shared["folder"]), int(shared["owner_pid"]), Path(shared["database_folder"]))

    def shared(self) -> dict[str, str]:
        """Return what a worker process needs to take part."""
        return {
            "id": self.id,
            "folder": str(self.folder),
            "owner_pid": str(self.owner_pid),
            "database_folder": str(self.database_folder),
        }

    @property
    def is_mine(self) -> bool:
        """Whether this process owns the run, and must clear up after it."""
        return self.owner_pid == os.getpid()

    def remove_folders(self) -> None:
        """Remove the run's folders and all in them."""
        for folder in (self.folder, self.database_folder):
            shutil.rmtree(folder, ignore_errors=True)


def _folder_in_memory() -> Path | None:
    """Return the folder for files that live in memory, if there is one, with room, and nobody asked for another place.

    SQLite makes each writer wait until the disk has the data; tests gain nothing from that.
    """
    if "TMPDIR" in os.environ or not os.access(_IN_MEMORY, os.W_OK):
        return None
    return _IN_MEMORY if shutil.disk_usage(_IN_MEMORY).free >= _ROOM else None


def is_run(name: str) -> bool:
    """Return whether ``name`` is the identity of a run, of whatever machine, and nothing else."""
    return _IDENTITY.fullmatch(name) is not None


def is_stale(name: str) -> bool:
    """Return whether ``name`` begins with the identity of a run of this machine whose owner does not live any more.

    False for anything else: names of other machines' runs, of runs before this machine was started again, and all that
    is not ours.
    """
    identity = _IDENTITY.match(name)
    if identity is None or identity["host"] != _host():
        return False
    try:
        import psutil
    except ModuleNotFoundError:  # nothing is removed where nobody can tell
        return False
    try:
        started = psutil.Process(int(identity["pid"])).create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        return True
    began = int(identity["began"])
    return bool(began and started > began + 2)  # such a process has only inherited the number


def _host() -> str:
    return hashlib.sha256(f"{process_space()} {this_boot()}".encode()).hexdigest()[:6]
