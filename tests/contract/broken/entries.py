"""Adapters that get whole entries wrong."""

import contextlib
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar

from taskiq_flow import clock
from taskiq_flow.storage import StorageEntry, rules
from taskiq_flow.storage.backend import Record
from tests.contract.broken.base import Memory


class SetKeepsMetadata(Memory):
    """``set`` keeps the metadata of the entry before."""

    async def _write(self, key: str, record: Record, now: int) -> None:
        old = self.record(key)
        keeps = old is not None and record.metadata == "{}"
        await super()._write(key, record._replace(metadata=old.metadata) if old and keeps else record, now)


class SetKeepsCreationTime(Memory):
    """``set`` keeps the creation time of the entry before."""

    async def _write(self, key: str, record: Record, now: int) -> None:
        old = self.record(key)
        await super()._write(key, record._replace(created_at=old.created_at) if old else record, now)


class EntriesAreMadeNow(Memory):
    """``set_entry`` replaces the entry's creation time by the present."""

    async def set_entry(self, entry: StorageEntry) -> None:
        await super().set_entry(replace(entry, created_at=clock.now()))


class EntriesLoseMetadata(Memory):
    """``set_entry`` forgets the metadata."""

    async def set_entry(self, entry: StorageEntry) -> None:
        await super().set_entry(replace(entry, metadata={}))


class MetadataIsPlainJSON(Memory):
    """Metadata goes through plain JSON."""

    async def set_entry(self, entry: StorageEntry) -> None:
        with contextlib.suppress(ValueError, TypeError):
            entry = replace(entry, metadata=json.loads(json.dumps(entry.metadata, default=str)))
        await super().set_entry(entry)


class MetadataIsMerged(Memory):
    """``set_entry`` adds to the metadata of the entry before."""

    async def set_entry(self, entry: StorageEntry) -> None:
        old = await self.get_entry(entry.key)
        metadata = {**old.metadata, **entry.metadata} if old and type(entry.metadata) is dict else entry.metadata
        await super().set_entry(replace(entry, metadata=metadata))


class ExpiredEntriesAreStored(Memory):
    """``set_entry`` stores what has expired already."""

    async def _discard(self, key: str) -> None:
        await super()._write(key, Record("1", 0, 1, "{}"), 0)


class ExpiredEntriesAreIgnored(Memory):
    """``set_entry`` of what has expired leaves what was there."""

    async def _discard(self, key: str) -> None:
        pass


class DefaultTTLOnEntries(Memory):
    """``set_entry`` gives entries without end the default time to live."""

    async def set_entry(self, entry: StorageEntry) -> None:
        if entry.expires_at is None and self.ttl_seconds:
            entry = replace(entry, expires_at=clock.now() + timedelta(seconds=self.ttl_seconds))
        await super().set_entry(entry)


class GetEntryForgetsExpiry(Memory):
    """``get_entry`` returns what has expired."""

    async def get_entry(self, key: str) -> StorageEntry | None:
        record = self.record(rules.checked_key(key))
        if record is not None:
            self._records[key] = record._replace(expires_at=None)
        found = await super().get_entry(key)
        if record is not None:
            self._records[key] = record
            found = found and replace(found, expires_at=clock.from_ms(record.expires_at) if record.expires_at else None)
        return found


class EntryTimesInSeconds(Memory):
    """Times of entries are kept in whole seconds."""

    async def get_entry(self, key: str) -> StorageEntry | None:
        entry = await super().get_entry(key)
        return entry and replace(entry, created_at=entry.created_at.replace(microsecond=0))


class EntryEndsAreLost(Memory):
    """``get_entry`` does not say when the entry ends."""

    async def get_entry(self, key: str) -> StorageEntry | None:
        entry = await super().get_entry(key)
        return entry and replace(entry, expires_at=None)


class EntriesAreAliases(Memory):
    """Gives out the entry that was set, not a copy."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.given: dict[str, StorageEntry] = {}

    async def set_entry(self, entry: StorageEntry) -> None:
        await super().set_entry(entry)
        self.given[entry.key] = entry

    async def get_entry(self, key: str) -> StorageEntry | None:
        entry = await super().get_entry(key)
        return self.given.get(key, entry) if entry else None


class EntriesOfNoneAreNone(Memory):
    """``get_entry`` takes a stored None for nothing."""

    async def get_entry(self, key: str) -> StorageEntry | None:
        entry = await super().get_entry(key)
        return entry if entry and entry.value is not None else None


class EntriesWithoutAWord(Memory):
    """Cannot keep entries, and does not say so: ``set_entry`` does nothing, ``get_entry`` returns None."""

    lacks: ClassVar[dict[str, str]] = {"entries": "it keeps values only"}

    async def set_entry(self, entry: StorageEntry) -> None:
        pass

    async def get_entry(self, key: str) -> StorageEntry | None:
        return None
