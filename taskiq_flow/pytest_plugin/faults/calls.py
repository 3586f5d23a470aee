"""``Calls``: the calls that adapters on one test's storage make, overheard, so that they can be disturbed."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from anyio.lowlevel import cancel_shielded_checkpoint

from taskiq_flow.exceptions import StorageConnectionError
from taskiq_flow.storage.base import BaseStorageAdapter
from taskiq_flow.storage.cancellation import within
from taskiq_flow.storage.failures import Failure
from taskiq_flow.storage.testing import Call, intercept_calls

__all__ = ["OPERATIONS", "Calls", "Damage", "Fault"]

_READING = {"get", "exists", "delete", "compare_and_set", "keys"}
OPERATIONS = ("get", "set", "delete", "exists", "keys", "cleanup", "set_entry", "compare_and_set")


class Fault:
    """Something that happens to some calls; ``happened`` says to how many it did."""

    def __init__(
        self,
        op: str | None,
        times: int | None,
        *,
        error: BaseException | type[BaseException] | None = None,
        seconds: float = 0.0,
        optional: bool = False,
    ) -> None:
        if op is not None and op not in OPERATIONS:
            raise ValueError(f"a storage has no operation {op!r}; known are: {', '.join(OPERATIONS)}")
        if times is not None and (type(times) is not int or times < 1):
            raise ValueError(f"times must be a whole number above 0, or None for all calls, not {times!r}")
        self.happened = 0
        self.error = None if error is None else _checked_error(error)
        self.seconds = seconds
        self.is_optional = optional
        self._op = op
        self._times = times
        self._lock = threading.Lock()

    def undo(self) -> None:
        """Let it happen no more; that it has not happened is no failure of the test then."""
        with self._lock:
            self._times = 0
            self.is_optional = True

    def __str__(self) -> str:
        operation = "" if self._op is None else repr(self._op)
        if not self.seconds:
            return f"fail({operation})"
        return f"delay({', '.join(filter(None, (f'{self.seconds:g}', operation)))})"

    def raised(self, call: Call) -> BaseException:
        """Return the error that a call fails with."""
        because = "storage_faults.fail() was asked for"
        if self.error is None:
            return StorageConnectionError(str(call.unreachable(because)), Failure.LOST)
        return self.error(f"{call} failed: {because}") if isinstance(self.error, type) else self.error

    def happens_to(self, operation: str) -> bool:
        """Return whether it happens to this call, and count it."""
        with self._lock:
            if self._op not in {None, operation} or (self._times is not None and self.happened >= self._times):
                return False
            self.happened += 1
            return True


def _checked_error(error: BaseException | type[BaseException]) -> BaseException | type[BaseException]:
    """Return what a fault raises, which would else be found out at the call, as an error of the application's.

    :raises TypeError: if it is no exception, or a class that needs more than a message.
    """
    if isinstance(error, BaseException):
        return error
    if not (isinstance(error, type) and issubclass(error, BaseException)):
        raise TypeError(f"error must be an exception or a class of exceptions, not {error!r}")
    try:
        error("a message")
    except Exception as problem:  # noqa: BLE001 - a user's class
        name = error.__name__
        raise TypeError(f"a {name} cannot be made of a message alone ({problem}): give error={name}(…)") from None
    return error


class Damage:
    """A record that was damaged, until somebody reads it."""

    def __init__(self, key: str, optional: bool) -> None:
        self.happened = 0
        self.is_optional = optional
        self._key = key

    def note(self, call: Call) -> None:
        """Count a call that reads the record, alone or among others."""
        if call.operation in _READING and (call.operation == "keys" or self._key in call.arguments):
            self.happened += 1

    def __str__(self) -> str:
        return f"corrupt({self._key!r})"


class Calls:
    """The calls on namespaces that begin with ``namespace``."""

    def __init__(self, namespace: str, timeout: float) -> None:
        self._namespace = namespace
        self._timeout = timeout
        self._faults: list[Fault] = []
        self._damages: list[Damage] = []
        self._waiting: set[_Waiting] = set()
        self._paused = False

    @contextmanager
    def intercepted(self) -> Iterator[None]:
        """Disturb the calls of the test's adapters."""
        with intercept_calls(self._surround):
            yield

    @asynccontextmanager
    async def _surround(self, call: Call) -> AsyncIterator[None]:
        if not self._is_ours(call.adapter):
            yield
            return
        timeout = min(self._timeout, call.timeout)
        try:
            with within(timeout) as in_time:  # whatever it waits for, and however often
                await self._disturb(call)
                yield
            if in_time.cancelled_caught:
                raise call.unreachable(f"no answer within {timeout:g} s")
        except (Exception, asyncio.CancelledError):
            # A driver that was stopped has said that its connection be closed; asyncio does so in its next turn.
            # Until then a server that hangs could come back, and do what was given up: see Proxy.resume.
            await cancel_shielded_checkpoint()
            raise

    def add(self, fault: Fault) -> Fault:
        """Let a fault happen from now on; those that are there already come first."""
        self._faults.append(fault)
        return fault

    def add_damage(self, damage: Damage) -> None:
        """Watch for the calls that read a damaged record."""
        self._damages.append(damage)

    def unmet(self) -> list[str]:
        """Return what was asked for and never met a call, and should have."""
        all_of_them: list[Fault | Damage] = [*self._faults, *self._damages]
        return [str(each) for each in all_of_them if not (each.happened or each.is_optional)]

    def pause(self) -> None:
        """Let calls wait until :meth:`resume`."""
        self._paused = True

    def resume(self) -> None:
        """Let them go on."""
        self._paused = False
        for waiting in list(self._waiting):
            if waiting.for_resume:
                waiting.end(cut=False)

    def cut(self) -> None:
        """Let the calls that wait fail."""
        for waiting in list(self._waiting):
            waiting.end(cut=True)

    def undo(self) -> None:
        """Undo all: no fault happens any more, and no call waits."""
        for fault in self._faults:
            fault.undo()
        self._paused = False
        for waiting in list(self._waiting):
            waiting.end(cut=False)

    def _is_ours(self, adapter: BaseStorageAdapter) -> bool:
        # "-" is what stands before the name of a test's second namespace: "run_1" must not take in "run_12".
        namespace = str(getattr(adapter, "kit_namespace", None) or getattr(adapter, "namespace", ""))
        return namespace == self._namespace or namespace.startswith(f"{self._namespace}-")

    async def _disturb(self, call: Call) -> None:
        """Let happen to a call what is to happen before it reaches its storage."""
        for damage in self._damages:
            damage.note(call)
        for fault in list(self._faults):
            if not fault.happens_to(call.operation):
                continue
            if fault.seconds:
                await self._wait(call, fault.seconds)
            else:
                raise fault.raised(call)
        if self._paused:
            await self._wait(call)

    async def _wait(self, call: Call, seconds: float | None = None) -> None:
        """Wait for ``seconds``, or until the end of the pause."""
        waiting = _Waiting(for_resume=seconds is None)
        self._waiting.add(waiting)
        try:
            await asyncio.wait([waiting.told], timeout=seconds)
        finally:
            self._waiting.discard(waiting)
        if waiting.told.done() and waiting.told.result():
            raise call.unreachable("the connection was lost (storage_faults.disconnect())")


class _Waiting:
    """A call that waits, on an event loop of whatever thread."""

    def __init__(self, for_resume: bool) -> None:
        self.for_resume = for_resume
        self._loop = asyncio.get_running_loop()
        self.told: asyncio.Future[bool] = self._loop.create_future()
        """Whether its connection is cut."""

    def end(self, cut: bool) -> None:
        with suppress(RuntimeError):  # its loop was closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._end, cut)

    def _end(self, cut: bool) -> None:
        if not self.told.done():
            self.told.set_result(cut)
