"""What a storage is to the kit: the interface that a new one implements.

A :class:`StorageKind` is a column of the matrix, such as ``sqlite`` or ``redis``. It opens an :class:`IsolatedStore`
for each test, and knows how to damage, read and write what its adapter stores, behind the adapter's back.

Importing this module loads no driver and no taskiq: each pytest in whose environment the kit is installed pays for it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from taskiq_flow.config import TaskiqFlowConfig
    from taskiq_flow.pytest_plugin.run import Run
    from taskiq_flow.pytest_plugin.servers import Server, ServerKind
    from taskiq_flow.pytest_plugin.stores._background import BackgroundLoop
    from taskiq_flow.storage.base import BaseStorageAdapter

__all__ = [
    "ADAPTER_TIMEOUT",
    "TIMEOUT",
    "Cleaner",
    "IsolatedStore",
    "Process",
    "StorageBackend",
    "StorageKind",
    "StorageUnavailable",
    "install_hint",
]

TIMEOUT = 30.0
"""Seconds that one piece of work on the background loop may take: cleaning a server, or damaging a record."""
DAMAGED = b'{"value": {"cut off": '
"""A record whose end is missing, in the form of none of the adapters."""


class StorageUnavailable(Exception):  # noqa: N818 - it is a reason to skip
    """A storage cannot run here; the message says why, and what would help."""


@dataclass(frozen=True)
class StorageBackend:
    """The storage that a test runs on: the value of the fixture ``storage_backend``."""

    name: str
    """``memory``, ``fakeredis``, ``sqlite``, ``redis``, ``postgres``, ``valkey``, ``mysql``, or a registered one."""
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
class Process:
    """What the storages of one process of a run may use."""

    run: "Run"
    """The run's identity, with which all names on servers begin, and its folders."""
    worker: str
    """The process' name within the run."""
    background: "BackgroundLoop"
    """An event loop that goes on while those of tests come and go."""
    server: "Callable[[str], Server]"
    """Returns the run's server of a kind, started now if need be; raises :class:`StorageUnavailable`."""

    @property
    def prefix(self) -> str:
        """What the namespaces of all tests of this process begin with."""
        return f"{self.run.id}_{self.worker}_"


class Cleaner(Protocol):
    """Removes what tests left on a server or in a file, and nothing else. It runs on the background loop."""

    async def clean(self, prefix: str) -> None:
        """Remove all entries in namespaces that begin with ``prefix``."""

    async def finish(self, run_id: str) -> None:
        """Remove all that the run left, its table included."""

    async def clean_stale(self) -> None:
        """Remove what killed runs of this machine left."""

    async def close(self) -> None:
        """Close the connections."""


@dataclass
class IsolatedStore:
    """One test's own store: entries of its namespace (in its run's table, where there are tables)."""

    kind: "StorageKind"
    backend: StorageBackend
    namespace: str
    table: str
    clear: Callable[[], None] = field(default=lambda: None)
    """Forgets what the test stored; called when the test is over."""

    def config(self) -> "TaskiqFlowConfig":
        """Return the settings with which the factory reaches this store; the environment has no say in them."""
        from taskiq_flow.config import TaskiqFlowConfig

        # Constructed, not read: looking into the environment takes longer than all else that a test in memory costs.
        return TaskiqFlowConfig.model_construct(
            storage_url=self.backend.url,
            storage_namespace=self.namespace,
            storage_table=self.table,
            storage_operation_timeout=30.0,  # seconds: that a machine is busy is not a fault of the test's
        )

    # --- faults: these run on the background loop ---------------------------------------------------------------------

    def identified_url(self) -> str:
        """Return the URL by which the server can tell this test's connections from those of others."""
        return self.backend.url

    def proxied(self) -> tuple[str, int] | None:
        """Return host and port of a server that can be reached through a proxy; None where there is none.

        With TLS a proxy could not show the server's certificate.
        """
        return None

    async def corrupt(self, namespace: str, key: str) -> bool:
        """Replace a record by one that cannot be read, with the same time to live; return whether there was one."""
        from taskiq_flow.storage.factory import StorageAdapterFactory

        config = self.config().model_copy(update={"storage_namespace": namespace})
        adapter = StorageAdapterFactory.create_storage_adapter(config)
        async with adapter:
            if await self.kind.read_raw(adapter, key) is None:
                return False
            return await self.kind.write_raw(adapter, key, DAMAGED)

    async def disconnect(self) -> int:
        """Cut the test's connections, and return how many there were; 0 for a storage without any."""
        return 0


class StorageKind(ABC):
    """A kind of storage. Each process of a run works with a copy of its own, from :meth:`begin` to :meth:`close`."""

    name: str
    """As in ``--storage-backends``."""
    is_real: bool = False
    """Whether it is a real server, as in production; it belongs to the group ``real`` then, else to ``fakes``."""
    is_default: bool = True
    """Whether it belongs to the group ``default``."""
    position: int = 100
    """Where its column stands: the lower, the further left; then by name."""
    server: "ClassVar[ServerKind | None]" = None
    """How its server is found or started, if it is on one."""
    lacks: Mapping[str, str] = {}
    """What it cannot do for ``storage_faults``, ``"corrupt"`` or ``"disconnect"``, and why."""
    adapter: ClassVar[str] = ""
    """Module and name of its adapter's class, as in ``taskiq_flow.storage.memory.InMemoryStorageAdapter``."""

    process: Process

    def begin(self, process: Process) -> None:
        """Begin to be used by a process."""
        self.process = process

    @abstractmethod
    def open(self, namespace: str) -> IsolatedStore:
        """Return an empty store for the test with this namespace.

        :raises StorageUnavailable: if it cannot run here.
        """

    def close(self) -> None:  # noqa: B027 - a default: most kinds open nothing for a process
        """Close what this process opened; called once, at its end."""

    def finish(self) -> str:
        """Remove what the run left where it outlives the run; called in the process that owns the run.

        :return: why that was not possible; empty where it was.
        """
        return ""

    # --- behind the adapter's back ------------------------------------------------------------------------------------

    def serves(self, adapter: "BaseStorageAdapter") -> bool:
        """Return whether this is an adapter of this kind's class, which is not imported for that."""
        names = (f"{each.__module__}.{each.__qualname__}" for each in type(adapter).__mro__)
        return bool(self.adapter) and self.adapter in names

    async def read_raw(self, adapter: Any, key: str) -> bytes | None:
        """Return what is stored under ``key``, as it lies there; None where there is nothing.

        :raises NotImplementedError: if nobody knows how to look.
        """
        raise NotImplementedError(f"the storage {self.name!r} has no read_raw()")

    async def write_raw(self, adapter: Any, key: str, data: bytes) -> bool:
        """Replace what :meth:`read_raw` returns; return False where the store itself takes no such data.

        :raises NotImplementedError: if nobody knows how to.
        """
        raise NotImplementedError(f"the storage {self.name!r} has no write_raw()")

    def has_server(self, adapter: Any) -> bool:
        """Return whether an adapter's store is on a server, so that it may be gone."""
        return False

    def adapter_at(self, adapter: Any, host: str, port: int, password: str) -> "BaseStorageAdapter | None":
        """Return an adapter like ``adapter`` for a server at that address, with time-outs of 0.3 s; None if its kind
        has no server.
        """
        return None


ADAPTER_TIMEOUT = 0.3
"""Seconds that adapters made by ``adapter_at`` wait for a connection and an answer."""


def install_hint(extra: str) -> str:
    """Return the command that installs an extra of this distribution."""
    return f'pip install "taskiq-flow-kit[{extra}]"'
