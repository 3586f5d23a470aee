"""The contract's rules for times to live, for their end, and for cleanup."""

from taskiq_flow.pytest_plugin.contract.samples import ILLEGAL_TTLS
from taskiq_flow.pytest_plugin.contract.suite import Suite
from taskiq_flow.pytest_plugin.contract.trial import Trial, needs, rule

__all__ = ["CleanupRules", "TTLRules"]

_YEAR = 365.25 * 24 * 3600


class TTLRules(Suite):
    """How long an entry lives, and what its end looks like."""

    @rule
    async def test_get_gives_none_from_the_end_on(self, trial: Trial) -> None:
        """An entry is gone from the instant now >= expires_at, and not before: get gives None."""
        await trial.storage.set("key", "value", ttl_seconds=trial.life)
        await trial.until_just_before(trial.life)
        trial.expect(await trial.storage.get("key"), "value")
        await trial.until_the_end()
        trial.expect(await trial.storage.get("key"), None)

    @rule
    async def test_exists_gives_false_from_the_end_on(self, trial: Trial) -> None:
        """An entry is gone from the instant now >= expires_at, and not before: exists gives False."""
        await trial.storage.set("key", "value", ttl_seconds=trial.life)
        await trial.until_just_before(trial.life)
        trial.expect(await trial.storage.exists("key"), True)
        await trial.until_the_end()
        trial.expect(await trial.storage.exists("key"), False)

    @rule
    async def test_delete_gives_false_from_the_end_on(self, trial: Trial) -> None:
        """An entry is gone from the instant now >= expires_at, and not before: delete gives False."""
        for key in ("one", "two"):
            await trial.storage.set(key, "value", ttl_seconds=trial.life)
        await trial.until_just_before(trial.life)
        trial.expect(await trial.storage.delete("one"), True)
        await trial.until_the_end()
        trial.expect(await trial.storage.delete("two"), False)

    @rule
    async def test_keys_leaves_out_what_has_ended(self, trial: Trial) -> None:
        """An entry is gone from the instant now >= expires_at, and not before: keys leaves it out."""
        await trial.storage.set("ends", "value", ttl_seconds=trial.life)
        await trial.storage.set("stays", "value", ttl_seconds=trial.life * 50)
        await trial.storage.set("stays:ever", "value")
        await trial.until_just_before(trial.life)
        trial.expect(await trial.storage.keys(), ["ends", "stays", "stays:ever"])
        await trial.until_the_end()
        trial.expect(await trial.storage.keys(), ["stays", "stays:ever"])
        trial.expect(await trial.storage.keys("e*"), [])

    @needs("movable_time")
    @rule
    async def test_a_ttl_is_kept_to_the_millisecond(self, trial: Trial) -> None:
        """A time to live is kept to the millisecond: there 1 ms before its end, and gone at its end."""
        for ttl in (0.001, 0.002, 0.5, 0.999, 1, 1.001, 1.5, 59.999, 60, 3600, 86_400, 31 * 86_400, _YEAR):
            await trial.storage.set("key", ttl, ttl_seconds=ttl)
            await trial.pass_time(ttl - 0.001)
            trial.expect(await trial.storage.get("key"), ttl, "1 ms before its end")
            trial.expect(await trial.storage.exists("key"), True, "1 ms before its end")
            await trial.pass_time(0.001)
            trial.expect(await trial.storage.get("key"), None, "at its end")
            trial.expect(await trial.storage.exists("key"), False, "at its end")

    @needs("movable_time")
    @rule
    async def test_a_ttl_may_be_shorter_than_a_millisecond(self, trial: Trial) -> None:
        """Every number above 0 is a legal time to live; one below a millisecond has ended a millisecond later."""
        for ttl in (0.0001, 5e-324):
            await trial.storage.set("key", "value", ttl_seconds=ttl)
            await trial.pass_time(0.001)
            trial.expect(await trial.storage.get("key"), None)

    @needs("movable_time")
    @rule
    async def test_a_ttl_may_be_100_years(self, trial: Trial) -> None:
        """A time to live may be up to 100 years, and is kept."""
        await trial.storage.set("key", "value", ttl_seconds=100 * 365 * 24 * 3600)
        await trial.pass_time(99 * 365 * 24 * 3600)
        trial.expect(await trial.storage.get("key"), "value", "after 99 years")
        trial.expect(await trial.storage.cleanup(), 0, "after 99 years")
        await trial.pass_time(365 * 24 * 3600)
        trial.expect(await trial.storage.get("key"), None, "after 100 years")

    @rule
    async def test_an_illegal_ttl_is_refused(self, trial: Trial) -> None:
        """``ttl_seconds`` is an int or float of seconds above 0, up to 100 years; else ValueError, and what was stored
        before stays as it was.
        """
        await trial.storage.set("key", "before")
        for description, ttl in ILLEGAL_TTLS.items():
            for key in ("key", "new"):
                call = trial.storage.set(key, "after", ttl_seconds=ttl)
                await trial.raises(call, ValueError, note=f"ttl_seconds: {description}")
        trial.expect(await trial.storage.get("key"), "before")
        trial.expect(await trial.storage.keys(), ["key"])

    @needs("movable_time")
    @rule
    async def test_without_ttl_an_entry_never_expires(self, trial: Trial) -> None:
        """Where neither the call nor the adapter has a time to live, an entry never expires."""
        await trial.storage.set("key", "value")
        await trial.pass_time(1000 * _YEAR)
        trial.expect(await trial.storage.get("key"), "value", "after 1,000 years")
        trial.expect(await trial.storage.exists("key"), True, "after 1,000 years")
        trial.expect(await trial.storage.keys(), ["key"], "after 1,000 years")

    @needs("default_ttl")
    @rule
    async def test_the_default_ttl_is_that_of_the_adapter(self, trial: Trial) -> None:
        """``ttl_seconds``=None means the adapter's default, its constructor's ttl_seconds."""
        storage = trial.another(f"with ttl_seconds={trial.life}", ttl_seconds=trial.life)
        await storage.set("key", "value")
        await trial.until_just_before(trial.life)
        trial.expect(await storage.get("key"), "value")
        await trial.until_the_end()
        trial.expect(await storage.get("key"), None)
        trial.expect(await storage.keys(), [])

    @needs("default_ttl")
    @rule
    async def test_a_ttl_of_the_call_goes_before_the_default(self, trial: Trial) -> None:
        """The ttl_seconds of a call goes before the adapter's default, be it shorter or longer."""
        shorter = trial.another("with a longer default", ttl_seconds=trial.life * 10)
        longer = trial.another("with a shorter default", ttl_seconds=trial.life / 10)
        await shorter.set("shorter", "value", ttl_seconds=trial.life)
        await longer.set("longer", "value", ttl_seconds=trial.life)
        await trial.until_just_before(trial.life)
        trial.expect(await shorter.get("shorter"), "value")
        trial.expect(await longer.get("longer"), "value")
        await trial.until_the_end()
        trial.expect(await shorter.get("shorter"), None)
        trial.expect(await longer.get("longer"), None)

    @rule
    async def test_set_again_lengthens_a_life(self, trial: Trial) -> None:
        """``set`` again replaces the expiry: a longer time to live counts from now."""
        await trial.storage.set("key", 1, ttl_seconds=trial.life)
        await trial.storage.set("key", 2, ttl_seconds=trial.life * 50)
        await trial.pass_time(trial.life * 2)
        trial.expect(await trial.storage.get("key"), 2)

    @rule
    async def test_set_again_shortens_a_life(self, trial: Trial) -> None:
        """``set`` again replaces the expiry: a shorter time to live counts from now."""
        await trial.storage.set("key", 1, ttl_seconds=trial.life * 50)
        await trial.storage.set("key", 2, ttl_seconds=trial.life)
        await trial.pass_time(trial.life)
        trial.expect(await trial.storage.get("key"), None)

    @rule
    async def test_set_again_without_ttl_takes_the_expiry_away(self, trial: Trial) -> None:
        """``set`` again replaces the expiry: without a time to live the entry stays for ever."""
        await trial.storage.set("key", 1, ttl_seconds=trial.life)
        await trial.storage.set("key", 2)
        await trial.pass_time(trial.life * 2)
        trial.expect(await trial.storage.get("key"), 2)

    @rule
    async def test_set_again_counts_from_the_second_call(self, trial: Trial) -> None:
        """``set`` again replaces the expiry: the same time to live begins anew."""
        await trial.storage.set("key", 1, ttl_seconds=trial.life)
        await trial.pass_time(trial.life / 2)
        await trial.storage.set("key", 2, ttl_seconds=trial.life)
        await trial.until_just_before(trial.life)
        trial.expect(await trial.storage.get("key"), 2)
        await trial.until_the_end()
        trial.expect(await trial.storage.get("key"), None)

    @rule
    async def test_set_over_an_ended_entry_makes_a_new_one(self, trial: Trial) -> None:
        """What has expired can be set again, and lives as if nothing had been there."""
        await trial.storage.set("key", 1, ttl_seconds=trial.life)
        await trial.pass_time(trial.life)
        await trial.storage.set("key", 2)
        trial.expect(await trial.storage.get("key"), 2)
        trial.expect(await trial.storage.keys(), ["key"])
        trial.expect(await trial.storage.cleanup(), 0)
        trial.expect(await trial.storage.get("key"), 2)

    @rule
    async def test_reads_never_extend_a_life(self, trial: Trial) -> None:
        """Reads never extend a life: get, exists and keys leave the end where it is."""
        for key in ("get", "exists", "keys"):
            await trial.storage.set(key, "value", ttl_seconds=trial.life)
        await trial.until_just_before(trial.life)
        trial.expect(await trial.storage.get("get"), "value")
        trial.expect(await trial.storage.exists("exists"), True)
        trial.expect(await trial.storage.keys(), ["exists", "get", "keys"])
        await trial.until_the_end()
        trial.expect(await trial.storage.keys(), [])

    @needs("movable_time")
    @rule
    async def test_reads_never_remove_an_entry(self, trial: Trial) -> None:
        """Reads never remove an entry, nor does a delete that finds it expired: cleanup still has it to remove."""
        for key in ("get", "exists", "keys", "delete"):
            await trial.storage.set(key, "value", ttl_seconds=1)
        await trial.pass_time(1)
        trial.expect(await trial.storage.get("get"), None)
        trial.expect(await trial.storage.exists("exists"), False)
        trial.expect(await trial.storage.keys(), [])
        trial.expect(await trial.storage.delete("delete"), False)
        trial.expect(await trial.storage.cleanup(), 4)


class CleanupRules(Suite):
    """What cleanup removes, and what it says."""

    @needs("movable_time")
    @rule
    async def test_cleanup_removes_what_has_expired_and_counts_it(self, trial: Trial) -> None:
        """``cleanup`` removes the expired entries and returns how many it removed; a second call returns 0."""
        for number in range(7):
            await trial.storage.set(f"expires:{number}", number, ttl_seconds=1 + number % 3)
        for number in range(3):
            await trial.storage.set(f"stays:{number}", number, ttl_seconds=1000)
        trial.expect(await trial.storage.cleanup(), 0, "nothing has expired yet")
        await trial.pass_time(2)
        trial.expect(await trial.storage.cleanup(), 5)
        trial.expect(await trial.storage.cleanup(), 0)
        await trial.pass_time(1)
        trial.expect(await trial.storage.cleanup(), 2)
        trial.expect(await trial.storage.keys(), ["stays:0", "stays:1", "stays:2"])

    @rule
    async def test_cleanup_leaves_what_lives(self, trial: Trial) -> None:
        """``cleanup`` never shortens a life: what has not expired stays, with its value and its end."""
        await trial.storage.set("short", 1, ttl_seconds=trial.life)
        await trial.storage.set("long", 2, ttl_seconds=trial.life * 50)
        await trial.storage.set("ever", 3)
        await trial.until_just_before(trial.life)
        trial.expect(await trial.storage.cleanup(), 0)
        trial.expect(await trial.storage.keys(), ["ever", "long", "short"])
        await trial.until_the_end()
        await trial.storage.cleanup()
        trial.expect(await trial.storage.get("short"), None)
        trial.expect(await trial.storage.get("long"), 2)
        trial.expect(await trial.storage.get("ever"), 3)

    @needs("movable_time")
    @rule
    async def test_cleanup_leaves_old_entries_without_expiry(self, trial: Trial) -> None:
        """``cleanup`` leaves entries without expiry, whatever their age and whatever its ttl_seconds."""
        await trial.storage.set("ever", 1)
        await trial.storage.set("long", 2, ttl_seconds=50 * _YEAR)
        await trial.pass_time(10 * _YEAR)
        for arguments in ((), (1,), (0,), (3600,), (10**9,)):
            trial.expect(await trial.storage.cleanup(*arguments), 0)
        await trial.pass_time(100 * _YEAR)
        trial.expect(await trial.storage.cleanup(1), 1)
        trial.expect(await trial.storage.get("ever"), 1, "after 110 years")

    @needs("movable_time")
    @rule
    async def test_the_ttl_of_cleanup_spares_nothing(self, trial: Trial) -> None:
        """``cleanup``'s ttl_seconds is without effect: it removes what has expired just now too."""
        await trial.storage.set("key", 1, ttl_seconds=1)
        await trial.pass_time(1)
        trial.expect(await trial.storage.cleanup(ttl := 10**6), 1, f"ttl_seconds={ttl}")

    @needs("movable_time")
    @rule
    async def test_cleanup_counts_no_entry_that_was_replaced_or_deleted(self, trial: Trial) -> None:
        """``cleanup`` counts what it removes: not what was deleted or set anew before."""
        for key in ("replaced", "deleted", "expired"):
            await trial.storage.set(key, 1, ttl_seconds=10)
        trial.expect(await trial.storage.delete("deleted"), True)
        await trial.pass_time(10)
        await trial.storage.set("replaced", 2)
        trial.expect(await trial.storage.cleanup(), 1)
        trial.expect(await trial.storage.get("replaced"), 2)
