"""Calls to a server: bounded in time, tried again where that cannot do harm, with errors in this package's words."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import TypeVar

from taskiq_flow.exceptions import (
    SerializationError,
    StorageBackendError,
    StorageConnectionError,
    StorageError,
    TaskiqFlowError,
)
from taskiq_flow.storage.base import BaseStorageAdapter
from taskiq_flow.storage.cancellation import within
from taskiq_flow.storage.circuit import CircuitOpenError, circuit_of
from taskiq_flow.storage.failures import Diagnosis, Failure
from taskiq_flow.storage.testing import Call, interceptor
from taskiq_flow.storage.urls import scrubbed, without_secrets

__all__ = ["DEFAULT_TIMEOUT", "ServerCalls", "without_frames"]

T = TypeVar("T")

DEFAULT_TIMEOUT = 5.0
"""Seconds that one call to the server may take, connecting and waiting for a connection included."""


class _NoSlotError(TimeoutError):
    """All connections were in use for as long as the operation may take."""


class ServerCalls(BaseStorageAdapter):
    """How an adapter calls its server. What is special to a backend are hooks."""

    backend: str
    """What messages call this backend."""
    _secret_url = ""
    """The URL as it was given, whose secrets no message may show."""
    _operation_timeout: float

    # --- hooks --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def _address(self) -> str:
        """Return where this adapter stores, for people, without secrets."""

    def _diagnose(self, error: Exception) -> Diagnosis | None:
        """Return what a driver's error means; None if it is not a driver's."""
        return None

    def _server_name(self) -> str | None:
        """Return the host and port of the server, for its circuit; None where there is no server."""
        return None

    def _slot(self) -> AbstractAsyncContextManager[None]:
        """Return what a call holds while it is under way: where connections are limited, one of them."""
        return nullcontext()

    async def _drop_connections(self) -> None:
        """Close idle connections: they lead to a server that has handed its role to another."""

    # --- calls --------------------------------------------------------------------------------------------------------

    async def _call(self, work: Callable[[], Awaitable[T]], name: str, *arguments: str, in_pages: bool = False) -> T:
        """Return what ``work`` returns; what its driver raises becomes an error of this package.

        :param in_pages: whether ``work`` makes many calls to the server, and bounds each by :meth:`_in_time`.
        """
        bounded = work if in_pages else partial(self._in_time, work)
        if (surround := interceptor()) is None:
            return await self._translated(bounded, name, arguments)
        unreachable = partial(self._unreachable, _doing(name, arguments))
        async with surround(Call(self, name, arguments, self._operation_timeout, unreachable)):
            return await self._translated(bounded, name, arguments)

    async def _translated(self, work: Callable[[], Awaitable[T]], name: str, arguments: tuple[str, ...]) -> T:
        try:
            return await work()
        except TaskiqFlowError:
            raise
        except Exception as error:
            failed, cause = self._explained(error, _doing(name, arguments))
            if failed is None:
                raise
            raise failed from without_frames(cause)

    async def _in_time(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return what ``work`` returns within the operation's time-out, tried once more where nothing was done."""
        server, timeout = self._server_name(), self._operation_timeout
        if server is None:
            return await self._within_timeout(work)
        with circuit_of(server).attempt(timeout) as attempt:
            try:
                return await self._within_timeout(work)
            except _NoSlotError:
                attempt.was_made = False
                raise TimeoutError from None  # it is calls of ours that it waited for
            except Exception as error:
                diagnosis = self._diagnosed(error)
                attempt.timed_out = diagnosis is not None and diagnosis.failure is Failure.TIMEOUT
                raise

    async def _within_timeout(self, work: Callable[[], Awaitable[T]]) -> T:
        has_slot = False
        with within(self._operation_timeout):
            async with self._slot():
                has_slot = True
                try:
                    return await work()
                except Exception as error:
                    diagnosis = self._diagnosed(error)
                    if diagnosis is None or not diagnosis.may_be_repeated:
                        raise
                await self._drop_connections()
                return await work()
        raise TimeoutError if has_slot else _NoSlotError

    def _diagnosed(self, error: Exception) -> Diagnosis | None:
        if isinstance(error, CircuitOpenError):
            return Diagnosis(Failure.TIMEOUT, str(error))
        # The time-out has no message, and is an OSError, which adapters sort by its message.
        if isinstance(error, TimeoutError) and not str(error):
            return Diagnosis(Failure.TIMEOUT, f"no answer within {self._operation_timeout:g} s")
        return self._diagnose(error)

    def _explained(self, error: Exception, doing: str) -> tuple[StorageError | None, BaseException]:
        """Return the error to raise, None for what is not a driver's, and its cause, both without secrets."""
        diagnosis = self._diagnosed(error)
        if diagnosis is None:
            return None, error
        without_secrets(error, self._secret_url)
        return self._failed(doing, diagnosis), without_secrets(diagnosis.cause or error, self._secret_url)

    def _failed(self, doing: str, diagnosis: Diagnosis) -> StorageError:
        """Return the error to raise."""
        failure, reason = diagnosis.failure, scrubbed(diagnosis.reason, self._secret_url)
        if diagnosis.is_foreign_entry:
            return SerializationError(f"the entry under {doing} is not one of ours: {reason:.200}")
        if diagnosis.while_connecting:
            return self._unreachable("connecting", reason, failure)
        if failure in {Failure.LOST, Failure.TIMEOUT} or diagnosis.refuses_connection:
            return self._unreachable(doing, reason, failure)
        return StorageBackendError(f"{self.backend} at {self._address()} refused {doing}: {reason}", failure)

    def _unreachable(self, doing: str, reason: object, failure: Failure = Failure.TIMEOUT) -> StorageConnectionError:
        return StorageConnectionError(f"{self.backend} at {self._address()}: {doing} failed: {reason}", failure)


def _doing(operation: str, arguments: tuple[str, ...]) -> str:
    """Return a call as messages show it."""
    shown = [repr(argument) for argument in arguments[:3]]
    more = [f"and {len(arguments) - 3:,} more"] if len(arguments) > 3 else []
    return f"{operation}({', '.join(shown + more)})"


def without_frames(error: BaseException) -> BaseException:
    """Return a driver's error without its stack frames, whose arguments hold the password that a test runner prints."""
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__
    return error
