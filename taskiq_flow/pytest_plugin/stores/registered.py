"""Storages of somebody else's: columns of the matrix like those of this package, by the hook in :mod:`..hookspecs`."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from taskiq_flow.pytest_plugin.stores.base import IsolatedStore, Process, StorageBackend, StorageKind

if TYPE_CHECKING:
    from taskiq_flow.config import TaskiqFlowConfig
    from taskiq_flow.storage.base import BaseStorageAdapter

__all__ = ["MakeAdapter", "RegisteredStorage", "checked_kinds"]

MakeAdapter: TypeAlias = "Callable[[str, Path], BaseStorageAdapter]"
"""``make(namespace, folder)``: returns an adapter on the store of the test with this namespace. Called again with the
same namespace, it returns another adapter on the same store. ``folder`` is a temporary folder of the run, for this
storage alone."""

_SCHEME = "registered"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_makers: "dict[str, Callable[[str], BaseStorageAdapter]]" = {}
"""What makes adapters in this process, by the storage's name; ``_build`` finds it by the URL."""


class RegisteredStorage(StorageKind):
    """A storage that is made by a function, with what else is to be said of it.

    :param make: makes adapters; see :data:`MakeAdapter`.
    :param is_real: whether it is a real server, as in production: it belongs to the group ``real`` then.
    :param is_default: whether it runs where nothing else is asked for.
    :param origin: where it comes from, for the report.
    :param version: program and version, for the report.
    :param clear: removes what the test with a namespace stored; called with ``(namespace, folder)`` when it is over.
    :param lacks: what the storage cannot do for ``storage_faults``, ``"corrupt"`` or ``"disconnect"``, and why.
    """

    def __init__(
        self,
        make: MakeAdapter,
        *,
        is_real: bool = False,
        is_default: bool = True,
        origin: str = "registered",
        version: str = "",
        clear: Callable[[str, Path], None] | None = None,
        lacks: Mapping[str, str] | None = None,
    ) -> None:
        self.is_real = is_real
        self.is_default = is_default
        self._make = make
        self._origin = origin
        self._version = version
        self._clear = clear
        no_way = "it is a registered storage, and does not say how"
        self.lacks = dict.fromkeys(("corrupt", "disconnect"), no_way) if lacks is None else dict(lacks)

    def begin(self, process: Process) -> None:
        """Note the folder for this storage."""
        super().begin(process)
        self._folder = process.run.folder / f"storage-{self.name}"
        _makers[self.name] = self.make

    def open(self, namespace: str) -> IsolatedStore:
        """Return a store of that namespace, which the factory reaches by the scheme ``registered://``."""
        from taskiq_flow.storage.factory import StorageAdapterFactory

        self._folder.mkdir(exist_ok=True)
        StorageAdapterFactory.register_scheme(_SCHEME, _build)
        backend = StorageBackend(self.name, self.is_real, self._origin, self._version, f"{_SCHEME}://{self.name}")
        return IsolatedStore(self, backend, namespace, self.process.run.id, clear=lambda: self._forget(namespace))

    def close(self) -> None:
        """Forget the function that makes adapters."""
        _makers.pop(self.name, None)

    def make(self, namespace: str) -> "BaseStorageAdapter":
        """Return an adapter on the store of the test with this namespace."""
        return self._make(namespace, self._folder)

    def _forget(self, namespace: str) -> None:
        if self._clear is not None:
            self._clear(namespace, self._folder)


def checked_kinds(registered: Mapping[str, Any], taken: Mapping[str, StorageKind]) -> list[StorageKind]:
    """Return what one implementation of the hook registers, as kinds.

    :param registered: by name, functions that make adapters, or instances of :class:`StorageKind`.
    :param taken: the kinds that are there already.
    :raises ValueError: if a name cannot be used, or is taken.
    :raises TypeError: if a value is neither.
    """
    if not isinstance(registered, Mapping):
        raise TypeError(f"it must return a dict of names and storages, not {registered!r}")
    kinds = []
    for name, value in registered.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"a storage's name has small letters, digits and underscores, unlike {name!r}")
        if name in taken or name in {"default", "all", "fakes", "real"}:
            raise ValueError(f"the name {name!r} is taken")
        kind = value if isinstance(value, StorageKind) else None
        if kind is None:
            if not callable(value) or isinstance(value, type):
                raise TypeError(f"{name!r} must be a function of namespace and folder, or a StorageKind, not {value!r}")
            kind = RegisteredStorage(value)
        kind.name = name
        kinds.append(kind)
    return kinds


def _build(url: str, config: "TaskiqFlowConfig") -> "BaseStorageAdapter":
    from taskiq_flow.pytest_plugin.stores._instrumented import instrument

    adapter = _makers[url.partition("://")[2]](config.storage_namespace)
    return instrument(adapter, config.storage_namespace, config.storage_ttl_seconds, config.storage_operation_timeout)
