"""The cache contract's rules for ``invalidate`` and ``clear``."""

from functools import partial

from taskiq_flow.pytest_plugin.contract.cache.suite import CacheSuite, Creator, PendingCreation
from taskiq_flow.pytest_plugin.contract.check import RuleCheck, needs, rule
from taskiq_flow.pytest_plugin.contract.comparison import shown

__all__ = ["InvalidationRules"]


class InvalidationRules(CacheSuite):
    """``invalidate`` and ``clear`` remove what they name, and nothing else."""

    @rule
    async def test_invalidate_removes_one_value_and_says_whether_it_was_there(self, check: RuleCheck) -> None:
        """``invalidate`` removes one value, and returns whether it was there."""
        await check.cache.set("key", None)
        await check.cache.set("other", 1)
        check.expect(await check.cache.invalidate("key"), True)
        check.expect(await check.cache.invalidate("key"), False)
        check.expect(await check.cache.get("key", "nothing"), "nothing")
        check.expect(await check.cache.get_or_create("key", Creator(2)), 2)
        check.expect(await check.cache.get("other"), 1)

    @rule
    async def test_a_value_invalidated_during_its_creation_is_not_stored(self, check: RuleCheck) -> None:
        """A value that is invalidated or cleared during its creation goes to its waiters, and to no later caller."""
        for invalidate in (partial(check.cache.invalidate, "key"), check.cache.clear):
            async with PendingCreation(check.cache, "key") as creating:
                await invalidate()
                check.expect(await check.cache.get_or_create("key", Creator("fresh")), "fresh")
            check.expect(await creating, "created")
            check.expect(await check.cache.get("key"), "fresh")
            await check.cache.invalidate("key")

    @rule
    async def test_a_value_set_during_a_creation_stays(self, check: RuleCheck) -> None:
        """A value that is set while another one is being created stays."""
        async with PendingCreation(check.cache, "key") as creating:
            await check.cache.set("key", "set")
            check.expect(await check.cache.get_or_create("key", Creator("another")), "set")
        check.expect(await creating, "created")
        check.expect(await check.cache.get("key"), "set")

    @rule
    async def test_clear_removes_all_values_and_counts_them(self, check: RuleCheck) -> None:
        """``clear`` removes all values, and returns how many there were."""
        for number in range(5):
            await check.cache.set(f"key:{number}", number)
        check.expect(await check.cache.clear(), 5)
        check.expect(await check.cache.get("key:1"), None)
        check.expect(await check.cache.clear(), 0)

    @needs("prefixes")
    @rule
    async def test_caches_with_different_prefixes_are_separate(self, check: RuleCheck) -> None:
        """Caches with different prefixes on one store see, create and clear nothing of each other."""
        caches = [
            check.cache,
            *(check.another(prefix, prefix=prefix) for prefix in ("other:", "*:", "[a]:", "_:", "%:")),
        ]
        for cache in caches:
            await cache.set("key", shown(cache.adapter))
            check.expect(await cache.get_or_create("created", Creator(shown(cache.adapter))), shown(cache.adapter))
        for cache in caches:
            check.expect(await cache.get("key"), shown(cache.adapter))
            check.expect(await cache.invalidate("created"), True)
            check.expect(await cache.clear(), 1)
