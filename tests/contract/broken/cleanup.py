"""Adapters whose ``cleanup`` does something else."""

from typing import Any

from taskiq_flow import clock
from tests.contract.broken.base import Memory

HOUR_MS = 3_600_000


class CleanupEatsPermanentEntries(Memory):
    """``cleanup(ttl_seconds)`` removes entries without expiry that are older than that."""

    async def cleanup(self, ttl_seconds: int = 3600) -> int:
        before = clock.now_ms() - ttl_seconds * 1000
        old = [key for key, record in self._records.items() if not record.expires_at and record.created_at < before]
        for key in old:
            del self._records[key]
        return await super().cleanup() + len(old)


class CleanupEatsOldEntries(Memory):
    """``cleanup`` removes live entries that were created long ago."""

    async def _purge(self, now: int) -> int:
        old = [key for key, record in self._records.items() if record.expires_at and record.created_at < now - HOUR_MS]
        return await super()._purge(now) + sum(self._records.pop(key, None) is not None for key in old)


class CleanupSparesRecentlyExpired(Memory):
    """``cleanup(ttl_seconds)`` removes only what expired longer ago than that."""

    async def cleanup(self, ttl_seconds: int = 3600) -> int:
        return await self._purge(clock.now_ms() - ttl_seconds * 1000)


class CleanupShortensLives(Memory):
    """``cleanup(ttl_seconds)`` gives entries without expiry that time to live."""

    async def cleanup(self, ttl_seconds: int = 3600) -> int:
        now = clock.now_ms()
        for key, record in self._records.items():
            if record.expires_at is None:
                self._records[key] = record._replace(expires_at=now + ttl_seconds * 1000)
        return await super().cleanup()


class FirstPageOfCleanup(Memory):
    """``cleanup`` stops after the first page of 1,000."""

    async def _purge(self, now: int) -> int:
        expired = [key for key, record in self._records.items() if not record.is_live(now)][:1000]
        for key in expired:
            del self._records[key]
        return len(expired)


class CleanupCountsWhatIsLeft(Memory):
    """``cleanup`` returns how many entries are left."""

    async def _purge(self, now: int) -> int:
        await super()._purge(now)
        return len(self._records)


class CleanupCountsNothing(Memory):
    """``cleanup`` always returns 0."""

    async def _purge(self, now: int) -> int:
        await super()._purge(now)
        return 0


class CleanupReturnsNone(Memory):
    """``cleanup`` returns None."""

    async def cleanup(self, ttl_seconds: int = 3600) -> Any:
        await super().cleanup()


class CleanupOnlyCounts(Memory):
    """``cleanup`` counts, and removes nothing: a second call counts the same again."""

    async def _purge(self, now: int) -> int:
        return sum(not record.is_live(now) for record in self._records.values())


class CleanupOneMillisecondLate(Memory):
    """``cleanup`` leaves what ends this instant."""

    async def _purge(self, now: int) -> int:
        return await super()._purge(now - 1)


class CleanupOfAllNamespaces(Memory):
    """``cleanup`` removes what has expired in every namespace."""

    async def _purge(self, now: int) -> int:
        removed = 0
        for records in self.store.records.values():
            for key in [key for key, record in records.items() if not record.is_live(now)]:
                del records[key]
                removed += 1
        return removed


class CleanupCountsOtherNamespaces(Memory):
    """``cleanup`` counts what has expired in other namespaces too."""

    async def _purge(self, now: int) -> int:
        everywhere = [record for records in self.store.records.values() for record in records.values()]
        await super()._purge(now)
        return sum(not record.is_live(now) for record in everywhere)
