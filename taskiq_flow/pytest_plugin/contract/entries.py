"""The contract's rules for whole entries."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from taskiq_flow.exceptions import SerializationError, UnsupportedOperationError
from taskiq_flow.pytest_plugin.contract.likeness import shown
from taskiq_flow.pytest_plugin.contract.suite import Suite
from taskiq_flow.pytest_plugin.contract.trial import Trial, needs, rule
from taskiq_flow.storage.entry import StorageEntry

__all__ = ["EntryRules"]

_MS = timedelta(milliseconds=1)


class EntryRules(Suite):
    """``get_entry`` and set_entry: an entry with its times and metadata."""

    @rule
    async def test_entries_are_kept_or_clearly_refused(self, trial: Trial) -> None:
        """An adapter keeps whole entries, or says clearly that it cannot: UnsupportedOperationError."""
        entry = StorageEntry("key", "value", metadata={"a": 1})
        if "entries" in self.lacks:
            await trial.raises(trial.storage.set_entry(entry), UnsupportedOperationError, NotImplementedError)
            await trial.raises(trial.storage.get_entry("key"), UnsupportedOperationError, NotImplementedError)
            trial.expect(await trial.storage.keys(), [])
            return
        try:
            await trial.storage.set_entry(entry)
        except UnsupportedOperationError as error:
            advice = f'if it cannot, declare so: {type(self).__name__}.lacks = {{"entries": "why"}}'
            trial.fail(came_back=f"UnsupportedOperationError: {error}", should_be="no error", note=advice)
        trial.expect(await trial.storage.get_entry("key"), entry)
        trial.expect(await trial.storage.get("key"), "value")

    @needs("entries")
    @rule
    async def test_an_entry_comes_back_whole(self, trial: Trial) -> None:
        """``set_entry`` stores an entry with its own times and metadata; get_entry returns it equal."""
        now = trial.time.now()
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
            await trial.storage.set_entry(entry)
            trial.expect(await trial.storage.get_entry(entry.key), entry)
            trial.expect(await trial.storage.get(entry.key), entry.value)
            trial.expect(await trial.storage.exists(entry.key), True)

    @needs("entries")
    @rule
    async def test_times_of_an_entry_are_utc_and_to_the_millisecond(self, trial: Trial) -> None:
        """Times are kept in UTC, to the millisecond, rounded down; get_entry gives aware datetimes."""
        moment = datetime(2026, 3, 4, 5, 6, 7, 999999, tzinfo=timezone(timedelta(hours=-3)))
        end = trial.time.now() + timedelta(days=400)
        await trial.storage.set_entry(
            StorageEntry("key", 1, created_at=moment, expires_at=end.replace(microsecond=1999))
        )
        entry = trial.expect_entry(await trial.storage.get_entry("key"), "key")
        trial.expect(entry.created_at, datetime(2026, 3, 4, 8, 6, 7, 999000, tzinfo=timezone.utc))
        trial.expect(entry.expires_at, end.replace(microsecond=1000))

    @needs("entries")
    @rule
    async def test_a_naive_datetime_is_refused(self, trial: Trial) -> None:
        """There are no naive datetimes anywhere: ValueError."""

        async def store(**times: Any) -> None:
            await trial.storage.set_entry(StorageEntry("key", 1, **times))

        naive = datetime(2999, 1, 1)  # noqa: DTZ001 - that is what is refused
        await trial.raises(store(created_at=naive), ValueError)
        await trial.raises(store(expires_at=naive), ValueError)
        trial.expect(await trial.storage.keys(), [])

    @needs("entries")
    @rule
    async def test_set_makes_an_entry_created_now(self, trial: Trial) -> None:
        """What set stores is an entry that was created now, without metadata, and without an end if it has no TTL."""
        before = trial.time.now()
        await trial.storage.set("key", (1, 2))
        entry = trial.expect_entry(await trial.storage.get_entry("key"), "key")
        trial.expect(entry.key, "key")
        trial.expect(entry.value, (1, 2))
        trial.expect(entry.metadata, {})
        trial.expect(entry.expires_at, None)
        # A server's clock is another clock: it may differ a little.
        tolerance = timedelta(seconds=5) if self.expiry_clock == "server" else _MS
        if not before - tolerance < entry.created_at <= trial.time.now() + tolerance - _MS:
            trial.fail(came_back=f"created_at={entry.created_at}", should_be=f"created_at={before}, to the millisecond")

    @needs("entries", "movable_time")
    @rule
    async def test_the_end_of_an_entry_is_its_creation_and_its_ttl(self, trial: Trial) -> None:
        """An entry that set stored ends its time to live, to the millisecond, after it was created."""
        for ttl in (0.001, 1.5, 60, 100 * 365 * 24 * 3600):
            await trial.storage.set("key", 1, ttl_seconds=ttl)
            entry = trial.expect_entry(await trial.storage.get_entry("key"), "key")
            trial.expect(entry.expires_at, entry.created_at + timedelta(seconds=ttl))

    @needs("entries")
    @rule
    async def test_set_replaces_the_metadata(self, trial: Trial) -> None:
        """``set`` again replaces value, expiry, created_at and metadata, all at once."""
        now = trial.time.now()
        old = StorageEntry(
            "key", "old", created_at=now - timedelta(days=9), expires_at=now + timedelta(days=9), metadata={"old": True}
        )
        await trial.storage.set_entry(old)
        await trial.storage.set("key", "new")
        entry = trial.expect_entry(await trial.storage.get_entry("key"), "key")
        trial.expect(entry.value, "new")
        trial.expect(entry.metadata, {})
        trial.expect(entry.expires_at, None)
        if entry.created_at < now - timedelta(minutes=1):
            trial.fail(came_back=f"created_at={entry.created_at}", should_be=f"about {now}, when it was set again")

    @needs("entries")
    @rule
    async def test_set_entry_replaces_the_whole_entry(self, trial: Trial) -> None:
        """``set_entry`` replaces all of what was there: value, times and metadata."""
        now = trial.time.now()
        first = StorageEntry("key", 1, created_at=now, expires_at=now + timedelta(hours=1), metadata={"a": 1, "b": 2})
        second = StorageEntry("key", 2, created_at=now - timedelta(hours=1), metadata={"c": 3})
        for entry in (first, second, first):
            await trial.storage.set_entry(entry)
            trial.expect(await trial.storage.get_entry("key"), entry)
        trial.expect(await trial.storage.keys(), ["key"])

    @needs("entries")
    @rule
    async def test_an_entry_ends_at_its_own_end(self, trial: Trial) -> None:
        """An entry is gone from the instant now >= expires_at: get_entry gives None, as get does."""
        end = trial.time.now() + timedelta(seconds=trial.life)
        await trial.storage.set_entry(StorageEntry("key", 1, expires_at=end))
        await trial.until_just_before(trial.life)
        trial.expect_entry(await trial.storage.get_entry("key"), "key")
        await trial.until_the_end()
        trial.expect(await trial.storage.get_entry("key"), None)
        trial.expect(await trial.storage.get("key"), None)
        trial.expect(await trial.storage.keys(), [])

    @needs("entries")
    @rule
    async def test_an_entry_that_has_ended_is_not_stored(self, trial: Trial) -> None:
        """An entry already expired is not stored."""
        now = trial.time.now()
        long_ago = StorageEntry("key", 1, created_at=now - timedelta(days=2), expires_at=now - timedelta(days=1))
        for entry in (long_ago, StorageEntry("key", 1, expires_at=now)):
            await trial.storage.set_entry(entry)
            trial.expect(await trial.storage.get_entry("key"), None, "at once")
            trial.expect(await trial.storage.keys(), [])
            trial.expect(await trial.storage.cleanup(), 0, "it was not to be stored")

    @needs("entries")
    @rule
    async def test_an_entry_that_has_ended_replaces_what_was_there(self, trial: Trial) -> None:
        """An entry already expired replaces what was there: nothing is left, and nothing else goes."""
        await trial.storage.set("key", "before")
        await trial.storage.set("another", "before")
        await trial.storage.set_entry(StorageEntry("key", 1, expires_at=trial.time.now() - timedelta(seconds=1)))
        trial.expect(await trial.storage.get("key"), None)
        trial.expect(await trial.storage.exists("key"), False)
        trial.expect(await trial.storage.cleanup(), 0)
        trial.expect(await trial.storage.keys(), ["another"])

    @needs("entries", "default_ttl", "movable_time")
    @rule
    async def test_the_default_ttl_does_not_touch_entries(self, trial: Trial) -> None:
        """``set_entry`` stores an entry with its own end: without one it never ends, whatever the adapter's default."""
        storage = trial.another("with ttl_seconds=60", ttl_seconds=60)
        entry = StorageEntry("key", 1, created_at=trial.time.now())
        await storage.set_entry(entry)
        trial.expect(await storage.get_entry("key"), entry)
        await trial.pass_time(61)
        trial.expect(await storage.get("key"), 1)

    @needs("entries")
    @rule
    async def test_get_entry_of_nothing_is_none(self, trial: Trial) -> None:
        """``get_entry`` returns None where there is no entry; for a stored None it returns the entry."""
        trial.expect(await trial.storage.get_entry("key"), None)
        await trial.storage.set("key", None)
        trial.expect(trial.expect_entry(await trial.storage.get_entry("key"), "key").value, None)

    @needs("entries", "movable_time")
    @rule
    async def test_get_entry_extends_and_removes_nothing(self, trial: Trial) -> None:
        """Reads never extend a life and never remove an entry: nor does get_entry."""
        await trial.storage.set("key", 1, ttl_seconds=10)
        await trial.pass_time(9.999)
        trial.expect_entry(await trial.storage.get_entry("key"), "key")
        await trial.pass_time(0.001)
        trial.expect(await trial.storage.get_entry("key"), None)
        trial.expect(await trial.storage.cleanup(), 1)

    @needs("entries")
    @rule
    async def test_metadata_keeps_its_types(self, trial: Trial) -> None:
        """Metadata comes back equal and of the same types, as values do."""
        metadata = {"t": (1, 2), "when": datetime(2026, 1, 1, tzinfo=timezone.utc), "n": Decimal("1.10"), "b": b"\x00"}
        await trial.storage.set_entry(StorageEntry("key", 1, metadata=metadata))
        trial.expect(trial.expect_entry(await trial.storage.get_entry("key"), "key").metadata, metadata)

    @needs("entries")
    @rule
    async def test_an_entry_that_cannot_be_stored_is_refused(self, trial: Trial) -> None:
        """A value, or metadata, that would not come back: SerializationError that names the key; what was stored
        before stays.
        """
        before = StorageEntry("the:key", "before", created_at=trial.time.now(), metadata={"a": 1})
        await trial.storage.set_entry(before)
        for entry in (replace(before, value=object()), replace(before, metadata={"a": [object()]})):
            error = await trial.raises(trial.storage.set_entry(entry), SerializationError, TypeError)
            if "the:key" not in str(error):
                trial.fail(came_back=f"SerializationError: {error}", should_be="a message that names the:key")
        trial.expect(await trial.storage.get_entry("the:key"), before)

    @needs("entries")
    @rule
    async def test_stored_entries_are_copies(self, trial: Trial) -> None:
        """A stored entry is a copy: changing what was set, or what get_entry returned, changes nothing stored."""
        entry = StorageEntry("key", [1], created_at=trial.time.now(), metadata={"list": [1]})
        wanted = replace(entry, value=[1], metadata={"list": [1]})
        await trial.storage.set_entry(entry)
        entry.value.append("changed")
        entry.metadata["list"].append("changed")
        for _ in range(2):
            found = trial.expect_entry(await trial.storage.get_entry("key"), "key")
            trial.expect(found, wanted)
            found.value.append("changed")
            found.metadata["list"].append("changed")
            found.metadata["new"] = shown(found)
