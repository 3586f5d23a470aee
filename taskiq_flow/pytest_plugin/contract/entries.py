"""The contract's rules for whole entries."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from taskiq_flow.exceptions import SerializationError, UnsupportedOperationError
from taskiq_flow.pytest_plugin.contract.check import RuleCheck, needs, rule
from taskiq_flow.pytest_plugin.contract.comparison import shown
from taskiq_flow.pytest_plugin.contract.suite import Suite
from taskiq_flow.storage.entry import StorageEntry

__all__ = ["EntryRules"]

_MS = timedelta(milliseconds=1)


class EntryRules(Suite):
    """``get_entry`` and ``set_entry``: an entry with its times and metadata."""

    @rule
    async def test_entries_are_kept_or_clearly_refused(self, check: RuleCheck) -> None:
        """An adapter keeps whole entries, or says clearly that it cannot: UnsupportedOperationError."""
        entry = StorageEntry("key", "value", metadata={"a": 1})
        if "entries" in self.lacks:
            await check.raises(check.storage.set_entry(entry), UnsupportedOperationError, NotImplementedError)
            await check.raises(check.storage.get_entry("key"), UnsupportedOperationError, NotImplementedError)
            check.expect(await check.storage.keys(), [])
            return
        try:
            await check.storage.set_entry(entry)
        except UnsupportedOperationError as error:
            advice = f'if it cannot, declare so: {type(self).__name__}.lacks = {{"entries": "why"}}'
            check.fail(came_back=f"UnsupportedOperationError: {error}", should_be="no error", note=advice)
        check.expect(await check.storage.get_entry("key"), entry)
        check.expect(await check.storage.get("key"), "value")

    @needs("entries")
    @rule
    async def test_an_entry_comes_back_whole(self, check: RuleCheck) -> None:
        """``set_entry`` stores an entry with its own times and metadata; get_entry returns it equal."""
        now = check.clock.now()
        east = timezone(timedelta(hours=5, minutes=45))
        metadata = {"pipeline_id": "run42", "n": [1, 2.5, None], "": {}}
        for entry in (
            StorageEntry("plain", {"a": 1}, created_at=now),
            StorageEntry("with an end", [1], created_at=now, expires_at=now + timedelta(hours=1)),
            StorageEntry("with metadata", None, created_at=now, metadata=metadata),
            StorageEntry("old", "x", created_at=datetime(1950, 5, 6, 7, 8, 9, 123000, tzinfo=timezone.utc)),
            StorageEntry("from the future", "x", created_at=now + timedelta(days=1)),
            StorageEntry(
                "elsewhere", "x", created_at=now.astimezone(east), expires_at=(now + timedelta(1)).astimezone(east)
            ),
            StorageEntry("far", "x", created_at=now, expires_at=datetime(2125, 12, 31, tzinfo=timezone.utc)),
        ):
            await check.storage.set_entry(entry)
            check.expect(await check.storage.get_entry(entry.key), entry)
            check.expect(await check.storage.get(entry.key), entry.value)
            check.expect(await check.storage.exists(entry.key), True)

    @needs("entries")
    @rule
    async def test_times_of_an_entry_are_utc_and_to_the_millisecond(self, check: RuleCheck) -> None:
        """Times are kept in UTC, to the millisecond, rounded down; get_entry gives aware datetimes."""
        moment = datetime(2026, 3, 4, 5, 6, 7, 999999, tzinfo=timezone(timedelta(hours=-3)))
        end = check.clock.now() + timedelta(days=400)
        await check.storage.set_entry(
            StorageEntry("key", 1, created_at=moment, expires_at=end.replace(microsecond=1999))
        )
        entry = check.expect_entry(await check.storage.get_entry("key"), "key")
        check.expect(entry.created_at, datetime(2026, 3, 4, 8, 6, 7, 999000, tzinfo=timezone.utc))
        check.expect(entry.expires_at, end.replace(microsecond=1000))

    @needs("entries")
    @rule
    async def test_a_naive_datetime_is_refused(self, check: RuleCheck) -> None:
        """There are no naive datetimes anywhere: ValueError."""

        async def store(**times: Any) -> None:
            await check.storage.set_entry(StorageEntry("key", 1, **times))

        naive = datetime(2999, 1, 1)  # noqa: DTZ001 - that is what is refused
        await check.raises(store(created_at=naive), ValueError)
        await check.raises(store(expires_at=naive), ValueError)
        check.expect(await check.storage.keys(), [])

    @needs("entries")
    @rule
    async def test_set_makes_an_entry_created_now(self, check: RuleCheck) -> None:
        """``set`` stores an entry that was created now, without metadata, and without expiry if it has no TTL."""
        before = check.clock.now()
        await check.storage.set("key", (1, 2))
        entry = check.expect_entry(await check.storage.get_entry("key"), "key")
        check.expect(entry.key, "key")
        check.expect(entry.value, (1, 2))
        check.expect(entry.metadata, {})
        check.expect(entry.expires_at, None)
        # A server's clock is another clock: it may differ a little.
        tolerance = timedelta(seconds=5) if self.expiry_clock == "server" else _MS
        if not before - tolerance < entry.created_at <= check.clock.now() + tolerance - _MS:
            check.fail(came_back=f"created_at={entry.created_at}", should_be=f"created_at={before}, to the millisecond")

    @needs("entries", "movable_time")
    @rule
    async def test_expires_at_is_created_at_plus_the_ttl(self, check: RuleCheck) -> None:
        """``expires_at`` of an entry that ``set`` stored is its ``created_at`` plus its TTL, to the millisecond."""
        for ttl in (0.001, 1.5, 60, 100 * 365 * 24 * 3600):
            await check.storage.set("key", 1, ttl_seconds=ttl)
            entry = check.expect_entry(await check.storage.get_entry("key"), "key")
            check.expect(entry.expires_at, entry.created_at + timedelta(seconds=ttl))

    @needs("entries")
    @rule
    async def test_set_replaces_the_metadata(self, check: RuleCheck) -> None:
        """``set`` again replaces value, expiry, created_at and metadata, all at once."""
        now = check.clock.now()
        old = StorageEntry(
            "key", "old", created_at=now - timedelta(days=9), expires_at=now + timedelta(days=9), metadata={"old": True}
        )
        await check.storage.set_entry(old)
        await check.storage.set("key", "new")
        entry = check.expect_entry(await check.storage.get_entry("key"), "key")
        check.expect(entry.value, "new")
        check.expect(entry.metadata, {})
        check.expect(entry.expires_at, None)
        if entry.created_at < now - timedelta(minutes=1):
            check.fail(came_back=f"created_at={entry.created_at}", should_be=f"about {now}, when it was set again")

    @needs("entries")
    @rule
    async def test_set_entry_replaces_the_whole_entry(self, check: RuleCheck) -> None:
        """``set_entry`` replaces all of what was there: value, times and metadata."""
        now = check.clock.now()
        first = StorageEntry("key", 1, created_at=now, expires_at=now + timedelta(hours=1), metadata={"a": 1, "b": 2})
        second = StorageEntry("key", 2, created_at=now - timedelta(hours=1), metadata={"c": 3})
        for entry in (first, second, first):
            await check.storage.set_entry(entry)
            check.expect(await check.storage.get_entry("key"), entry)
        check.expect(await check.storage.keys(), ["key"])

    @needs("entries")
    @rule
    async def test_an_entry_expires_at_its_own_expires_at(self, check: RuleCheck) -> None:
        """An entry is gone from the instant now >= expires_at: get_entry gives None, as get does."""
        end = check.clock.now() + timedelta(seconds=check.ttl)
        await check.storage.set_entry(StorageEntry("key", 1, expires_at=end))
        await check.until_just_before(check.ttl)
        check.expect_entry(await check.storage.get_entry("key"), "key")
        await check.until_expiry()
        check.expect(await check.storage.get_entry("key"), None)
        check.expect(await check.storage.get("key"), None)
        check.expect(await check.storage.keys(), [])

    @needs("entries")
    @rule
    async def test_an_expired_entry_is_not_stored(self, check: RuleCheck) -> None:
        """An entry already expired is not stored."""
        now = check.clock.now()
        long_ago = StorageEntry("key", 1, created_at=now - timedelta(days=2), expires_at=now - timedelta(days=1))
        for entry in (long_ago, StorageEntry("key", 1, expires_at=now)):
            await check.storage.set_entry(entry)
            check.expect(await check.storage.get_entry("key"), None, "at once")
            check.expect(await check.storage.keys(), [])
            check.expect(await check.storage.cleanup(), 0, "it was not to be stored")

    @needs("entries")
    @rule
    async def test_an_expired_entry_replaces_what_was_there(self, check: RuleCheck) -> None:
        """An entry already expired replaces what was there: nothing is left, and nothing else goes."""
        await check.storage.set("key", "before")
        await check.storage.set("another", "before")
        await check.storage.set_entry(StorageEntry("key", 1, expires_at=check.clock.now() - timedelta(seconds=1)))
        check.expect(await check.storage.get("key"), None)
        check.expect(await check.storage.exists("key"), False)
        check.expect(await check.storage.cleanup(), 0)
        check.expect(await check.storage.keys(), ["another"])

    @needs("entries", "default_ttl", "movable_time")
    @rule
    async def test_the_default_ttl_does_not_touch_entries(self, check: RuleCheck) -> None:
        """``set_entry`` stores an entry with its own expiry: without one it never expires, whatever the default TTL."""
        storage = check.another("with ttl_seconds=60", ttl_seconds=60)
        entry = StorageEntry("key", 1, created_at=check.clock.now())
        await storage.set_entry(entry)
        check.expect(await storage.get_entry("key"), entry)
        await check.pass_time(61)
        check.expect(await storage.get("key"), 1)

    @needs("entries")
    @rule
    async def test_get_entry_of_nothing_is_none(self, check: RuleCheck) -> None:
        """``get_entry`` returns None where there is no entry; for a stored None it returns the entry."""
        check.expect(await check.storage.get_entry("key"), None)
        await check.storage.set("key", None)
        check.expect(check.expect_entry(await check.storage.get_entry("key"), "key").value, None)

    @needs("entries", "movable_time")
    @rule
    async def test_get_entry_extends_and_removes_nothing(self, check: RuleCheck) -> None:
        """``get_entry``, like all reads, never extends a TTL and never removes an entry."""
        await check.storage.set("key", 1, ttl_seconds=10)
        await check.pass_time(9.999)
        check.expect_entry(await check.storage.get_entry("key"), "key")
        await check.pass_time(0.001)
        check.expect(await check.storage.get_entry("key"), None)
        check.expect(await check.storage.cleanup(), 1)

    @needs("entries")
    @rule
    async def test_metadata_keeps_its_types(self, check: RuleCheck) -> None:
        """Metadata comes back equal and of the same types, as values do."""
        metadata = {"t": (1, 2), "when": datetime(2026, 1, 1, tzinfo=timezone.utc), "n": Decimal("1.10"), "b": b"\x00"}
        await check.storage.set_entry(StorageEntry("key", 1, metadata=metadata))
        check.expect(check.expect_entry(await check.storage.get_entry("key"), "key").metadata, metadata)

    @needs("entries")
    @rule
    async def test_an_entry_that_cannot_be_stored_is_refused(self, check: RuleCheck) -> None:
        """A value, or metadata, that would not come back: SerializationError that names the key; what was stored
        before stays.
        """
        before = StorageEntry("the:key", "before", created_at=check.clock.now(), metadata={"a": 1})
        await check.storage.set_entry(before)
        for entry in (replace(before, value=object()), replace(before, metadata={"a": [object()]})):
            error = await check.raises(check.storage.set_entry(entry), SerializationError, TypeError)
            if "the:key" not in str(error):
                check.fail(came_back=f"SerializationError: {error}", should_be="a message that names the:key")
        check.expect(await check.storage.get_entry("the:key"), before)

    @needs("entries")
    @rule
    async def test_stored_entries_are_copies(self, check: RuleCheck) -> None:
        """A stored entry is a copy: changing what was set, or what get_entry returned, changes nothing stored."""
        entry = StorageEntry("key", [1], created_at=check.clock.now(), metadata={"list": [1]})
        wanted = replace(entry, value=[1], metadata={"list": [1]})
        await check.storage.set_entry(entry)
        entry.value.append("changed")
        entry.metadata["list"].append("changed")
        for _ in range(2):
            found = check.expect_entry(await check.storage.get_entry("key"), "key")
            check.expect(found, wanted)
            found.value.append("changed")
            found.metadata["list"].append("changed")
            found.metadata["new"] = shown(found)
