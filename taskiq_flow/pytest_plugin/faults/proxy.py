"""``Proxy``: lies between one test and a real server, so that the server can hang for that test and for nobody else."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

__all__ = ["Proxy"]

_CHUNK = 65536
_PATIENCE = 1.0
"""Seconds that the end of a connection may take to arrive here, where one is sure to come."""
_MOMENT = 0.05
"""Seconds that are enough for it as a rule, where nobody knows whether one comes."""


class Proxy:
    """Passes on what each side says, on an event loop that goes on while tests' loops come and go.

    :param host: the server's address.
    :param port: its port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._paused = False
        self._held: defaultdict[asyncio.StreamWriter, bytearray] = defaultdict(bytearray)
        """What came in a pause, by where it goes."""
        self._passing: set[asyncio.Task[None]] = set()

    async def start(self, url: str) -> str:
        """Start, unless it has been, and return the URL with the proxy's address instead of the server's."""
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}{at}127.0.0.1:{port}").geturl()

    async def pause(self) -> None:
        """Pass nothing on, in either direction, until :meth:`resume`; connections are accepted."""
        self._paused = True

    async def resume(self) -> None:
        """Pass on what has come meanwhile, but for what those said who have hung up since, and what comes."""
        if self._held:
            await asyncio.sleep(_MOMENT)
        self._paused = False
        for writer, said in self._held.items():
            writer.write(said)
        self._held.clear()

    async def while_cut(self, cut: Callable[[], Awaitable[int]]) -> int:
        """Return what ``cut()`` returns, once the connections that it cut are cut on the test's side as well."""
        before = set(self._passing)
        count = await cut()
        if count and before:
            # The server's last words are passed on, unless it hangs.
            await asyncio.wait(before, timeout=0 if self._paused else _PATIENCE)
            await self._end(before)
        return count

    async def close(self) -> None:
        """Cut every connection, and accept no more."""
        if self._server is not None:
            self._server.close()
        await self._end(set(self._passing))

    async def _end(self, passing: "set[asyncio.Task[None]]") -> None:
        for task in passing:
            task.cancel()
        if passing:
            await asyncio.wait(passing)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        try:
            await self._pass_on(reader, writer)
        except asyncio.CancelledError:
            pass  # by _end(); passed on, it would be logged by asyncio's streams, up to Python 3.11
        finally:
            self._passing.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect to the server, and pass on until one side ends."""
        writers = [writer]
        pumps: list[asyncio.Task[None]] = []
        try:
            answers, server = await asyncio.open_connection(self._host, self._port)
            writers.append(server)
            pumps = [asyncio.ensure_future(each) for each in (self._pump(reader, server), self._pump(answers, writer))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the server is gone: so is this connection
        finally:
            for pump in pumps:
                pump.cancel()
            for each in writers:
                self._held.pop(each, None)
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # In a pause, too, it goes on reading: whoever gives up a call hangs up, and what they wanted must not be done
        # later on.
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                if self._paused:
                    self._held[writer] += chunk
                else:
                    writer.write(chunk)
                    await writer.drain()
