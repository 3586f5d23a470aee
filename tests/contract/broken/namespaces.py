"""Adapters that mix up namespaces."""

import fnmatch
from collections.abc import Iterable
from typing import Any

from taskiq_flow.storage.backend import Record
from tests.contract.broken.base import Memory


class OneNamespaceForAll(Memory):
    """Serves the entries of other namespaces."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.namespace = "everybody"


class NamespaceCaseFolded(Memory):
    """Two namespaces that differ in case are one."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.namespace = self.namespace.casefold()


class NamespaceStripped(Memory):
    """Two namespaces that differ in trailing blanks are one, as under some collations."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.namespace = self.namespace.rstrip()


class _Joined(Memory):
    """Keeps all namespaces in one dict, under names that are joined."""

    separator = ":"

    @property
    def _records(self) -> Any:
        return _Names(self.store.records["all"], self.namespace + self.separator)


class NamespaceJoinedWithColon(_Joined):
    """Joins namespace and key with a colon, which either may contain."""


class NamespaceJoinedWithSlash(_Joined):
    """Joins namespace and key with a slash, which either may contain."""

    separator = "/"


class NamespaceListedByPattern(Memory):
    """Finds a namespace's keys by a pattern, in which its name is not escaped."""

    async def _live_keys(self, prefix: str, now: int) -> Iterable[str]:
        return {
            key
            for name, records in self.store.records.items()
            if fnmatch.fnmatchcase(name, self.namespace)
            for key, record in records.items()
            if key.startswith(prefix) and record.is_live(now)
        }


class NamespaceListedByPrefix(Memory):
    """Lists the keys of every namespace that begins with its own name."""

    async def _live_keys(self, prefix: str, now: int) -> Iterable[str]:
        found = [records for name, records in self.store.records.items() if name.startswith(self.namespace)]
        return {key for records in found for key, record in records.items() if record.is_live(now)}


class KeysShowTheNamespace(Memory):
    """``keys`` returns names with the namespace in front."""

    async def keys(self, pattern: str = "*") -> list[str]:
        return [f"{self.namespace}:{key}" for key in await super().keys(pattern)]


class DeleteInAllNamespaces(Memory):
    """``delete`` removes the key in every namespace."""

    async def _remove(self, key: str, now: int) -> bool:
        live = await super()._remove(key, now)
        for records in self.store.records.values():
            records.pop(key, None)
        return live


class DiscardInAllNamespaces(Memory):
    """An expired entry removes the key in every namespace."""

    async def _discard(self, key: str) -> None:
        for records in self.store.records.values():
            records.pop(key, None)


class _Names(dict[str, Record]):
    """A view on a dict, of the keys that begin with a prefix."""

    def __init__(self, shared: dict[str, Record], prefix: str) -> None:
        super().__init__({name[len(prefix) :]: record for name, record in shared.items() if name.startswith(prefix)})
        self._shared, self._prefix = shared, prefix

    def __setitem__(self, key: str, record: Record) -> None:
        self._shared[self._prefix + key] = record

    def __delitem__(self, key: str) -> None:
        del self._shared[self._prefix + key]

    def pop(self, key: str, *default: Any) -> Any:
        return self._shared.pop(self._prefix + key, *default)
