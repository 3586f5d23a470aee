"""``StorageFaults``: what a storage does to an application on a bad day, made to happen in a test.

==========  ======================================================================================================
``calls``   the calls of the test's adapters, which can be made to fail, to wait and to hang
``means``   what can be done to each kind of storage by its own means: damage a record, cut connections
``proxy``   what lies between a test and a real server, so that the server hangs for this test alone
==========  ======================================================================================================
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from taskiq_flow.pytest_plugin.faults.calls import OPERATIONS, Calls, Fault
from taskiq_flow.pytest_plugin.faults.means import means_for
from taskiq_flow.pytest_plugin.faults.proxy import Proxy, is_plain_tcp
from taskiq_flow.pytest_plugin.janitor import Janitor
from taskiq_flow.storage import rules

if TYPE_CHECKING:
    from taskiq_flow.config import TaskiqFlowConfig
    from taskiq_flow.pytest_plugin.backends import Place

__all__ = ["OPERATIONS", "Fault", "StorageFaults"]

_TIMEOUT = 2.0
"""Seconds that a call may take where a test asks for faults: it will wait for some of these time-outs."""


class StorageFaults:
    """Faults of the test's own storage, for every adapter on it, those of the application's own code included.

    Adapters on the same server that belong to other tests, or to somebody else, notice nothing. All is as before when
    the test is over. The methods are plain functions: they can be called from any thread, on an event loop or not.
    """

    def __init__(self, place: "Place", janitor: Janitor) -> None:
        self._place = place
        self._janitor = janitor
        self._calls = Calls(place.namespace, _TIMEOUT)
        self._means = means_for(place.backend, place.table, place.namespace)
        self._proxy = Proxy(place.backend.url) if place.backend.is_real and is_plain_tcp(place.backend.url) else None

    def config(self) -> "TaskiqFlowConfig":
        """Return the settings with which the factory reaches the place, through the proxy where there is one."""
        url = self._means.url
        if self._proxy is not None:
            url = self._janitor.run(self._proxy.start(url))
        timeouts = {"storage_connect_timeout": _TIMEOUT, "storage_operation_timeout": _TIMEOUT}
        return self._place.config().model_copy(update={"storage_url": url, **timeouts})

    @contextmanager
    def active(self) -> Iterator[None]:
        """Listen to the calls of the test's adapters; at the end, undo whatever was done."""
        with ExitStack() as at_the_end:  # each of these, whatever becomes of the others
            at_the_end.enter_context(self._calls.intercepted())
            if (proxy := self._proxy) is not None:
                at_the_end.callback(lambda: self._janitor.run(proxy.close()))
            at_the_end.callback(self._calls.undo)
            yield

    def fail(
        self, op: str | None = None, times: int | None = 1, error: BaseException | type[BaseException] | None = None
    ) -> Fault:
        """Let the next calls fail, before anything is stored or read.

        :param op: the method that fails: ``"get"``, ``"set"``, ``"delete"``, ``"exists"``, ``"keys"``, ``"cleanup"``,
            ``"set_entry"`` or ``"compare_and_set"``; None for any of them. (``get_entry`` is a ``"get"``.)
        :param times: how many calls; None for all until the test is over, or ``undo()`` is called.
        :param error: what they raise, an exception or its class; by default a ``StorageConnectionError`` that names the
            storage.
        :return: the fault: ``happened`` counts the calls that failed, and ``undo()`` ends it.
        :raises ValueError: there is no such operation, or ``times`` is no whole number above 0.
        :raises TypeError: ``error`` is no exception, or a class that needs more than a message: give an exception then.
        """
        return self._calls.add(Fault(op, times, error=error))

    def delay(self, seconds: float, op: str | None = None, times: int | None = None) -> Fault:
        """Let calls wait for that many real seconds before they reach the storage.

        A call whose time-out passes meanwhile fails, as one to a slow server does.

        :param op: as in :meth:`fail`.
        :param times: how many calls; None for all.
        :raises ValueError: ``seconds`` is no finite number above 0, there is no such operation, or ``times`` is no
            whole number above 0.
        """
        return self._calls.add(Fault(op, times, seconds=rules.checked_timeout("seconds", seconds)))

    def corrupt(self, key: str, namespace: str | None = None) -> None:
        """Replace what is stored under ``key`` by a record that was cut off in the middle; its time to live stays.

        To read it raises ``SerializationError``.

        :param namespace: as in ``make_storage_adapter``; None for the test's own.
        :raises LookupError: nothing is stored there.
        """
        own = self._place.namespace
        where = own if namespace is None else f"{own}-{namespace}"
        if not self._janitor.run(self._means.corrupt(where, key)):
            raise LookupError(f"nothing is stored under {key!r} in namespace {where!r}: there is nothing to corrupt")

    def disconnect(self) -> int:
        """Cut all connections between this test and its storage; return how many there were.

        A real server does it itself, with ``CLIENT KILL``, ``pg_terminate_backend`` or ``KILL``. Storages in this
        process have no connections. On every storage, calls that are being delayed or paused fail with
        ``StorageConnectionError``; the next call connects anew.
        """
        self._calls.cut()
        if self._proxy is None:
            return self._janitor.run(self._means.cut())
        return self._janitor.run(self._proxy.while_cut(self._means.cut))

    def pause(self) -> "Pause":
        """Let the storage hang: it accepts calls and connections, and answers none until :meth:`resume`.

        Calls fail with ``StorageConnectionError`` when their time-out, 2 s in such tests, has passed.

        :return: a context manager that resumes; to use it is optional.
        """
        if self._proxy is not None:
            self._janitor.run(self._proxy.pause())
        else:
            self._calls.pause()
        return Pause(self)

    def resume(self) -> None:
        """End the pause: calls that still wait are answered."""
        if self._proxy is not None:
            self._janitor.run(self._proxy.resume())
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
