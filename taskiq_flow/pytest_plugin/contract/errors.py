"""The contract's rules for a server that cannot be reached, and for secrets."""

import asyncio
import socket
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from taskiq_flow.exceptions import InvalidKeyError, StorageConnectionError
from taskiq_flow.pytest_plugin.contract.check import CallRecorder, RuleCheck, needs, rule
from taskiq_flow.pytest_plugin.contract.suite import Suite
from taskiq_flow.storage.entry import StorageEntry

__all__ = ["ErrorRules"]

_PASSWORD = "s3cret-P4ssw0rd"
_HOST = "127.0.0.1"


class ErrorRules(Suite):
    """A server that is gone, refuses or hangs."""

    @needs("server")
    @rule
    async def test_a_server_that_refuses_is_a_storage_connection_error(self, check: RuleCheck) -> None:
        """Server gone or refused: every method raises StorageConnectionError, which is a ConnectionError and is chained
        from the driver's error.
        """
        with _refusing_port() as port:
            storage = self._at(check, port)
            for call in _every_method(storage, with_entries="entries" not in self.lacks):
                error = await check.raises(call(), StorageConnectionError, ConnectionError)
                if error.__cause__ is None:
                    check.fail(came_back=f"{error!r} without __cause__", should_be="raised from the driver's error")

    @needs("server")
    @rule
    async def test_a_server_that_hangs_is_a_storage_connection_error(self, check: RuleCheck) -> None:
        """No adapter waits without end: a server that never answers is a StorageConnectionError after the time-out."""
        with _silent_port() as port:
            storage = self._at(check, port)
            await asyncio.gather(
                *(
                    check.raises(call, StorageConnectionError, ConnectionError)
                    for call in (storage.get("key"), storage.set("key", 1))
                )
            )

    @needs("server")
    @rule
    async def test_a_connection_error_names_the_address_and_no_password(self, check: RuleCheck) -> None:
        """StorageConnectionError names the address, never the password: not in the message, not in the traceback, not
        in what it is chained from.
        """
        with _refusing_port() as port:
            storage = self._at(check, port)
            for call in (storage.get("key"), storage.set("key", 1), storage.keys()):
                error = await check.raises(call, StorageConnectionError)
                if str(port) not in str(error):
                    check.fail(came_back=str(error), should_be=f"a message that names port {port}")
                _expect_no_password(check, "".join(traceback.format_exception(type(error), error, error.__traceback__)))
                _expect_no_password(check, _locals_of_drivers(error))

    @needs("server")
    @rule
    async def test_repr_and_str_mask_the_password(self, check: RuleCheck) -> None:
        """``repr`` and str show the URL with the password masked."""
        with _refusing_port() as port:
            adapter = self._at(check, port).adapter
            _expect_no_password(check, f"{adapter!r} {adapter}")
            if str(port) not in repr(adapter):
                check.fail(came_back=repr(adapter), should_be=f"a repr that names port {port}")

    @needs("server")
    @rule
    async def test_illegal_arguments_are_refused_before_any_io(self, check: RuleCheck) -> None:
        """An illegal key is an InvalidKeyError, and an illegal time to live a ValueError, before any I/O: also where no
        server can be reached.
        """
        with _refusing_port() as port:
            storage = self._at(check, port)
            for call in (storage.get(""), storage.set("", 1), storage.delete(""), storage.exists("")):
                await check.raises(call, InvalidKeyError, ValueError)
            if "entries" not in self.lacks:
                await check.raises(storage.get_entry(""), InvalidKeyError, ValueError)
                await check.raises(storage.set_entry(StorageEntry("", 1)), InvalidKeyError, ValueError)
            await check.raises(storage.set("key", 1, ttl_seconds=0), ValueError)

    def _at(self, check: RuleCheck, port: int) -> CallRecorder:
        adapter = self.make_adapter_at(check.adapter, _HOST, port, _PASSWORD)
        if adapter is None:
            name = type(self).__name__
            check.fail(
                came_back="None", should_be="an adapter", note=f'declare {name}.lacks = {{"server": "why"}} instead'
            )
        return check.watch(adapter, f"at_port_{port}")


def _every_method(storage: CallRecorder, with_entries: bool) -> list[Callable[[], Awaitable[Any]]]:
    methods: list[Callable[[], Awaitable[Any]]] = [
        lambda: storage.get("key"),
        lambda: storage.set("key", 1),
        lambda: storage.set("key", 1, ttl_seconds=60),
        lambda: storage.delete("key"),
        lambda: storage.exists("key"),
        lambda: storage.keys("a*"),
        storage.cleanup,
    ]
    entries: list[Callable[[], Awaitable[Any]]] = [
        lambda: storage.get_entry("key"),
        lambda: storage.set_entry(StorageEntry("key", 1)),
    ]
    return methods + entries if with_entries else methods


def _expect_no_password(check: RuleCheck, text: str) -> None:
    if _PASSWORD in text:
        check.fail(came_back=text.replace(_PASSWORD, "THE-PASSWORD"), should_be="a text without the password")


def _locals_of_drivers(error: BaseException) -> str:
    """Return what a test runner that shows local variables prints of the errors that this one was chained from."""
    seen, cause = [], error.__cause__
    while cause is not None:
        frame = cause.__traceback__
        while frame is not None:
            seen.append(repr(list(frame.tb_frame.f_locals.values())))
            frame = frame.tb_next
        cause = cause.__cause__ or cause.__context__
    return "\n".join(seen)


@contextmanager
def _refusing_port() -> Iterator[int]:
    """Hold a port on which nothing listens: connections to it are refused."""
    with socket.socket() as holder:
        holder.bind((_HOST, 0))
        yield holder.getsockname()[1]


@contextmanager
def _silent_port() -> Iterator[int]:
    """Listen on a port, and never answer."""
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]
