"""A custom storage adapter: a directory of files, with just the six methods that an adapter must have.

A file is two lines, so that a person can read it::

    {"key": "pipeline:run42:status", "expires_at": 1767225600000}
    {"phase": "running"}

The package's rules for keys, times to live and patterns, its clock, its codec and its threads are there to be used.
"""

import os
import tempfile
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from taskiq_flow import clock, serialization
from taskiq_flow.exceptions import SerializationError
from taskiq_flow.storage import BaseStorageAdapter, rules
from taskiq_flow.storage.threads import Threads

__all__ = ["DirectoryStorageAdapter"]

# Held while files are replaced or removed, never across an await. Several processes would need a lock on a file.
_changing = threading.Lock()


class _Stored(NamedTuple):
    path: Path
    key: str
    expires_at: int | None
    value: str

    def has_expired(self) -> bool:
        return self.expires_at is not None and clock.now_ms() >= self.expires_at


class DirectoryStorageAdapter(BaseStorageAdapter):
    """Entries in the files of a directory, which is made on first use.

    :param directory: where the files are.
    :param ttl_seconds: default time to live in seconds; None for ever.
    """

    def __init__(self, directory: Path, ttl_seconds: float | None = None) -> None:
        self._directory = directory
        self._threads = Threads(4)  # which end with this adapter
        self._default_ttl_ms = None if ttl_seconds is None else rules.ttl_ms(ttl_seconds)

    async def get(self, key: str) -> Any | None:
        stored = await self._live(key)
        if stored is None:
            return None
        try:
            return serialization.loads(stored.value)
        except SerializationError as error:
            raise SerializationError(f"the entry under key {key!r} cannot be read: {error}") from None

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        key = rules.checked_key(key)
        ttl = self._default_ttl_ms if ttl_seconds is None else rules.ttl_ms(ttl_seconds)
        value_line = serialization.dumps(value, f"the value for key {key!r}, at value")
        header = {"key": key, "expires_at": None if ttl is None else clock.now_ms() + ttl}
        await self._threads.run(lambda: self._write(key, f"{serialization.dumps(header)}\n{value_line}\n"))

    async def delete(self, key: str) -> bool:
        path = self._path(rules.checked_key(key))

        def remove() -> bool:
            with _changing:
                stored = _read(path)
                if stored is None or stored.has_expired():
                    return False
                path.unlink()
                return True

        return await self._threads.run(remove)

    async def exists(self, key: str) -> bool:
        return await self._live(key) is not None

    async def keys(self, pattern: str = "*") -> list[str]:
        matches = rules.matcher(rules.checked_pattern(pattern))
        stored = await self._threads.run(lambda: list(self._all()))
        return sorted(one.key for one in stored if not one.has_expired() and matches(one.key))

    async def cleanup(self, ttl_seconds: int = 3600) -> int:
        def remove_expired() -> int:
            with _changing:
                expired = [stored.path for stored in self._all() if stored.has_expired()]
                for path in expired:
                    path.unlink()
            return len(expired)

        return await self._threads.run(remove_expired)

    def __repr__(self) -> str:
        return f"DirectoryStorageAdapter({str(self._directory)!r})"

    def _path(self, key: str) -> Path:
        # A key may be longer than a file's name, and hold what no file's name may.
        return self._directory / f"{sha256(key.encode()).hexdigest()}.entry"

    async def _live(self, key: str) -> _Stored | None:
        path = self._path(rules.checked_key(key))
        stored = await self._threads.run(lambda: _read(path))
        return None if stored is None or stored.has_expired() else stored

    def _all(self) -> Iterator[_Stored]:
        for path in self._directory.glob("*.entry"):
            if (stored := _read(path)) is not None:
                yield stored

    def _write(self, key: str, text: str) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        # Written beside and moved into place: a reader sees the old file or the new one, whole.
        handle, new = tempfile.mkstemp(dir=self._directory)
        with open(handle, "wb") as file:
            file.write(text.encode())
        with _changing:
            os.replace(new, self._path(key))


def _read(path: Path) -> _Stored | None:
    try:
        text = path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return None
    header_line, _, value_line = text.partition("\n")
    header = serialization.loads(header_line)
    return _Stored(path, header["key"], header["expires_at"], value_line.removesuffix("\n"))
