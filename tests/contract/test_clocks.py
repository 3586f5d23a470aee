"""The contract suite on adapters that know nothing of ``taskiq_flow.clock``, and on one with six methods only."""

import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from taskiq_flow import serialization
from taskiq_flow.exceptions import SerializationError
from taskiq_flow.pytest_plugin import StorageAdapterContract
from taskiq_flow.storage import BaseStorageAdapter, rules

Kept = dict[str, tuple[int | None, str]]


class SixMethods(BaseStorageAdapter):
    """The six abstract methods on a dict, with a clock that is handed in."""

    def __init__(self, milliseconds: Callable[[], int], kept: Kept, ttl_seconds: float | None = None) -> None:
        self._milliseconds = milliseconds
        self._kept = kept
        self._default = ttl_seconds
        self._lock = threading.Lock()

    async def get(self, key: str) -> Any:
        record = self._kept[key] if await self.exists(key) else None
        try:
            return None if record is None else serialization.loads(record[1])
        except SerializationError as error:
            raise SerializationError(f"the entry under key {key!r} cannot be read: {error}") from None

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        key = rules.checked_key(key)
        ttl = self._default if ttl_seconds is None else ttl_seconds
        end = None if ttl is None else self._milliseconds() + rules.ttl_ms(ttl)
        self._kept[key] = (end, serialization.dumps(value, f"the value for key {key!r}, at value"))

    async def delete(self, key: str) -> bool:
        return await self.exists(key) and self._kept.pop(key, None) is not None

    async def exists(self, key: str) -> bool:
        key = rules.checked_key(key)
        return key in self._kept and not self._has_expired(key)

    async def keys(self, pattern: str = "*") -> list[str]:
        matches = rules.matcher(rules.checked_pattern(pattern))
        with self._lock:
            return sorted(key for key in self._kept if matches(key) and not self._has_expired(key))

    async def cleanup(self, ttl_seconds: int = 3600) -> int:
        with self._lock:
            ended = [key for key in self._kept if self._has_expired(key)]
        for key in ended:
            del self._kept[key]
        return len(ended)

    def _has_expired(self, key: str) -> bool:
        end = self._kept[key][0]
        return end is not None and self._milliseconds() >= end


class _OnSixMethods(StorageAdapterContract):
    lacks: ClassVar = {
        "entries": "it keeps values only",
        "namespaces": "it has only one",
        "server": "it has none",
        "raw_access": "there is nothing behind it",
    }

    @staticmethod
    def milliseconds() -> int:
        raise NotImplementedError

    @pytest.fixture
    def make_storage_adapter(self) -> Callable[..., SixMethods]:
        kept: Kept = {}
        return lambda ttl_seconds=None: SixMethods(self.milliseconds, kept, ttl_seconds)

    @pytest.fixture
    def storage_adapter(self, make_storage_adapter: Callable[..., SixMethods]) -> SixMethods:
        return make_storage_adapter()


class TestWallClock(_OnSixMethods):
    expiry_clock = "wall"

    @staticmethod
    def milliseconds() -> int:
        return int(time.time() * 1000)


class TestServerClock(_OnSixMethods):
    """A clock that the suite cannot move, so that it waits: here the server's clock moves by what the suite waits."""

    expiry_clock = "server"
    passed: ClassVar[list[float]] = []

    @pytest.fixture(autouse=True)
    def no_real_waiting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def sleep(seconds: float) -> None:
            self.passed.append(seconds)

        monkeypatch.setattr("taskiq_flow.pytest_plugin.contract.suite_clock.sleep", sleep)

    @classmethod
    def milliseconds(cls) -> int:
        return round(sum(cls.passed) * 1000)
