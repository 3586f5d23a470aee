"""Adapters whose ``compare_and_set`` does not do what it says."""

import asyncio
from typing import Any

from taskiq_flow import clock, serialization
from taskiq_flow.storage import InMemoryStorageAdapter, rules
from taskiq_flow.storage.backend import Record
from taskiq_flow.storage.base import ABSENT
from tests.contract.broken.base import Memory


class ExchangesWithoutLooking(Memory):
    """``compare_and_set`` never compares."""

    async def _exchange(self, key: str, seen: Record | None, record: Record | None, now: int) -> bool:
        return await super()._exchange(key, self.record(key), record, now)

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl_seconds: float | None = None) -> bool:
        there = await self.get(key) if await self.exists(key) else ABSENT
        return await super().compare_and_set(key, there, value, ttl_seconds)


class ExchangesAfterAPause(Memory):
    """``compare_and_set`` compares, waits, and stores: two callers are told True."""

    async def _exchange(self, key: str, seen: Record | None, record: Record | None, now: int) -> bool:
        await asyncio.sleep(0)
        await (self._discard(key) if record is None else self._write(key, record, now))
        return True


class ExchangesWhatIsEqual(Memory):
    """``compare_and_set`` compares with ``==``."""

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl_seconds: float | None = None) -> bool:
        there = await self.get(key) if await self.exists(key) else ABSENT
        return there == expected and await super().compare_and_set(key, there, value, ttl_seconds)


class ExchangesIgnoringCase(Memory):
    """``compare_and_set`` compares as some collations do."""

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl_seconds: float | None = None) -> bool:
        there = await self.get(key)
        if isinstance(there, str) and isinstance(expected, str) and there.lower() == expected.lower():
            expected = there
        return await super().compare_and_set(key, expected, value, ttl_seconds)


class ExchangesIgnoringBlanks(Memory):
    """``compare_and_set`` forgets trailing blanks."""

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl_seconds: float | None = None) -> bool:
        expected = expected.rstrip() if isinstance(expected, str) else expected
        return await super().compare_and_set(key, expected, value, ttl_seconds)


class NoneIsAbsent(Memory):
    """``compare_and_set`` takes a stored None for nothing."""

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl_seconds: float | None = None) -> bool:
        if expected is ABSENT and await self.get(key) is None:
            await self.delete(key)
        return await super().compare_and_set(key, expected, value, ttl_seconds)


class FalseIsAbsent(Memory):
    """``compare_and_set`` takes what is empty for nothing."""

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl_seconds: float | None = None) -> bool:
        if expected is ABSENT and await self.get(key) in (False, "", []):
            await self.delete(key)
        return await super().compare_and_set(key, expected, value, ttl_seconds)


class ExpiredBlocks(Memory):
    """``compare_and_set`` takes what has expired for something: a dead holder keeps its lock."""

    async def _exchange(self, key: str, seen: Record | None, record: Record | None, now: int) -> bool:
        return seen == self.record(key) and await super()._exchange(key, seen, record, now)


class ExpiredIsExpected(Memory):
    """``compare_and_set`` still finds what has expired."""

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl_seconds: float | None = None) -> bool:
        record = self.record(rules.checked_key(key))
        if record is not None and expected is not ABSENT and record.value == serialization.dumps(expected):
            self._records[key] = record._replace(expires_at=None)
        return await super().compare_and_set(key, expected, value, ttl_seconds)


class ExchangeKeepsTheLife(Memory):
    """``compare_and_set`` keeps the expiry that was there."""

    async def _exchange(self, key: str, seen: Record | None, record: Record | None, now: int) -> bool:
        if seen is not None and record is not None:
            record = record._replace(expires_at=seen.expires_at)
        return await super()._exchange(key, seen, record, now)


class ExchangeForgetsTheLife(Memory):
    """``compare_and_set`` stores without expiry."""

    async def _exchange(self, key: str, seen: Record | None, record: Record | None, now: int) -> bool:
        record = None if record is None else record._replace(expires_at=None)
        return await super()._exchange(key, seen, record, now)


class ExchangeKeepsMetadata(Memory):
    """``compare_and_set`` keeps creation time and metadata of what was there: here, a note that it was changed."""

    async def _exchange(self, key: str, seen: Record | None, record: Record | None, now: int) -> bool:
        if seen is not None and record is not None:
            record = record._replace(metadata='{"changed": true}')
        return await super()._exchange(key, seen, record, now)


class ExchangeCannotRemove(Memory):
    """``compare_and_set`` stores None instead of removing."""

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl_seconds: float | None = None) -> bool:
        return await super().compare_and_set(key, expected, None if value is ABSENT else value, ttl_seconds)


class ExchangeAlwaysRemoves(Memory):
    """``compare_and_set(…, ABSENT)`` removes whatever is there."""

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl_seconds: float | None = None) -> bool:
        if value is ABSENT and expected is not ABSENT:
            return await self.delete(key)
        return await super().compare_and_set(key, expected, value, ttl_seconds)


class RefusedExchangeExtends(Memory):
    """A ``compare_and_set`` that is refused extends the time to live of what is there."""

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl_seconds: float | None = None) -> bool:
        done = await super().compare_and_set(key, expected, value, ttl_seconds)
        if not done and (record := self.record(key)) and record.is_live(clock.now_ms()):
            self._records[key] = record._replace(expires_at=None)
        return done


class RefusedExchangeSaysTrue(Memory):
    """``compare_and_set`` returns True whatever it did."""

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl_seconds: float | None = None) -> bool:
        await super().compare_and_set(key, expected, value, ttl_seconds)
        return True


class ExchangesInEveryNamespace(Memory):
    """``compare_and_set`` looks at other namespaces as well."""

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl_seconds: float | None = None) -> bool:
        for namespace in list(self.store.records):
            neighbour = InMemoryStorageAdapter(namespace=namespace, store=self.store)
            if await neighbour.compare_and_set(key, expected, value, ttl_seconds):
                return True
        return False


class ExchangesOverDamage(Memory):
    """``compare_and_set`` takes damaged data for nothing."""

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl_seconds: float | None = None) -> bool:
        record = self.record(rules.checked_key(key))
        if record is not None and not record.value.startswith(tuple('{["0123456789-ntfNI')):
            await self._discard(key)
        return await super().compare_and_set(key, expected, value, ttl_seconds)


class ExchangeSwallowsErrors(Memory):
    """``compare_and_set`` returns False where it should say what is wrong."""

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl_seconds: float | None = None) -> bool:
        try:
            return await super().compare_and_set(key, expected, value, ttl_seconds)
        except ValueError:
            return False
