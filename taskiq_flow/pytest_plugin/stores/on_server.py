"""``ServerStorage``: a storage on a server that was given by its URL, or that the kit starts."""

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

from taskiq_flow.pytest_plugin.stores._cleaning import PeriodicCleaning
from taskiq_flow.pytest_plugin.stores.base import Cleaner, IsolatedStore, Process, StorageBackend, StorageKind

if TYPE_CHECKING:
    from taskiq_flow.pytest_plugin.servers import ServerKind

__all__ = ["ServerStorage", "ServerStore", "with_query"]


class ServerStore(IsolatedStore):
    """A test's own store on a server."""

    def proxied(self) -> tuple[str, int] | None:
        """Return the server's address, unless the connection is encrypted or goes through a Unix socket."""
        assert self.kind.server is not None
        parts = urlsplit(self.backend.url)
        is_encrypted = any(name.startswith("ssl") for name in parse_qs(parts.query)) or parts.scheme == "rediss"
        if not parts.hostname or is_encrypted:
            return None
        return parts.hostname, parts.port or self.kind.server.port


class ServerStorage(StorageKind):
    """A storage on a real server."""

    is_real = True
    server: "ClassVar[ServerKind]"
    store: ClassVar[type[ServerStore]]
    """The class of its stores."""

    def begin(self, process: Process) -> None:
        """Begin to be used by a process; the server is started by the first test on it."""
        super().begin(process)
        self._cleaning: PeriodicCleaning | None = None

    @abstractmethod
    def make_cleaner(self, url: str) -> Cleaner:
        """Return what removes this run's entries from the server at ``url``."""

    def open(self, namespace: str) -> IsolatedStore:
        """Return a store on the run's server, which is started if no test has needed it before."""
        server = self.process.server(self.name)
        cleaning = self._enter(server.url, is_given=server.source == "url")
        backend = StorageBackend(self.name, True, server.detail, server.version, server.url)
        return self.store(self, backend, namespace, self.process.run.id, clear=cleaning.test_is_over)

    def close(self) -> None:
        """Close the cleaner's connections."""
        if self._cleaning is not None:
            self._cleaning.close()

    def finish(self) -> str:
        """Remove what the run left on a server that outlives it."""
        if not self._note.exists():
            return ""
        from taskiq_flow._text import one_line
        from taskiq_flow.storage.urls import masked, scrubbed

        url = self.process.server(self.name).url
        try:
            self._enter(url, is_given=False).finish()
        except Exception as error:  # noqa: BLE001 - each driver has its own for a server that died, or hangs
            reason = scrubbed(one_line(error), url)
            place = f"{self.name} at {masked(url)}"
            return f"{place} could not be cleaned: {reason}; the next run there removes what is left"
        return ""

    @property
    def _note(self) -> Path:
        """The file that says that the run has used a server which outlives it."""
        return self.process.run.folder / f"{self.name}.used"

    def _enter(self, url: str, *, is_given: bool) -> PeriodicCleaning:
        """Return what cleans the server; where it outlives the run, what killed runs left there is removed first."""
        if self._cleaning is not None:
            return self._cleaning
        self._cleaning = PeriodicCleaning(self.process, lambda: self.make_cleaner(url))
        if is_given:
            from filelock import FileLock

            with FileLock(f"{self._note}.lock"):
                if not self._note.exists():  # the first process of the run that is here
                    self._cleaning.clean_stale()
                    self._note.touch()
        return self._cleaning


def with_query(url: str, **arguments: str) -> str:
    """Return the URL with these query arguments, instead of its own of the same names."""
    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in arguments]
    return parts._replace(query=urlencode([*kept, *arguments.items()], quote_via=quote)).geturl()
