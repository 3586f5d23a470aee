"""``instrument``: lets the kit reach the calls of an adapter that is not made of this package's ``BackendAdapter``.

The adapter stays the object that it is, of a subclass of its class whose methods tell the kit before they run: so
``storage_faults`` happens to it, its default time to live is the test's, and it is closed on the event loops on which
it was used.
"""

import weakref
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from functools import cache, partial, wraps
from typing import Any

from taskiq_flow.exceptions import StorageConnectionError
from taskiq_flow.storage.backend import BackendAdapter
from taskiq_flow.storage.base import BaseStorageAdapter
from taskiq_flow.storage.loops import PerLoop
from taskiq_flow.storage.testing import Call, KitSupport, interceptor

__all__ = ["instrument"]

_OPERATIONS = {"get_entry": "get"} | {
    name: name for name in ("get", "set", "delete", "exists", "keys", "cleanup", "set_entry", "compare_and_set")
}
_within_a_call: ContextVar[bool] = ContextVar("within_a_call", default=False)


def instrument(
    adapter: BaseStorageAdapter, namespace: str, ttl_seconds: float | None, operation_timeout: float
) -> BaseStorageAdapter:
    """Return ``adapter``, whose calls the kit can reach from now on; one that it can reach already stays as it is.

    :param namespace: the test's, by which ``storage_faults`` knows the adapter.
    :param ttl_seconds: the default time to live in seconds, for calls that say none; None leaves that to the adapter.
    :param operation_timeout: seconds after which a call that is held by ``storage_faults`` gives up.
    """
    if isinstance(adapter, BackendAdapter | _Instrumented):
        return adapter
    instrumented: Any = adapter
    instrumented.__class__ = _instrumented_class(type(adapter))
    instrumented._kit = _Kit(weakref.ref(instrumented), namespace, ttl_seconds, operation_timeout)
    return adapter


class _Kit:
    """What the kit keeps of one adapter."""

    def __init__(self, adapter: "weakref.ref[Any]", namespace: str, ttl_seconds: float | None, timeout: float) -> None:
        self.namespace = namespace
        self.ttl_seconds = ttl_seconds
        self.timeout = timeout
        self.loops = PerLoop(lambda: None, partial(_close, adapter))


async def _close(adapter: "weakref.ref[Any]", _resource: None) -> None:
    if (living := adapter()) is not None:
        await living.aclose()


class _Instrumented(KitSupport):
    """What the subclasses of adapters' classes have in common."""

    __slots__ = ()  # an object may only change to a class of the same layout, too

    _kit: _Kit

    @property
    def kit_namespace(self) -> str:
        """The namespace of the test that the adapter belongs to."""
        return self._kit.namespace

    def close_from_outside(self) -> None:
        self._kit.loops.close_from_outside()

    def _surrounded(self, operation: str, arguments: tuple[Any, ...]) -> AbstractAsyncContextManager[None]:
        surround = None if _within_a_call.get() else interceptor()
        if surround is None:
            return nullcontext()
        adapter: Any = self
        shown = tuple(str(getattr(argument, "key", argument)) for argument in arguments[:1])
        unreachable = partial(_unreachable, type(self).__name__, operation, shown)
        return surround(Call(adapter, operation, shown, self._kit.timeout, unreachable))


def _unreachable(name: str, operation: str, arguments: tuple[str, ...], reason: str) -> StorageConnectionError:
    return StorageConnectionError(f"{name}: {operation}({', '.join(map(repr, arguments))}) failed: {reason}")


@cache
def _instrumented_class(kind: type[BaseStorageAdapter]) -> type[BaseStorageAdapter]:
    """Return the subclass of an adapter's class; what the class does not define itself stays undefined."""
    methods = {
        name: _reachable(getattr(kind, name), operation)
        for name, operation in _OPERATIONS.items()
        if getattr(kind, name) is not getattr(BaseStorageAdapter, name)
    }
    described = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    # In this order: an object may only change to a class whose first base is its own.
    return type(kind.__name__, (kind, _Instrumented), {**described, **methods})


def _reachable(method: Any, operation: str) -> Any:
    @wraps(method)
    async def call(self: Any, *arguments: Any, **named: Any) -> Any:
        await self._kit.loops.get()
        if operation == "set" and self._kit.ttl_seconds is not None and len(arguments) < 3:
            named.setdefault("ttl_seconds", None)
            named["ttl_seconds"] = named["ttl_seconds"] or self._kit.ttl_seconds
        key = arguments or tuple(named.values())
        async with self._surrounded(operation, key):
            within = _within_a_call.set(True)
            try:
                return await method(self, *arguments, **named)
            finally:
                _within_a_call.reset(within)

    return call
