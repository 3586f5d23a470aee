"""The contract's rules for times to live, expiry and cleanup."""

from taskiq_flow.pytest_plugin.contract.check import RuleCheck, needs, rule
from taskiq_flow.pytest_plugin.contract.samples import ILLEGAL_TTLS
from taskiq_flow.pytest_plugin.contract.suite import Suite

__all__ = ["CleanupRules", "TTLRules"]

_YEAR = 365.25 * 24 * 3600


class TTLRules(Suite):
    """When an entry expires, and what the methods return from then on."""

    @rule
    async def test_get_gives_none_from_expiry_on(self, check: RuleCheck) -> None:
        """An entry is gone from the instant now >= expires_at, and not before: get gives None."""
        await check.storage.set("key", "value", ttl_seconds=check.ttl)
        await check.until_just_before(check.ttl)
        check.expect(await check.storage.get("key"), "value")
        await check.until_expiry()
        check.expect(await check.storage.get("key"), None)

    @rule
    async def test_exists_gives_false_from_expiry_on(self, check: RuleCheck) -> None:
        """An entry is gone from the instant now >= expires_at, and not before: exists gives False."""
        await check.storage.set("key", "value", ttl_seconds=check.ttl)
        await check.until_just_before(check.ttl)
        check.expect(await check.storage.exists("key"), True)
        await check.until_expiry()
        check.expect(await check.storage.exists("key"), False)

    @rule
    async def test_delete_gives_false_from_expiry_on(self, check: RuleCheck) -> None:
        """An entry is gone from the instant now >= expires_at, and not before: delete gives False."""
        for key in ("one", "two"):
            await check.storage.set(key, "value", ttl_seconds=check.ttl)
        await check.until_just_before(check.ttl)
        check.expect(await check.storage.delete("one"), True)
        await check.until_expiry()
        check.expect(await check.storage.delete("two"), False)

    @rule
    async def test_keys_leaves_out_expired_entries(self, check: RuleCheck) -> None:
        """An entry is gone from the instant now >= expires_at, and not before: keys leaves it out."""
        await check.storage.set("ends", "value", ttl_seconds=check.ttl)
        await check.storage.set("stays", "value", ttl_seconds=check.ttl * 50)
        await check.storage.set("stays:ever", "value")
        await check.until_just_before(check.ttl)
        check.expect(await check.storage.keys(), ["ends", "stays", "stays:ever"])
        await check.until_expiry()
        check.expect(await check.storage.keys(), ["stays", "stays:ever"])
        check.expect(await check.storage.keys("e*"), [])

    @needs("movable_time")
    @rule
    async def test_a_ttl_is_kept_to_the_millisecond(self, check: RuleCheck) -> None:
        """A time to live is kept to the millisecond: there 1 ms before its expiry, and gone at its expiry."""
        for ttl in (0.001, 0.002, 0.5, 0.999, 1, 1.001, 1.5, 59.999, 60, 3600, 86_400, 31 * 86_400, _YEAR):
            await check.storage.set("key", ttl, ttl_seconds=ttl)
            await check.pass_time(ttl - 0.001)
            check.expect(await check.storage.get("key"), ttl, "1 ms before its expiry")
            check.expect(await check.storage.exists("key"), True, "1 ms before its expiry")
            await check.pass_time(0.001)
            check.expect(await check.storage.get("key"), None, "at its expiry")
            check.expect(await check.storage.exists("key"), False, "at its expiry")

    @needs("movable_time")
    @rule
    async def test_a_ttl_may_be_shorter_than_a_millisecond(self, check: RuleCheck) -> None:
        """Every number above 0 is a legal time to live; one below a millisecond has expired a millisecond later."""
        for ttl in (0.0001, 5e-324):
            await check.storage.set("key", "value", ttl_seconds=ttl)
            await check.pass_time(0.001)
            check.expect(await check.storage.get("key"), None)

    @needs("movable_time")
    @rule
    async def test_a_ttl_may_be_100_years(self, check: RuleCheck) -> None:
        """A time to live may be up to 100 years, and is kept."""
        await check.storage.set("key", "value", ttl_seconds=100 * 365 * 24 * 3600)
        await check.pass_time(99 * 365 * 24 * 3600)
        check.expect(await check.storage.get("key"), "value", "after 99 years")
        check.expect(await check.storage.cleanup(), 0, "after 99 years")
        await check.pass_time(365 * 24 * 3600)
        check.expect(await check.storage.get("key"), None, "after 100 years")

    @rule
    async def test_an_illegal_ttl_is_refused(self, check: RuleCheck) -> None:
        """``ttl_seconds`` is an int or float of seconds above 0, up to 100 years; else ValueError, and what was stored
        before stays as it was.
        """
        await check.storage.set("key", "before")
        for description, ttl in ILLEGAL_TTLS.items():
            for key in ("key", "new"):
                call = check.storage.set(key, "after", ttl_seconds=ttl)
                await check.raises(call, ValueError, note=f"ttl_seconds: {description}")
        check.expect(await check.storage.get("key"), "before")
        check.expect(await check.storage.keys(), ["key"])

    @needs("movable_time")
    @rule
    async def test_without_ttl_an_entry_never_expires(self, check: RuleCheck) -> None:
        """Where neither the call nor the adapter has a time to live, an entry never expires."""
        await check.storage.set("key", "value")
        await check.pass_time(1000 * _YEAR)
        check.expect(await check.storage.get("key"), "value", "after 1,000 years")
        check.expect(await check.storage.exists("key"), True, "after 1,000 years")
        check.expect(await check.storage.keys(), ["key"], "after 1,000 years")

    @needs("default_ttl")
    @rule
    async def test_the_default_ttl_is_that_of_the_adapter(self, check: RuleCheck) -> None:
        """``ttl_seconds=None`` means the adapter's default, its constructor's ``ttl_seconds``."""
        storage = check.another(f"with ttl_seconds={check.ttl}", ttl_seconds=check.ttl)
        await storage.set("key", "value")
        await check.until_just_before(check.ttl)
        check.expect(await storage.get("key"), "value")
        await check.until_expiry()
        check.expect(await storage.get("key"), None)
        check.expect(await storage.keys(), [])

    @needs("default_ttl")
    @rule
    async def test_a_ttl_of_the_call_takes_precedence_over_the_default(self, check: RuleCheck) -> None:
        """The ttl_seconds of a call takes precedence over the adapter's default, be it shorter or longer."""
        shorter = check.another("with a longer default", ttl_seconds=check.ttl * 10)
        longer = check.another("with a shorter default", ttl_seconds=check.ttl / 10)
        await shorter.set("shorter", "value", ttl_seconds=check.ttl)
        await longer.set("longer", "value", ttl_seconds=check.ttl)
        await check.until_just_before(check.ttl)
        check.expect(await shorter.get("shorter"), "value")
        check.expect(await longer.get("longer"), "value")
        await check.until_expiry()
        check.expect(await shorter.get("shorter"), None)
        check.expect(await longer.get("longer"), None)

    @rule
    async def test_set_again_extends_the_ttl(self, check: RuleCheck) -> None:
        """``set`` again replaces the expiry: a longer time to live counts from now."""
        await check.storage.set("key", 1, ttl_seconds=check.ttl)
        await check.storage.set("key", 2, ttl_seconds=check.ttl * 50)
        await check.pass_time(check.ttl * 2)
        check.expect(await check.storage.get("key"), 2)

    @rule
    async def test_set_again_shortens_the_ttl(self, check: RuleCheck) -> None:
        """``set`` again replaces the expiry: a shorter time to live counts from now."""
        await check.storage.set("key", 1, ttl_seconds=check.ttl * 50)
        await check.storage.set("key", 2, ttl_seconds=check.ttl)
        await check.pass_time(check.ttl)
        check.expect(await check.storage.get("key"), None)

    @rule
    async def test_set_again_without_ttl_takes_the_expiry_away(self, check: RuleCheck) -> None:
        """``set`` again replaces the expiry: without a time to live the entry never expires."""
        await check.storage.set("key", 1, ttl_seconds=check.ttl)
        await check.storage.set("key", 2)
        await check.pass_time(check.ttl * 2)
        check.expect(await check.storage.get("key"), 2)

    @rule
    async def test_set_again_counts_from_the_second_call(self, check: RuleCheck) -> None:
        """``set`` again replaces the expiry: the same time to live begins anew."""
        await check.storage.set("key", 1, ttl_seconds=check.ttl)
        await check.pass_time(check.ttl / 2)
        await check.storage.set("key", 2, ttl_seconds=check.ttl)
        await check.until_just_before(check.ttl)
        check.expect(await check.storage.get("key"), 2)
        await check.until_expiry()
        check.expect(await check.storage.get("key"), None)

    @rule
    async def test_set_over_an_expired_entry_makes_a_new_one(self, check: RuleCheck) -> None:
        """An expired key can be set again, as if nothing had been there."""
        await check.storage.set("key", 1, ttl_seconds=check.ttl)
        await check.pass_time(check.ttl)
        await check.storage.set("key", 2)
        check.expect(await check.storage.get("key"), 2)
        check.expect(await check.storage.keys(), ["key"])
        check.expect(await check.storage.cleanup(), 0)
        check.expect(await check.storage.get("key"), 2)

    @rule
    async def test_reads_never_extend_the_ttl(self, check: RuleCheck) -> None:
        """Reads never extend a TTL: get, exists and keys leave the expiry as it is."""
        for key in ("get", "exists", "keys"):
            await check.storage.set(key, "value", ttl_seconds=check.ttl)
        await check.until_just_before(check.ttl)
        check.expect(await check.storage.get("get"), "value")
        check.expect(await check.storage.exists("exists"), True)
        check.expect(await check.storage.keys(), ["exists", "get", "keys"])
        await check.until_expiry()
        check.expect(await check.storage.keys(), [])

    @needs("movable_time")
    @rule
    async def test_reads_never_remove_an_entry(self, check: RuleCheck) -> None:
        """Reads never remove an entry, nor does a delete that finds it expired: cleanup still has it to remove."""
        for key in ("get", "exists", "keys", "delete"):
            await check.storage.set(key, "value", ttl_seconds=1)
        await check.pass_time(1)
        check.expect(await check.storage.get("get"), None)
        check.expect(await check.storage.exists("exists"), False)
        check.expect(await check.storage.keys(), [])
        check.expect(await check.storage.delete("delete"), False)
        check.expect(await check.storage.cleanup(), 4)


class CleanupRules(Suite):
    """What cleanup removes, and what it says."""

    @needs("movable_time")
    @rule
    async def test_cleanup_removes_what_has_expired_and_counts_it(self, check: RuleCheck) -> None:
        """``cleanup`` removes the expired entries and returns how many it removed; a second call returns 0."""
        for number in range(7):
            await check.storage.set(f"expires:{number}", number, ttl_seconds=1 + number % 3)
        for number in range(3):
            await check.storage.set(f"stays:{number}", number, ttl_seconds=1000)
        check.expect(await check.storage.cleanup(), 0, "nothing has expired yet")
        await check.pass_time(2)
        check.expect(await check.storage.cleanup(), 5)
        check.expect(await check.storage.cleanup(), 0)
        await check.pass_time(1)
        check.expect(await check.storage.cleanup(), 2)
        check.expect(await check.storage.keys(), ["stays:0", "stays:1", "stays:2"])

    @needs("movable_time")
    @rule
    async def test_cleanup_removes_more_entries_than_a_page(self, check: RuleCheck) -> None:
        """``cleanup`` removes and counts all expired entries, however many: also if a server returns them in
        pages.
        """
        await check.store_many(self.many_keys, ttl_seconds=check.ttl)
        await check.storage.set("stays", 1)
        await check.pass_time(check.ttl)
        check.expect(await check.storage.cleanup(), self.many_keys)
        check.expect(await check.storage.cleanup(), 0)
        check.expect(await check.storage.keys(), ["stays"])

    @rule
    async def test_cleanup_leaves_live_entries(self, check: RuleCheck) -> None:
        """``cleanup`` never shortens a TTL: what has not expired stays, with its value and its expiry."""
        await check.storage.set("short", 1, ttl_seconds=check.ttl)
        await check.storage.set("long", 2, ttl_seconds=check.ttl * 50)
        await check.storage.set("ever", 3)
        await check.until_just_before(check.ttl)
        check.expect(await check.storage.cleanup(), 0)
        check.expect(await check.storage.keys(), ["ever", "long", "short"])
        await check.until_expiry()
        await check.storage.cleanup()
        check.expect(await check.storage.get("short"), None)
        check.expect(await check.storage.get("long"), 2)
        check.expect(await check.storage.get("ever"), 3)

    @needs("movable_time")
    @rule
    async def test_cleanup_leaves_old_entries_without_expiry(self, check: RuleCheck) -> None:
        """``cleanup`` leaves entries without expiry, whatever their age and whatever its ttl_seconds."""
        await check.storage.set("ever", 1)
        await check.storage.set("long", 2, ttl_seconds=50 * _YEAR)
        await check.pass_time(10 * _YEAR)
        for arguments in ((), (1,), (0,), (3600,), (10**9,)):
            check.expect(await check.storage.cleanup(*arguments), 0)
        await check.pass_time(100 * _YEAR)
        check.expect(await check.storage.cleanup(1), 1)
        check.expect(await check.storage.get("ever"), 1, "after 110 years")

    @needs("movable_time")
    @rule
    async def test_the_ttl_of_cleanup_spares_nothing(self, check: RuleCheck) -> None:
        """``cleanup``'s ttl_seconds is without effect: it removes what has expired just now too."""
        await check.storage.set("key", 1, ttl_seconds=1)
        await check.pass_time(1)
        check.expect(await check.storage.cleanup(ttl := 10**6), 1, f"ttl_seconds={ttl}")

    @needs("movable_time")
    @rule
    async def test_cleanup_counts_no_entry_that_was_replaced_or_deleted(self, check: RuleCheck) -> None:
        """``cleanup`` counts what it removes: not what was deleted or set anew before."""
        for key in ("replaced", "deleted", "expired"):
            await check.storage.set(key, 1, ttl_seconds=10)
        check.expect(await check.storage.delete("deleted"), True)
        await check.pass_time(10)
        await check.storage.set("replaced", 2)
        check.expect(await check.storage.cleanup(), 1)
        check.expect(await check.storage.get("replaced"), 2)
