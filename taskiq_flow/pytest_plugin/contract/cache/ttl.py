"""The cache contract's rules for times to live."""

import asyncio

import pytest

from taskiq_flow.exceptions import InvalidTTLError
from taskiq_flow.pytest_plugin.contract.cache.suite import CacheSuite, Creator
from taskiq_flow.pytest_plugin.contract.check import RuleCheck, needs, rule
from taskiq_flow.pytest_plugin.contract.samples import ILLEGAL_TTLS

__all__ = ["CacheTTLRules"]


class CacheTTLRules(CacheSuite):
    """Values expire when they should."""

    @rule
    async def test_a_value_is_gone_from_its_expiry_on(self, check: RuleCheck) -> None:
        """A value is gone from the instant of its expiry on."""
        await check.cache.set("set", 1, ttl_seconds=check.ttl)
        await check.cache.get_or_create("created", Creator(1), ttl_seconds=check.ttl)
        await check.cache.set("later", 1)
        await check.until_just_before(check.ttl)
        check.expect([await check.cache.get(key) for key in ("set", "created")], [1, 1])
        await check.until_expiry()
        check.expect([await check.cache.get(key) for key in ("set", "created")], [None, None])
        again = Creator(2)
        check.expect(await check.cache.get_or_create("created", again, ttl_seconds=check.ttl), 2)
        check.expect(await check.cache.get("later"), 1)

    @needs("movable_time")
    @rule
    async def test_the_ttl_counts_from_when_the_value_is_created(self, check: RuleCheck) -> None:
        """The time to live counts from the end of the creation, however long that took; reads do not extend it."""
        creator = Creator(1, held=True)
        creating = asyncio.ensure_future(check.cache.get_or_create("key", creator, ttl_seconds=check.ttl))
        await creator.begun.wait()
        await check.pass_time(self.lock_timeout / 2)
        creator.release()
        await creating
        await check.until_just_before(check.ttl)
        check.expect(await check.cache.get_or_create("key", Creator(2), ttl_seconds=check.ttl), 1)
        await check.until_expiry()
        check.expect(await check.cache.get("key"), None)

    @needs("default_ttl")
    @rule
    async def test_the_default_ttl_is_that_of_the_cache(self, check: RuleCheck) -> None:
        """Without ``ttl_seconds``, the cache's default time to live is used."""
        cache = check.another("with default", default_ttl=check.ttl)
        await cache.set("set", 1)
        await cache.get_or_create("created", Creator(1))
        await cache.set("own", 1, ttl_seconds=10 * check.ttl)
        await check.until_just_before(check.ttl)
        check.expect([await cache.get(key) for key in ("set", "created", "own")], [1, 1, 1])
        await check.until_expiry()
        check.expect([await cache.get(key) for key in ("set", "created", "own")], [None, None, 1])

    @pytest.mark.parametrize("kind", list(ILLEGAL_TTLS))
    @rule
    async def test_an_illegal_ttl_is_refused(self, check: RuleCheck, kind: str) -> None:
        """An illegal time to live is refused before anything is stored or created."""
        ttl, creator = ILLEGAL_TTLS[kind], Creator(1)
        await check.raises(check.cache.set("key", 1, ttl_seconds=ttl), InvalidTTLError, ValueError)
        await check.raises(check.cache.get_or_create("key", creator, ttl_seconds=ttl), InvalidTTLError, ValueError)
        check.expect(creator.calls, 0)
        check.expect(await check.cache.get("key"), None)
