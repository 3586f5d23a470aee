"""The cache contract's rules for the lock that a caller holds while it creates a value."""

import asyncio

from taskiq_flow.pytest_plugin.contract.cache.suite import CacheSuite, Creator, PendingCreation
from taskiq_flow.pytest_plugin.contract.check import RuleCheck, needs, rule

__all__ = ["CreationLockRules"]


class CreationLockRules(CacheSuite):
    """The leader holds the lock of its key for ``lock_timeout`` at most."""

    @needs("shared_store", "movable_time")
    @rule
    async def test_the_lock_of_a_dead_leader_expires_after_lock_timeout(self, check: RuleCheck) -> None:
        """The lock of a leader that died expires after ``lock_timeout``, and not before."""
        next_one = Creator(2)
        async with PendingCreation(check.cache, "key"):
            waiting = asyncio.ensure_future(check.another().get_or_create("key", next_one))
            await check.until_just_before(self.lock_timeout)
            await asyncio.sleep(self.settle_seconds)
            check.expect(next_one.calls, 0)
            await check.until_expiry()
            check.expect(await waiting, 2)
            check.expect(next_one.calls, 1)

    @needs("shared_store", "movable_time")
    @rule
    async def test_a_leader_whose_lock_expired_overwrites_nothing(self, check: RuleCheck) -> None:
        """A value that is created after its lock expired goes to its callers, and never replaces a newer value."""
        other = check.another()
        async with PendingCreation(check.cache, "key") as slow:
            await check.pass_time(self.lock_timeout)
            check.expect(await other.get_or_create("key", Creator("newer")), "newer")
        check.expect(await slow, "created")
        check.expect(await check.cache.get("key"), "newer")

    @needs("shared_store", "movable_time")
    @rule
    async def test_a_leader_whose_lock_expired_releases_no_newer_lock(self, check: RuleCheck) -> None:
        """A leader whose lock expired does not release a newer lock, whether it succeeds, fails or is cancelled."""
        for outcome in ("succeeds", "fails", "is cancelled"):
            key = f"key that {outcome}"
            other, third, creator = check.another("other"), check.another("third"), Creator("third")
            error = LookupError("no such thing") if outcome == "fails" else None
            async with PendingCreation(check.cache, key, error) as slow:
                await check.pass_time(self.lock_timeout)
                async with PendingCreation(other, key) as newer:
                    if outcome == "is cancelled":
                        slow.task.cancel()
                    else:
                        slow.release()
                    await asyncio.wait([slow.task])
                    waiting = asyncio.ensure_future(third.get_or_create(key, creator))
                    await asyncio.sleep(self.settle_seconds)
                    check.expect(creator.calls, 0, f"the slow one {outcome}: the newer one's lock must hold")
                check.expect([await newer, await waiting], ["created", "created"])
