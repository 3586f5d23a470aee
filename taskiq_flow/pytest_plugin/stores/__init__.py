"""What each storage is to the kit, one module a kind: opened, cleaned, damaged, disconnected, read and written raw.

=================  ===============================================================================================
``base``           the interface: :class:`StorageKind`, a column of the matrix, and its :class:`IsolatedStore`
``memory`` …       one module for each kind, with its instances in ``STORAGES``: they are found here by themselves
``registered``     a storage of somebody else's, registered by the hook ``pytest_taskiq_flow_storages``
``on_server``      what storages on servers have in common; ``sql``: those of the SQL adapter
``_cleaning``      when what tests left is removed
``_background``    the event loop for all that
``_manager``       :class:`StoreManager`, the storages of a run as one of its processes uses them
=================  ===============================================================================================

A new kind is a module in this folder, or anywhere: a subclass of :class:`StorageKind` (of ``ServerStorage``, if the kit
is to start its server), and the contract's test class on it. Nothing else names the kinds one by one.
"""

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from taskiq_flow.pytest_plugin.stores.base import IsolatedStore, StorageBackend, StorageKind, StorageUnavailable

if TYPE_CHECKING:
    from taskiq_flow.pytest_plugin.servers import ServerKind
    from taskiq_flow.storage.base import BaseStorageAdapter

__all__ = [
    "IsolatedStore",
    "StorageBackend",
    "StorageKind",
    "StorageUnavailable",
    "built_in",
    "in_order",
    "kind_of",
    "server_kind",
]


@cache
def built_in() -> tuple[StorageKind, ...]:
    """Return the kinds that this package brings: those of the modules here, in the order of their columns."""
    names = [found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_")]
    modules = (importlib.import_module(f"{__name__}.{name}") for name in names)
    return in_order(kind for module in modules for kind in getattr(module, "STORAGES", ()))


def in_order(kinds: Iterable[StorageKind]) -> tuple[StorageKind, ...]:
    """Return kinds in the order of their columns."""
    return tuple(sorted(kinds, key=lambda kind: (kind.position, kind.name)))


def kind_of(adapter: "BaseStorageAdapter") -> StorageKind | None:
    """Return what can read and write behind an adapter's back; None where no kind of this package can."""
    return next((kind for kind in built_in() if kind.serves(adapter)), None)


def server_kind(name: str) -> "ServerKind":
    """Return how the server of the storage of that name is found and started.

    :raises LookupError: if there is no such storage, or it is not on a server.
    """
    servers = {kind.name: kind.server for kind in built_in() if kind.server is not None}
    if name not in servers:
        raise LookupError(f"no storage {name!r} is on a server; those that are: {', '.join(servers)}")
    return servers[name]
