"""The cache contract's rules for ``get_or_create``: one caller creates, and the others get its value."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from taskiq_flow.pytest_plugin.contract.cache.suite import CacheSuite, Creator, PendingCreation
from taskiq_flow.pytest_plugin.contract.check import RuleCheck, needs, rule

__all__ = ["CreateOnceRules"]

_CALLERS = 50


class CreateOnceRules(CacheSuite):
    """Of any number of callers one creates, and the others get its value."""

    @rule
    async def test_a_value_is_created_once(self, check: RuleCheck) -> None:
        """A created value is returned by every later call, ``get`` included; creators may be plain functions."""
        creator = Creator([1])
        check.expect(await check.cache.get_or_create("key", creator), [1])
        check.expect(await check.cache.get_or_create("key", creator), [1])
        check.expect(await check.cache.get("key"), [1])
        check.expect(creator.calls, 1)
        check.expect(await check.cache.get_or_create("plain", lambda: (1,)), (1,))
        await check.cache.set("set", 1)
        check.expect(await check.cache.get_or_create("set", creator), 1)
        check.expect(creator.calls, 1)

    @rule
    async def test_of_many_callers_one_creates(self, check: RuleCheck) -> None:
        """Of any number of callers at the same time one creates, and the others get its value."""
        creator = Creator([1], held=True)
        calls = [asyncio.ensure_future(check.cache.get_or_create("key", creator)) for _ in range(_CALLERS)]
        await creator.begun.wait()
        await asyncio.sleep(self.settle_seconds)
        creator.release()
        check.expect(await asyncio.gather(*calls), [[1]] * _CALLERS)
        check.expect(creator.calls, 1)

    @needs("shared_store")
    @rule
    async def test_of_many_caches_one_creates(self, check: RuleCheck) -> None:
        """Of any number of callers in any number of processes one creates, and the others get its value."""
        creator = Creator([1], held=True)
        caches = [check.cache, *(check.another(f"cache {number}") for number in range(4))] * 4
        calls = [asyncio.ensure_future(cache.get_or_create("key", creator)) for cache in caches]
        await creator.begun.wait()
        await asyncio.sleep(self.settle_seconds)
        creator.release()
        check.expect(await asyncio.gather(*calls), [[1]] * len(caches))
        check.expect(creator.calls, 1)

    @rule
    async def test_what_is_being_created_is_not_there_yet(self, check: RuleCheck) -> None:
        """``get`` does not wait: what is being created is not there yet."""
        async with PendingCreation(check.cache, "key") as creating:
            check.expect(await check.cache.get("key", "nothing"), "nothing")
        check.expect(await creating, "created")

    @rule
    async def test_keys_do_not_wait_for_each_other(self, check: RuleCheck) -> None:
        """A creation under one key does not block another key, not even for its own creator."""
        async with PendingCreation(check.cache, "slow"):
            check.expect(await check.cache.get_or_create("quick", Creator(1)), 1)

        async def nested() -> Any:
            return await check.cache.get_or_create("inner", Creator(2))

        check.expect(await check.cache.get_or_create("outer", nested), 2)

    @rule
    async def test_a_creator_that_asks_for_its_own_key_gets_an_error(self, check: RuleCheck) -> None:
        """A creator that asks for its own key gets an error, and does not wait for itself."""

        async def nested() -> Any:
            return await check.cache.get_or_create("key", Creator(1))

        await check.raises(check.cache.get_or_create("key", nested), RuntimeError)

    @rule
    async def test_an_error_goes_to_all_waiters(self, check: RuleCheck) -> None:
        """A creator that raises passes its error to all waiters, and nothing is cached."""
        creator = Creator(LookupError("no such thing"), held=True)
        calls = [asyncio.ensure_future(check.cache.get_or_create("key", creator)) for _ in range(5)]
        await creator.begun.wait()
        await asyncio.sleep(self.settle_seconds)
        creator.release()
        await _all_raise(check, calls)
        check.expect(creator.calls, 1)
        check.expect(await check.cache.get("key", "nothing"), "nothing")
        check.expect(await check.cache.get_or_create("key", Creator(2)), 2)

    @needs("shared_store")
    @rule
    async def test_an_error_goes_to_waiters_in_other_processes(self, check: RuleCheck) -> None:
        """A creator that raises passes its error to the waiters in other processes, and to no later caller."""
        creator, others = Creator(LookupError("no such thing"), held=True), Creator("another")
        calls = [asyncio.ensure_future(check.cache.get_or_create("key", creator))]
        await creator.begun.wait()
        caches = [check.another(f"cache {number}") for number in range(3)]
        calls += [asyncio.ensure_future(cache.get_or_create("key", others)) for cache in caches]
        while not all(cache.adapter.get_stats().misses for cache in caches):  # noqa: ASYNC110 - a cache has no event for it
            await asyncio.sleep(0.001)
        creator.release()
        await _all_raise(check, calls)
        check.expect(others.calls, 0)
        later = check.another("later")
        check.expect(await later.get("key", "nothing"), "nothing")
        check.expect(await later.get_or_create("key", Creator(2)), 2)

    @rule
    async def test_a_waiter_creates_after_the_leader_is_cancelled(self, check: RuleCheck) -> None:
        """If the leader, the caller that creates, is cancelled, one of the waiters creates instead."""
        cancelled, next_one = Creator(1, held=True), Creator(2)
        creating = asyncio.ensure_future(check.cache.get_or_create("key", cancelled))
        await cancelled.begun.wait()
        waiting = [asyncio.ensure_future(check.cache.get_or_create("key", next_one)) for _ in range(3)]
        await asyncio.sleep(self.settle_seconds)
        creating.cancel()
        check.expect(await asyncio.gather(*waiting), [2, 2, 2])
        check.expect(next_one.calls, 1)
        await asyncio.wait([creating])
        check.expect(creating.cancelled(), True)

    @needs("shared_store")
    @rule
    async def test_a_waiter_in_another_process_creates_after_the_leader_is_cancelled(self, check: RuleCheck) -> None:
        """If the leader is cancelled, a waiter in another process does not wait until the lock expires."""
        cancelled = Creator(1, held=True)
        creating = asyncio.ensure_future(check.cache.get_or_create("key", cancelled))
        await cancelled.begun.wait()
        waiting = asyncio.ensure_future(check.another().get_or_create("key", Creator(2)))
        await asyncio.sleep(self.settle_seconds)
        creating.cancel()
        check.expect(await waiting, 2)
        await asyncio.wait([creating])

    @rule
    async def test_a_cancelled_waiter_cancels_nobody_else(self, check: RuleCheck) -> None:
        """A waiter that is cancelled cancels neither the leader nor other waiters."""
        async with PendingCreation(check.cache, "key") as creating:
            waiting = [asyncio.ensure_future(check.cache.get_or_create("key", Creator(2))) for _ in range(3)]
            await asyncio.sleep(self.settle_seconds)
            waiting[1].cancel()
            await asyncio.wait([waiting[1]])
            check.expect(waiting[1].cancelled(), True)
        check.expect(await asyncio.gather(creating.task, waiting[0], waiting[2]), ["created"] * 3)


async def _all_raise(check: RuleCheck, calls: list["asyncio.Task[Any]"]) -> None:
    for call in calls:
        error = await check.raises(_awaited(call), LookupError)
        check.expect(str(error), "no such thing")


async def _awaited(call: Awaitable[Any]) -> Any:
    return await call
