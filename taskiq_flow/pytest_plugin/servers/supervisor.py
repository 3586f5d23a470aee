"""The process that holds one server while a run lasts; started as ``python -m`` by :class:`.pool.ServerPool`.

It reads its job from standard input, and forks. The first process ends as soon as the answer is in the run's folder:
a server, or why there is none. The second one holds the server until the run's owner is gone, ``stop`` appears in the
run's folder, or SIGTERM comes; then it removes what it started. It belongs to nobody's terminal and has no parent.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from taskiq_flow._text import one_line
from taskiq_flow.storage.urls import scrubbed

from . import docker, programs, stale
from .given import import_driver
from .model import Server, ServerSettings, SourceFailed, StartedServer, require_posix

if TYPE_CHECKING:
    from pwd import struct_passwd

__all__ = ["main"]

_RUN_POLL = 0.05  # seconds between two looks at whether the run is over
_READY_POLL = 0.03  # seconds between two questions to a server that does not answer yet
_PROBE_TIMEOUT = 5.0  # seconds for one question


class _RunOver(BaseException):
    """There is nobody left to have a server for; no ``except Exception`` on the way stops it."""


def main() -> None:
    """Read the job, and return when the answer is there; in the second process, when the run is over."""
    job = json.load(sys.stdin)
    here = os.getcwd()
    # What only the run's processes find, drivers for example, comes after what this one finds by itself.
    sys.path[:] = [entry for entry in dict.fromkeys([*sys.path, *job["path"]]) if entry != here]
    with contextlib.suppress(_RunOver):
        if os.name != "posix":
            _Supervisor(job).run(answered=lambda: None)
            return
        reading, writing = os.pipe()
        if os.fork():
            os.close(writing)
            os.read(reading, 1)  # returns when the second process closes its end, or dies
            return
        os.close(reading)
        os.umask(0o077)
        os.chdir("/")
        _Supervisor(job).run(answered=lambda: os.close(writing))


class _Supervisor:
    """Holds one server of one run."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._settings = ServerSettings.from_json(job["settings"])
        self._kind = self._settings.kind
        self._run_dir = Path(job["run_dir"])
        self._more_folders = [Path(folder) for folder in job["more_folders"]]
        try:
            self._owner = stale.Process.of(job["owner_pid"])
        except ProcessLookupError:
            raise _RunOver from None
        self._me = stale.Process.of(os.getpid())
        self._record = stale.Record(job["run_id"], self._owner, supervisor=self._me)
        self._terminated = False
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def run(self, answered: Callable[[], None]) -> None:
        """Find or start the server, write the answer, tell, and hold the server until the run is over."""
        with ExitStack() as held:
            held.callback(self._leave_folders)
            if not self._is_first(held):
                return
            replace(self._record, supervisor=None).write(self._run_dir)
            stale.remove_stale()
            server = None
            try:
                server = self._obtain(held)
                answer: dict[str, Any] = {"server": server.to_json()}
            except SourceFailed as failure:
                answer = {"error": f"no {self._kind.name} server: {failure}"}
            self._publish("json", answer)
            answered()
            while server and not self._over():
                time.sleep(_RUN_POLL)

    def _is_first(self, held: ExitStack) -> bool:
        """Say whether this supervisor is to give the answer; then ``held`` gets the lock that the run's end waits for.

        It is not where the process that started an earlier supervisor was killed before that one's answer was there.
        """
        lock = FileLock(self._file("alive"))
        while True:
            # Taking the lock would make the run's folder anew, were it gone: hence a look before it, and after it.
            self._check()
            try:
                held.enter_context(lock.acquire(timeout=0))
            except Timeout:
                if self._file("json").exists():
                    return False
                time.sleep(_RUN_POLL)
            else:
                self._check()
                self._publish("supervisor", asdict(self._me))
                return not self._file("json").exists()

    def _obtain(self, held: ExitStack) -> Server:
        """Return a server of the first source that has one; ``held`` gets what stops it.

        :raises SourceFailed: if none has; the message gives the reason of each.
        """
        import_driver(self._kind.driver)
        reasons: list[str] = []
        for source in self._settings.sources:
            try:
                with ExitStack() as attempt:
                    server = self._started(source, attempt)
                    held.push(attempt.pop_all())
                    if self._settings.image:  # somebody asked for it: why is it another server?
                        instead = [reason for reason in reasons if reason.startswith("docker: ")]
                        server = replace(server, detail="; ".join([server.detail, *instead]))
                    return server
            except SourceFailed as failure:
                reasons.append(f"{source}: {failure}")
        raise SourceFailed("; ".join(reasons) or "no source is allowed")

    def _started(self, source: str, attempt: ExitStack) -> Server:
        """Return a server that this process starts; ``attempt`` gets what stops it.

        :raises SourceFailed: if the source has no such server, or it does not become ready.
        """
        settings, kind = self._settings, self._kind
        if source == "url":
            raise SourceFailed(f"none given{f' by {settings.url_origin}' if settings.url_origin else ''}")
        require_posix()
        server: StartedServer
        if source == "docker":
            docker.find_image(kind, settings, patience=_PROBE_TIMEOUT)
            stale.remove_stale_containers()
            name = docker.container_name(self._record.run_id, kind)
            folder = self._make_folder(None, attempt)
            record = replace(self._record, container=name)
            record.write(folder)
            server = docker.ContainerServer(kind, settings, name, {docker.LABEL: record.to_json()}, self._check)
        else:
            program = programs.find_local(kind) if source == "local" else programs.find_wheel(kind)
            folder = self._make_folder(programs.other_user(kind), attempt)
            self._record.write(folder)
            server = programs.ProgramServer(kind, program, folder, settings.start_timeout)
            server.spawned = lambda pid: replace(
                self._record, server=stale.Process.of(pid), stop_signal=kind.stop_signal
            ).write(folder)
        attempt.callback(server.stop)
        url, version = server.start(self._await_ready)
        with contextlib.suppress(Exception):  # it serves as well as it is
            kind.settle(url, _PROBE_TIMEOUT)
        return Server(kind.name, url, source, server.detail, version)

    def _make_folder(self, user: "struct_passwd | None", attempt: ExitStack) -> Path:
        """Return a new folder, which ``attempt`` removes: nobody else's, but ``user`` reaches what is in it."""
        homes = stale.temporary_homes()
        for home in homes:
            if user is None or programs.may_enter(user, home):
                with contextlib.suppress(OSError):
                    folder = Path(tempfile.mkdtemp(prefix=f"{stale.PREFIX}{self._kind.name}-", dir=home))
                    attempt.callback(shutil.rmtree, folder, ignore_errors=True)
                    folder.chmod(0o711)
                    return folder
        raise SourceFailed(f"none of the temporary folders {', '.join(map(str, homes))} can be used; set TMPDIR to one")

    def _await_ready(self, url: str, server: StartedServer) -> str:
        """Return the version of a server that was just started, once it answers a real question.

        :raises SourceFailed: if it ended, or does not answer in time.
        """
        deadline = time.monotonic() + self._settings.start_timeout
        while True:
            self._check()
            try:
                return self._kind.probe(url, _PROBE_TIMEOUT)
            except Exception as error:  # noqa: BLE001 - not ready, whatever the driver calls it
                reason = server.ended()
                if not reason and time.monotonic() > deadline:
                    reason = f"not ready within {self._settings.start_timeout:g} s: {one_line(error)}"
                if reason:
                    raise SourceFailed(scrubbed(f"{reason}; its last words: {server.last_words()}", url)) from None
            time.sleep(_READY_POLL)

    def _file(self, suffix: str) -> Path:
        return self._run_dir / f"{self._kind.name}.{suffix}"

    def _publish(self, suffix: str, content: dict[str, Any]) -> None:
        """Write a file of the run's folder, whole or not at all."""
        draft = self._file("draft")
        draft.write_text(json.dumps(content))
        draft.replace(self._file(suffix))

    def _over(self) -> bool:
        """Say whether the run has ended, or somebody wants this supervisor to end."""
        stop_asked = (self._run_dir / "stop").exists() or not self._file("log").exists()
        return self._terminated or stop_asked or not self._owner.alive()

    def _check(self) -> None:
        if self._over():
            raise _RunOver

    def _leave_folders(self) -> None:
        """Remove the run's folders where nobody else will: its owner was killed, or has removed them already."""
        if not self._owner.alive() or not self._file("log").exists():
            for folder in (self._run_dir, *self._more_folders):
                shutil.rmtree(folder, ignore_errors=True)

    def _on_sigterm(self, _signal: int, _frame: FrameType | None) -> None:
        self._terminated = True


if __name__ == "__main__":
    main()
