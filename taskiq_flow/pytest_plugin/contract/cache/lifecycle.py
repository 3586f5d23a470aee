"""The cache contract's rules for statistics, closing and event loops."""

import asyncio
from itertools import count
from typing import Any

from taskiq_flow.pytest_plugin.contract.cache.suite import CacheSuite, Creator, PendingCreation
from taskiq_flow.pytest_plugin.contract.check import RuleCheck, needs, rule

__all__ = ["CacheLifecycleRules"]


class CacheLifecycleRules(CacheSuite):
    """Statistics, closing and event loops."""

    @rule
    async def test_get_stats_counts_the_outcomes_of_calls(self, check: RuleCheck) -> None:
        """``get_stats`` counts the outcomes of calls: hits, misses, values created and waited for, failures."""
        await check.cache.get("key")
        async with PendingCreation(check.cache, "key"):
            waiting = asyncio.ensure_future(check.cache.get_or_create("key", Creator(2)))
            await asyncio.sleep(self.settle_seconds)
        await waiting
        await check.cache.get("key")
        await check.cache.get_or_create("key", Creator(2))
        await check.raises(check.cache.get_or_create("bad", Creator(LookupError("no such thing"))), LookupError)
        stats = check.adapter.get_stats()
        counts = {name: getattr(stats, name) for name in ("hits", "misses", "created", "waited", "failed")}
        check.expect(counts, {"hits": 2, "misses": 4, "created": 1, "waited": 1, "failed": 1})

    @rule
    async def test_aclose_may_be_repeated_and_use_after_it_reopens(self, check: RuleCheck) -> None:
        """``aclose`` and ``async with`` close the cache; closing twice is fine, and use after it reopens."""
        async with check.adapter as cache:
            check.expect(cache is check.adapter, True)
            await cache.set("key", 1)
        await check.cache.aclose()
        await check.cache.aclose()
        await check.cache.set("key", 2)
        check.expect(await check.cache.get("key"), 2)

    @needs("event_loops")
    @rule
    def test_one_event_loop_after_another(self, check: RuleCheck) -> None:
        """One cache may be used from one event loop and later from another."""
        numbers = count(1)

        async def use() -> Any:
            return await check.cache.get_or_create("key", lambda: next(numbers))

        check.expect([asyncio.run(use()) for _ in range(3)], [1, 1, 1])

    @needs("event_loops")
    @rule
    async def test_event_loops_of_several_threads(self, check: RuleCheck) -> None:
        """Of callers on the event loops of several threads one creates, and the others get its value."""
        calls: list[int] = []

        async def create() -> int:
            calls.append(1)
            await asyncio.sleep(self.settle_seconds)  # the other loops run in real time
            return len(calls)

        async def use() -> Any:
            return await asyncio.wait_for(check.cache.get_or_create("key", create), self.timeout)

        threads = (asyncio.to_thread(asyncio.run, use()) for _ in range(4))
        check.expect(await asyncio.gather(*threads, use()), [1] * 5)
