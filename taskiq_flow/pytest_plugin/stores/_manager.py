"""``StoreManager``: the storages of a run, as one of its processes uses them."""

import copy
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from taskiq_flow.pytest_plugin.run import Run
from taskiq_flow.pytest_plugin.servers import Server, ServerPool, ServerSettings, ServerUnavailable
from taskiq_flow.pytest_plugin.stores._background import BackgroundLoop
from taskiq_flow.pytest_plugin.stores.base import IsolatedStore, Process, StorageKind, StorageUnavailable
from taskiq_flow.storage.testing import keep_expired, recycle

__all__ = ["StoreManager"]


class StoreManager:
    """Opens a store for each test, and removes at the end what the run left.

    :param kinds: the kinds of storages that the run has, by name.
    :param servers: where the servers of those that have one may come from.
    :param run: the run.
    :param worker: the name of this process in it.
    """

    def __init__(
        self, kinds: Mapping[str, StorageKind], servers: Mapping[str, ServerSettings], run: Run, worker: str
    ) -> None:
        self._prototypes = kinds
        self._servers = servers
        self._run = run
        self.pool = ServerPool(run.folder, run.id, run.owner_pid, servers, [run.database_folder])
        self._recycling = ExitStack()
        self._recycling.enter_context(recycle())
        self._recycling.enter_context(keep_expired())
        self._begin_process(worker)

    def _begin_process(self, worker: str) -> None:
        self._pid = os.getpid()
        self._worker = worker
        self._tests = 0
        self.background = BackgroundLoop()
        process = Process(self._run, worker, self.background, self._server)
        before = getattr(self, "_kinds", self._prototypes)
        self._kinds = {name: copy.copy(kind) for name, kind in before.items()}
        for kind in self._kinds.values():
            kind.begin(process)

    def open(self, name: str) -> IsolatedStore:
        """Return an empty store of the kind ``name`` for one test; starts the server if no test has needed it yet.

        :raises StorageUnavailable: if it cannot run here.
        """
        if self._pid != os.getpid():
            # A plugin runs each test in a fork, say: it shares the servers, but neither names nor threads nor files.
            self._begin_process(f"{self._worker}x{os.getpid()}")
        self._tests += 1
        return self._kinds[name].open(f"{self._run.id}_{self._worker}_{self._tests}")

    def prepare(self, names: Iterable[str]) -> None:
        """Begin to start the servers of these storages, while tests run on the others."""
        for name in set(names) & self._servers.keys():
            self.pool.prepare(name)

    def close(self) -> list[str]:
        """Close what this process opened; where it owns the run, remove all that the run left and stop its servers.

        :return: what could not be removed, a line for each server.
        """
        try:
            kinds = self._kinds.values()
            problems = [problem for kind in kinds if (problem := kind.finish())] if self._run.is_mine else []
            for kind in kinds:
                kind.close()
            self.background.close()
            self._recycling.close()
            return problems
        finally:
            if self._run.is_mine:
                self.pool.close()
                self._run.remove_folders()

    def _server(self, name: str) -> Server:
        try:
            return self.pool.get(name)
        except ServerUnavailable as reason:
            raise StorageUnavailable(str(reason)) from None
