"""``Suite``: the base of all groups of contract tests: the hooks of a test class, its capabilities, its fixture."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from taskiq_flow.pytest_plugin.contract.check import RuleCheck
from taskiq_flow.pytest_plugin.contract.suite_clock import CLOCKS, suite_clock
from taskiq_flow.pytest_plugin.stores import kind_of
from taskiq_flow.storage.base import BaseStorageAdapter

__all__ = ["CAPABILITIES", "BaseSuite", "Suite"]

CAPABILITIES = {
    "entries": "get_entry() and set_entry(): creation time, expiry and metadata beside the value",
    "compare_and_set": "compare_and_set(): one atomic step over a read and a write",
    "default_ttl": "a default time to live: make_storage_adapter(ttl_seconds=…)",
    "shared_store": "several adapters on one store: make_storage_adapter()",
    "namespaces": "several namespaces in one store: make_storage_adapter(namespace=…)",
    "event_loops": "one adapter used from several event loops, one after another and at the same time",
    "server": "a server that may be gone: make_adapter_at()",
    "raw_access": "what is stored, behind the adapter's back: read_raw() and write_raw()",
}
"""What not every adapter can do. All else, every adapter must."""

_MOVABLE_TIME = "movable_time"  # follows from `expiry_clock`
_HOOKS = {
    "compare_and_set": "compare_and_set",
    "default_ttl": "make_storage_adapter",
    "shared_store": "make_storage_adapter",
    "namespaces": "make_storage_adapter",
    "server": "make_adapter_at",
    "raw_access": "read_raw",
}


class BaseSuite:
    """What the contract test classes of storages and of caches share."""

    capabilities: ClassVar[dict[str, str]]

    expiry_clock: ClassVar[str] = "storage"
    lacks: ClassVar[dict[str, str]] = {}
    server_life: ClassVar[float] = 0.2
    timeout: ClassVar[float] = 30.0

    def _skip_or_fail(self, test: Any, adapter: Any, make: Callable[..., Any] | None) -> None:
        """Fail where the class declares nonsense, and skip a test that needs what is declared to be lacking."""
        name = type(self).__name__
        if unknown := sorted(self.lacks.keys() - self.capabilities.keys()):
            known = ", ".join(self.capabilities)
            pytest.fail(f"{name}.lacks names {unknown[0]!r}; the capabilities are: {known}", pytrace=False)
        if hasattr(self, "patience"):
            pytest.fail(f"{name}.patience is called `timeout` now", pytrace=False)
        if self.expiry_clock not in CLOCKS:
            pytest.fail(
                f"{name}.expiry_clock is {self.expiry_clock!r}; it must be one of: {', '.join(CLOCKS)}", pytrace=False
            )
        for capability in getattr(test, "contract_needs", ()):
            if reason := self._why_not(capability, adapter, make):
                pytest.skip(reason)

    def _why_not(self, capability: str, adapter: Any, make: Callable[..., Any] | None) -> str:
        """Return the reason why this capability is not there; empty where it is."""
        if capability == _MOVABLE_TIME:
            return (
                "expiry is judged by a server's clock, which nobody can move" if self.expiry_clock == "server" else ""
            )
        if capability in self.lacks:
            return f"{type(self).__name__} lacks {capability}: {self.lacks[capability]}"
        return ""

    def _maker(self, request: pytest.FixtureRequest, fixture: str) -> Any:
        """Return what makes more adapters on the store of a test; None where the test class has no such fixture."""
        # Asked for only where it belongs to the adapter under test: the plugin's own would make adapters of other
        # kinds, and run each test once for each of its backends.
        if not hasattr(self, fixture) and fixture not in request.fixturenames:
            return None
        return request.getfixturevalue(fixture)


class Suite(BaseSuite):
    """The hooks of a contract test class; :class:`StorageAdapterContract` explains them."""

    capabilities: ClassVar[dict[str, str]] = CAPABILITIES
    many_keys: ClassVar[int] = 1100

    def make_adapter_at(
        self, adapter: BaseStorageAdapter, host: str, port: int, password: str
    ) -> BaseStorageAdapter | None:
        """Return an adapter like ``adapter`` for a server at that address, with time-outs of about 0.3 s.

        Nothing usable listens there. None means that this kind of storage has no server.
        """
        kind = kind_of(adapter)
        return None if kind is None else kind.adapter_at(adapter, host, port, password)

    async def read_raw(self, adapter: BaseStorageAdapter, key: str) -> bytes | None:
        """Return what the store holds for ``key``, as it lies there; None where nobody knows how to look."""
        kind = kind_of(adapter)
        return None if kind is None else await kind.read_raw(adapter, key)

    async def write_raw(self, adapter: BaseStorageAdapter, key: str, data: bytes) -> bool:
        """Replace what the store holds for ``key``, which is there; return False where the store takes no such data."""
        kind = kind_of(adapter)
        return kind is not None and await kind.write_raw(adapter, key, data)

    @pytest.fixture
    def check(self, request: pytest.FixtureRequest, storage_adapter: BaseStorageAdapter) -> Iterator[RuleCheck]:
        """The check of one rule, on the adapter under test."""
        make = self._maker(request, "make_storage_adapter")
        self._skip_or_fail(request.function, storage_adapter, make)
        with suite_clock(self.expiry_clock, self.server_life) as clock:
            yield RuleCheck(storage_adapter, make, clock, self.timeout)

    def _why_not(self, capability: str, adapter: Any, make: Callable[..., Any] | None) -> str:
        """Return the reason why this capability is not there; empty where it is."""
        if reason := super()._why_not(capability, adapter, make):
            return reason
        name, kind = type(self).__name__, kind_of(adapter)
        has_server = kind is not None and kind.has_server(adapter)
        has_hook = {
            "make_storage_adapter": make is not None,
            "make_adapter_at": type(self).make_adapter_at is not Suite.make_adapter_at or has_server,
            "compare_and_set": type(adapter).compare_and_set is not BaseStorageAdapter.compare_and_set,
            "read_raw": type(self).read_raw is not Suite.read_raw or kind is not None,
        }
        hook = _HOOKS.get(capability, "")
        if has_hook.get(hook, True):
            return ""
        if capability == "compare_and_set":
            return f"{type(adapter).__name__} has no compare_and_set()"
        if capability == "server" and kind is not None:
            return f"{type(adapter).__name__} has no server that could be gone"
        return f"{name} has no {hook}, which this rule needs ({CAPABILITIES[capability]})"
