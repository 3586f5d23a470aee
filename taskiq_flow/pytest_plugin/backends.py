"""The backends that a test runs on: what each one is, and how a test's own place on it is opened and cleared."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskiq_flow.pytest_plugin.janitor import Broom, Janitor, RedisBroom, SQLBroom
from taskiq_flow.pytest_plugin.options import Settings
from taskiq_flow.pytest_plugin.run import Run
from taskiq_flow.pytest_plugin.servers import ServerPool, ServerUnavailable
from taskiq_flow.pytest_plugin.servers.model import one_line
from taskiq_flow.pytest_plugin.servers.urls import mask, scrub
from taskiq_flow.storage.testing import recycle

if TYPE_CHECKING:
    import sqlite3

    from taskiq_flow.config import TaskiqFlowConfig

__all__ = ["BackendUnavailable", "Backends", "Place", "StorageBackend"]

_TESTS_A_SWEEP = 50
_INSTALL = 'pip install "taskiq-flow-kit[{}]"'


class BackendUnavailable(Exception):  # noqa: N818 - it is a reason to skip
    """A backend cannot run here; the message says why, and what would help."""


@dataclass(frozen=True)
class StorageBackend:
    """The storage that a test runs on."""

    name: str
    """``memory``, ``fakeredis``, ``sqlite``, ``redis``, ``postgres``, ``valkey`` or ``mysql``."""
    is_real: bool
    """Whether it is a real server, as in production."""
    origin: str
    """Where it came from, such as ``docker redis:7-alpine`` or ``in this process``."""
    version: str
    """Program and version, such as ``PostgreSQL 16.4``; empty for ``memory``."""
    url: str
    """The URL of the store, with credentials; ``repr`` hides them."""

    def __repr__(self) -> str:
        from taskiq_flow.storage.urls import masked

        told = ", ".join(filter(None, (self.version, self.origin, masked(self.url))))
        return f"<StorageBackend {self.name}: {told}>"


@dataclass(frozen=True)
class Place:
    """One test's own place on a backend."""

    backend: StorageBackend
    namespace: str
    table: str
    clear: Callable[[], None]

    def config(self) -> "TaskiqFlowConfig":
        """Return the settings with which the factory reaches this place; the environment has no say in them."""
        from taskiq_flow.config import TaskiqFlowConfig

        # Constructed, not read: looking into the environment takes longer than all else that a test in memory costs.
        return TaskiqFlowConfig.model_construct(
            storage_type="auto",
            storage_url=self.backend.url,
            storage_redis_url=None,
            storage_async_mode=True,
            storage_ttl_seconds=None,
            storage_namespace=self.namespace,
            storage_table=self.table,
            storage_connect_timeout=5.0,
            storage_operation_timeout=30.0,
        )


class Backends:
    """The backends of a run, as one of its processes sees them."""

    def __init__(self, settings: Settings, run: Run, worker: str) -> None:
        self._settings = settings
        self._run = run
        self.pool = ServerPool(run.folder, run.id, run.owner_pid, settings.servers, [run.database_folder])
        self._entered: set[str] = set()
        self._recycling = ExitStack()
        self._recycling.enter_context(recycle())
        self._begin_process(worker)

    def _begin_process(self, worker: str) -> None:
        self._process = os.getpid()
        self._worker = worker
        self.janitor = Janitor()
        self._tests = 0
        self._unswept: Counter[str] = Counter()
        self._sqlite_keeper: sqlite3.Connection | None = None

    def open_place(self, name: str) -> Place:
        """Return a place of its own for a test on the backend ``name``; starts the server if no test needed it yet.

        :raises BackendUnavailable: it cannot run here.
        """
        if self._process != os.getpid():
            # A plugin runs each test in a fork, say: it shares the servers, but neither names nor threads nor files.
            self._not_to_be_closed_here = self._sqlite_keeper
            self._begin_process(f"{self._worker}x{os.getpid()}")
        self._tests += 1
        namespace = f"{self._run.id}_{self._worker}_{self._tests}"
        opener: dict[str, Callable[[str], Place]] = {
            "memory": self._open_memory,
            "fakeredis": self._open_fakeredis,
            "sqlite": self._open_sqlite,
        }
        return opener[name](namespace) if name in opener else self._open_server(name, namespace)

    def prepare(self, names: Iterable[str]) -> None:
        """Begin to start the servers of these backends that will be needed, while tests run on the others."""
        for kind in set(names) & self._settings.servers.keys():
            self.pool.prepare(kind)

    def close(self) -> list[str]:
        """Close what this process opened; where it owns the run, remove all that the run left and stop its servers.

        :return: what could not be removed, a line for each server.
        """
        try:
            left = self._clear_given_servers() if self._run.is_mine else []
            self.janitor.close()
            if self._sqlite_keeper is not None:
                from taskiq_flow.storage.threads import end_spare_threads

                self._sqlite_keeper.close()
                end_spare_threads()
            self._recycling.close()
            return left
        finally:
            if self._run.is_mine:
                self.pool.close()
                self._run.remove_folders()

    # --- one method a fake ------------------------------------------------------------------------------------------

    def _open_memory(self, namespace: str) -> Place:
        from taskiq_flow.storage.memory import InMemoryStore

        store = InMemoryStore.named(namespace)  # kept alive by the place: the factory finds it by its name
        backend = StorageBackend("memory", False, "in this process", "", f"memory://{namespace}")
        return Place(backend, namespace, self._run.id, clear=store.records.clear)

    def _open_fakeredis(self, namespace: str) -> Place:
        try:
            import fakeredis
        except ImportError:
            raise BackendUnavailable(f"fakeredis is not installed: {_INSTALL.format('pytest')}") from None
        from taskiq_flow.pytest_plugin.fake_redis import forget_server, register_scheme
        from taskiq_flow.storage.factory import StorageAdapterFactory

        register_scheme(StorageAdapterFactory)
        version = f"fakeredis {getattr(fakeredis, '__version__', '')}".strip()
        backend = StorageBackend("fakeredis", False, "in this process", version, f"fakeredis://{namespace}")
        return Place(backend, namespace, self._run.id, clear=lambda: forget_server(namespace))

    def _open_sqlite(self, namespace: str) -> Place:
        import sqlite3

        # One file a process, one namespace a test: making a database for each test costs more than most tests.
        file = self._run.database_folder / f"{self._worker}.db"
        if self._sqlite_keeper is None:
            # Whoever is the last to close a database in this mode tidies it up, which costs more than most tests, too.
            self._sqlite_keeper = sqlite3.connect(file)
            self._sqlite_keeper.execute("PRAGMA journal_mode=WAL")
            self._sqlite_keeper.execute("SELECT name FROM sqlite_master").fetchall()
        url = f"sqlite+aiosqlite:///{file}"
        backend = StorageBackend("sqlite", False, "a file", f"SQLite {sqlite3.sqlite_version}", url)
        return self._swept_place(backend, namespace)

    # --- servers ----------------------------------------------------------------------------------------------------

    def _open_server(self, kind: str, namespace: str) -> Place:
        try:
            server = self.pool.get(kind)
        except ServerUnavailable as reason:
            raise BackendUnavailable(str(reason)) from None
        if server.source == "url":
            self._enter_given_server(kind, server.url)
        backend = StorageBackend(kind, True, server.detail, server.version, server.url)
        return self._swept_place(backend, namespace)

    def _swept_place(self, backend: StorageBackend, namespace: str) -> Place:
        return Place(backend, namespace, self._run.id, clear=lambda: self._sweep_now_and_then(backend))

    def _sweep_now_and_then(self, backend: StorageBackend) -> None:
        """Remove what tests left, once for many: no other test sees it, and waiting costs each the same."""
        self._unswept[backend.name] += 1
        if self._unswept[backend.name] == _TESTS_A_SWEEP:
            self._unswept[backend.name] = 0
            broom = self._broom(backend.name, backend.url)
            self.janitor.run(broom.sweep(f"{self._run.id}_{self._worker}_"))

    def _broom(self, name: str, url: str) -> Broom:
        speaks_redis = name in {"redis", "valkey"}
        return self.janitor.broom(name, lambda: RedisBroom(url) if speaks_redis else SQLBroom(url, self._run.id))

    def _enter_given_server(self, kind: str, url: str) -> None:
        """Remove, once a run, what killed runs left on a server that outlives them; note that this run used it."""
        if kind in self._entered:
            return
        from filelock import FileLock

        note = self._run.folder / f"{kind}.used"
        with FileLock(f"{note}.lock"):
            if not note.exists():
                self.janitor.run(self._broom(kind, url).sweep_abandoned())
                note.touch()
        self._entered.add(kind)

    def _clear_given_servers(self) -> list[str]:
        """Remove what the run left on servers that outlive it; return a line for each where that failed."""
        left = []
        for kind in self._settings.servers:
            if not (self._run.folder / f"{kind}.used").exists():
                continue
            url = self.pool.get(kind).url
            try:
                self.janitor.run(self._broom(kind, url).finish(self._run.id))
            except Exception as error:  # noqa: BLE001 - each driver has its own for a server that died, or hangs
                reason = scrub(one_line(error), url)
                left.append(
                    f"{kind} at {mask(url)} could not be cleared: {reason}; the next run there removes what is left"
                )
        return left
