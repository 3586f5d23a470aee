"""``StorageFaults``: what a storage does to an application on a bad day, made to happen in a test.

==========  ======================================================================================================
``calls``   the calls of the test's adapters, which can be made to fail, to wait and to hang
``proxy``   what lies between a test and a real server, so that the server hangs for this test alone
==========  ======================================================================================================

How a record is damaged and connections are cut is what each kind of storage says: see ``stores/``.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from taskiq_flow.exceptions import UnsupportedOperationError
from taskiq_flow.pytest_plugin.faults.calls import OPERATIONS, Calls, Damage, Fault
from taskiq_flow.pytest_plugin.faults.proxy import Proxy
from taskiq_flow.storage import rules

if TYPE_CHECKING:
    from taskiq_flow.config import TaskiqFlowConfig
    from taskiq_flow.pytest_plugin.stores._background import BackgroundLoop
    from taskiq_flow.pytest_plugin.stores.base import IsolatedStore

__all__ = ["OPERATIONS", "Fault", "StorageFaults"]

_TIMEOUT = 2.0
"""Seconds that a call may take where a test asks for faults: it will wait for some of these time-outs."""


class StorageFaults:
    """Faults of the test's own storage, for every adapter on it, those of the application's own code included.

    Adapters on the same server that belong to other tests, or to somebody else, notice nothing. All is as before when
    the test is over. The methods are plain functions: they can be called from any thread, on an event loop or not.
    """

    def __init__(self, store: "IsolatedStore", background: "BackgroundLoop") -> None:
        self._store = store
        self._background = background
        self._calls = Calls(store.namespace, _TIMEOUT)
        address = store.proxied()
        self._proxy = None if address is None else Proxy(*address)

    def config(self) -> "TaskiqFlowConfig":
        """Return the settings with which the factory reaches the store, through the proxy where there is one."""
        url = self._store.identified_url()
        if self._proxy is not None:
            url = self._background.run(self._proxy.start(url))
        timeouts = {"storage_connect_timeout": _TIMEOUT, "storage_operation_timeout": _TIMEOUT}
        return self._store.config().model_copy(update={"storage_url": url, **timeouts})

    @contextmanager
    def active(self) -> Iterator[None]:
        """Listen to the calls of the test's adapters; at the end, undo whatever was done."""
        with ExitStack() as at_the_end:  # each of these, whatever becomes of the others
            at_the_end.enter_context(self._calls.intercepted())
            if (proxy := self._proxy) is not None:
                at_the_end.callback(lambda: self._background.run(proxy.close()))
            at_the_end.callback(self._calls.undo)
            yield

    def fail(
        self,
        op: str | None = None,
        times: int | None = 1,
        error: BaseException | type[BaseException] | None = None,
        *,
        optional: bool = False,
    ) -> Fault:
        """Let the next calls fail, before anything is stored or read.

        :param op: the method that fails: ``"get"``, ``"set"``, ``"delete"``, ``"exists"``, ``"keys"``, ``"cleanup"``,
            ``"set_entry"`` or ``"compare_and_set"``; None for any of them. (``get_entry`` is a ``"get"``.)
        :param times: how many calls; None for all until the test is over, or ``undo()`` is called.
        :param error: what they raise, an exception or its class; by default a ``StorageConnectionError`` that names the
            storage.
        :param optional: whether it may well never happen; else that fails the test, which would prove nothing.
        :return: the fault: ``happened`` counts the calls that failed, and ``undo()`` ends it.
        :raises ValueError: if there is no such operation, or ``times`` is no whole number above 0.
        :raises TypeError: ``error`` is no exception, or a class that needs more than a message: give an exception then.
        """
        return self._calls.add(Fault(op, times, error=error, optional=optional))

    def delay(
        self, seconds: float, op: str | None = None, times: int | None = None, *, optional: bool = False
    ) -> Fault:
        """Let calls wait for that many real seconds before they reach the storage.

        A call whose time-out passes meanwhile fails, as one to a slow server does.

        :param op: as in :meth:`fail`.
        :param times: how many calls; None for all.
        :param optional: as in :meth:`fail`.
        :raises ValueError: ``seconds`` is no finite number above 0, there is no such operation, or ``times`` is no
            whole number above 0.
        """
        return self._calls.add(Fault(op, times, seconds=rules.checked_timeout("seconds", seconds), optional=optional))

    def corrupt(self, key: str, namespace: str | None = None, *, optional: bool = False) -> None:
        """Replace what is stored under ``key`` by a record that was cut off in the middle; its time to live stays.

        To read it raises ``SerializationError``.

        :param namespace: as in ``make_storage_adapter``; None for the test's own.
        :param optional: whether it may well be that nobody reads it; else that fails the test.
        :raises LookupError: if nothing is stored there.
        :raises UnsupportedOperationError: if a registered storage cannot do that.
        """
        self._refuse_what_it_lacks("corrupt")
        own = self._store.namespace
        where = own if namespace is None else f"{own}-{namespace}"
        if not self._background.run(self._store.corrupt(where, key)):
            raise LookupError(f"nothing is stored under {key!r} in namespace {where!r}: there is nothing to corrupt")
        self._calls.add_damage(Damage(key, optional))

    def unmet(self) -> str:
        """Return what the test fails with when it is over: faults that never met a call; empty for none."""
        if not (faults := self._calls.unmet()):
            return ""
        asked = ", ".join(f"storage_faults.{fault}" for fault in faults)
        return (
            f"{asked} never happened: nothing in this test goes through the storage {self._store.backend.name!r} like "
            "that, so that it proves nothing of such a fault.\nWhat may or may not happen is asked for with "
            "optional=True; what is over is taken back by undo()."
        )

    def disconnect(self) -> int:
        """Cut all connections between this test and its storage; return how many there were.

        A real server does it itself, with ``CLIENT KILL``, ``pg_terminate_backend`` or ``KILL``. Storages in this
        process have no connections. On every storage, calls that are being delayed or paused fail with
        ``StorageConnectionError``; the next call connects anew.

        :raises UnsupportedOperationError: if a registered storage cannot do that.
        """
        self._refuse_what_it_lacks("disconnect")
        self._calls.cut()
        if self._proxy is None:
            return self._background.run(self._store.disconnect())
        return self._background.run(self._proxy.while_cut(self._store.disconnect))

    def _refuse_what_it_lacks(self, fault: str) -> None:
        if reason := self._store.kind.lacks.get(fault):
            raise UnsupportedOperationError(
                f"storage_faults.{fault}() is not possible on the storage {self._store.backend.name!r}: {reason}"
            )

    def pause(self) -> "Pause":
        """Let the storage hang: it accepts calls and connections, and answers none until :meth:`resume`.

        Calls fail with ``StorageConnectionError`` when their time-out, 2 s in such tests, has passed.

        :return: a context manager that resumes; to use it is optional.
        """
        if self._proxy is not None:
            self._background.run(self._proxy.pause())
        else:
            self._calls.pause()
        return Pause(self)

    def resume(self) -> None:
        """End the pause: calls that still wait are answered."""
        if self._proxy is not None:
            self._background.run(self._proxy.resume())
        else:
            self._calls.resume()


class Pause:
    """``with storage_faults.pause():`` ends the pause at the end of the block."""

    def __init__(self, faults: StorageFaults) -> None:
        self._faults = faults

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_error: object) -> None:
        self._faults.resume()
