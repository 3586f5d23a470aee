"""The cache contract as a test suite, for any cache: ``CacheAdapterContract``."""

import asyncio
from collections.abc import Awaitable
from functools import partial
from itertools import count
from typing import Any

import pytest

from taskiq_flow.exceptions import InvalidKeyError, InvalidTTLError, SerializationError
from taskiq_flow.pytest_plugin.contract.cache_suite import CacheSuite, Creator, Held
from taskiq_flow.pytest_plugin.contract.likeness import shown
from taskiq_flow.pytest_plugin.contract.samples import ILLEGAL_KEYS, ILLEGAL_TTLS, LEGAL_KEYS, REFUSED, VALUES
from taskiq_flow.pytest_plugin.contract.trial import Trial, needs, rule

__all__ = ["CacheAdapterContract"]

_CALLERS = 50


class CacheValueRules(CacheSuite):
    """What you get is what was set or created."""

    @rule
    async def test_get_of_nothing(self, trial: Trial) -> None:
        """``get`` of a key that is not there returns None, or the default that is asked for."""
        trial.expect(await trial.cache.get("key"), None)
        trial.expect(await trial.cache.get("key", "default"), "default")
        trial.expect(await trial.cache.get("key", default=0), 0)

    @pytest.mark.parametrize("kind", list(VALUES))
    @rule
    async def test_what_you_get_is_what_you_set(self, trial: Trial, kind: str) -> None:
        """Every way to a value gives one equal to, and of the same type as, the one that was set or created."""
        for number, value in enumerate(VALUES[kind]):
            await trial.cache.set("key", value)
            trial.expect(await trial.cache.get("key", "default"), value)
            trial.expect(await trial.cache.get_or_create(f"created:{number}", partial(_identity, value)), value)

    @rule
    async def test_none_is_a_value(self, trial: Trial) -> None:
        """None is a value like any other: it is a hit."""
        await trial.cache.set("key", None)
        trial.expect(await trial.cache.get("key", "default"), None)
        trial.expect(await trial.cache.get_or_create("key", Creator("another")), None)
        trial.expect(await trial.cache.get_or_create("created", Creator(None)), None)
        trial.expect(await trial.cache.get("created", "default"), None)

    @rule
    async def test_values_are_copies(self, trial: Trial) -> None:
        """A value is a copy: what is done to one that was set, created or given changes no other."""
        value = {"list": [1]}
        await trial.cache.set("key", value)
        value["list"].append(2)
        (await trial.cache.get("key"))["list"].append(3)
        trial.expect(await trial.cache.get("key"), {"list": [1]})
        made = {"list": [1]}
        creator = Creator(made, held=True)
        calls = [asyncio.ensure_future(trial.cache.get_or_create("created", creator)) for _ in range(3)]
        await creator.begun.wait()
        creator.release()
        given = await asyncio.gather(*calls)
        made["list"].append(2)
        given[0]["list"].append(3)
        trial.expect(given[1:], [{"list": [1]}, {"list": [1]}])
        trial.expect(await trial.cache.get("created"), {"list": [1]})

    @pytest.mark.parametrize("kind", list(REFUSED))
    @rule
    async def test_what_would_not_come_back_is_refused(self, trial: Trial, kind: str) -> None:
        """What would not come back as it is is refused, and what was there before stays."""
        for value in REFUSED[kind]:
            await trial.cache.set("key", "before")
            await trial.raises(trial.cache.set("key", value), SerializationError, TypeError)
            trial.expect(await trial.cache.get("key"), "before")
            creating = trial.cache.get_or_create("created", partial(_identity, value))
            await trial.raises(creating, SerializationError, TypeError)
            trial.expect(await trial.cache.get("created", "nothing"), "nothing")

    @rule
    async def test_keys_are_told_apart(self, trial: Trial) -> None:
        """Keys are equal byte for byte, and every key that is legal for a storage is legal for a cache."""
        for key in LEGAL_KEYS:
            await trial.cache.set(key, key)
        for key in LEGAL_KEYS:
            trial.expect(await trial.cache.get(key), key)
        trial.expect(await trial.cache.clear(), len(LEGAL_KEYS))

    @pytest.mark.parametrize("kind", list(ILLEGAL_KEYS))
    @rule
    async def test_an_illegal_key_is_refused(self, trial: Trial, kind: str) -> None:
        """A key that no storage could hold is refused by every method, before anything is created."""
        key, creator = ILLEGAL_KEYS[kind], Creator(1)
        for call in (
            trial.cache.get(key),
            trial.cache.set(key, 1),
            trial.cache.get_or_create(key, creator),
            trial.cache.invalidate(key),
        ):
            await trial.raises(call, InvalidKeyError, ValueError)
        trial.expect(creator.calls, 0)


class CacheTTLRules(CacheSuite):
    """Values end when they should."""

    @rule
    async def test_the_end(self, trial: Trial) -> None:
        """A value is gone from the instant of its end on."""
        await trial.cache.set("set", 1, ttl_seconds=trial.life)
        await trial.cache.get_or_create("created", Creator(1), ttl_seconds=trial.life)
        await trial.cache.set("later", 1)
        await trial.until_just_before(trial.life)
        trial.expect([await trial.cache.get(key) for key in ("set", "created")], [1, 1])
        await trial.until_the_end()
        trial.expect([await trial.cache.get(key) for key in ("set", "created")], [None, None])
        again = Creator(2)
        trial.expect(await trial.cache.get_or_create("created", again, ttl_seconds=trial.life), 2)
        trial.expect(await trial.cache.get("later"), 1)

    @needs("movable_time")
    @rule
    async def test_a_life_begins_when_the_value_is_there(self, trial: Trial) -> None:
        """A created value lives from when it is there, however long that took; reading does not extend its life."""
        creator = Creator(1, held=True)
        creating = asyncio.ensure_future(trial.cache.get_or_create("key", creator, ttl_seconds=trial.life))
        await creator.begun.wait()
        await trial.pass_time(self.lock_timeout / 2)
        creator.release()
        await creating
        await trial.until_just_before(trial.life)
        trial.expect(await trial.cache.get_or_create("key", Creator(2), ttl_seconds=trial.life), 1)
        await trial.until_the_end()
        trial.expect(await trial.cache.get("key"), None)

    @needs("default_ttl")
    @rule
    async def test_the_default_time_to_live(self, trial: Trial) -> None:
        """Where nothing else is said, the cache's default time to live holds."""
        cache = trial.another("with default", default_ttl=trial.life)
        await cache.set("set", 1)
        await cache.get_or_create("created", Creator(1))
        await cache.set("own", 1, ttl_seconds=10 * trial.life)
        await trial.until_just_before(trial.life)
        trial.expect([await cache.get(key) for key in ("set", "created", "own")], [1, 1, 1])
        await trial.until_the_end()
        trial.expect([await cache.get(key) for key in ("set", "created", "own")], [None, None, 1])

    @pytest.mark.parametrize("kind", list(ILLEGAL_TTLS))
    @rule
    async def test_an_illegal_time_to_live_is_refused(self, trial: Trial, kind: str) -> None:
        """An illegal time to live is refused before anything is stored or created."""
        ttl, creator = ILLEGAL_TTLS[kind], Creator(1)
        await trial.raises(trial.cache.set("key", 1, ttl_seconds=ttl), InvalidTTLError, ValueError)
        await trial.raises(trial.cache.get_or_create("key", creator, ttl_seconds=ttl), InvalidTTLError, ValueError)
        trial.expect(creator.calls, 0)
        trial.expect(await trial.cache.get("key"), None)


class SingleFlightRules(CacheSuite):
    """Of any number of callers one creates, and the others get its value."""

    @rule
    async def test_a_value_is_created_once(self, trial: Trial) -> None:
        """What was created is given to whoever asks later, by ``get`` too; creators may be plain functions."""
        creator = Creator([1])
        trial.expect(await trial.cache.get_or_create("key", creator), [1])
        trial.expect(await trial.cache.get_or_create("key", creator), [1])
        trial.expect(await trial.cache.get("key"), [1])
        trial.expect(creator.calls, 1)
        trial.expect(await trial.cache.get_or_create("plain", lambda: (1,)), (1,))
        await trial.cache.set("set", 1)
        trial.expect(await trial.cache.get_or_create("set", creator), 1)
        trial.expect(creator.calls, 1)

    @rule
    async def test_of_many_callers_one_creates(self, trial: Trial) -> None:
        """Of any number of callers at the same time one creates, and the others get its value."""
        creator = Creator([1], held=True)
        calls = [asyncio.ensure_future(trial.cache.get_or_create("key", creator)) for _ in range(_CALLERS)]
        await creator.begun.wait()
        await asyncio.sleep(self.a_turn)
        creator.release()
        trial.expect(await asyncio.gather(*calls), [[1]] * _CALLERS)
        trial.expect(creator.calls, 1)

    @needs("shared_store")
    @rule
    async def test_of_many_caches_one_creates(self, trial: Trial) -> None:
        """Of any number of callers in any number of processes one creates, and the others get its value."""
        creator = Creator([1], held=True)
        caches = [trial.cache, *(trial.another(f"cache {number}") for number in range(4))] * 4
        calls = [asyncio.ensure_future(cache.get_or_create("key", creator)) for cache in caches]
        await creator.begun.wait()
        await asyncio.sleep(self.a_turn)
        creator.release()
        trial.expect(await asyncio.gather(*calls), [[1]] * len(caches))
        trial.expect(creator.calls, 1)

    @rule
    async def test_what_is_being_created_is_not_there_yet(self, trial: Trial) -> None:
        """``get`` does not wait: what is being created is not there yet."""
        async with Held(trial.cache, "key") as creating:
            trial.expect(await trial.cache.get("key", "nothing"), "nothing")
        trial.expect(await creating, "created")

    @rule
    async def test_keys_do_not_wait_for_each_other(self, trial: Trial) -> None:
        """Whoever creates under one key keeps nobody from another, not even its own creator."""
        async with Held(trial.cache, "slow"):
            trial.expect(await trial.cache.get_or_create("quick", Creator(1)), 1)

        async def nested() -> Any:
            return await trial.cache.get_or_create("inner", Creator(2))

        trial.expect(await trial.cache.get_or_create("outer", nested), 2)

    @rule
    async def test_a_creator_that_asks_for_itself(self, trial: Trial) -> None:
        """A creator that asks for its own key gets an error, and does not wait for ever."""

        async def nested() -> Any:
            return await trial.cache.get_or_create("key", Creator(1))

        await trial.raises(trial.cache.get_or_create("key", nested), RuntimeError)

    @rule
    async def test_an_error_goes_to_all_who_wait(self, trial: Trial) -> None:
        """A creator that raises passes its error to those who wait, and nothing is cached."""
        creator = Creator(LookupError("no such thing"), held=True)
        calls = [asyncio.ensure_future(trial.cache.get_or_create("key", creator)) for _ in range(5)]
        await creator.begun.wait()
        await asyncio.sleep(self.a_turn)
        creator.release()
        await _all_raise(trial, calls)
        trial.expect(creator.calls, 1)
        trial.expect(await trial.cache.get("key", "nothing"), "nothing")
        trial.expect(await trial.cache.get_or_create("key", Creator(2)), 2)

    @needs("shared_store")
    @rule
    async def test_an_error_goes_to_other_processes(self, trial: Trial) -> None:
        """A creator that raises passes its error to those who wait in other processes, and to nobody later."""
        creator, others = Creator(LookupError("no such thing"), held=True), Creator("another")
        calls = [asyncio.ensure_future(trial.cache.get_or_create("key", creator))]
        await creator.begun.wait()
        caches = [trial.another(f"cache {number}") for number in range(3)]
        calls += [asyncio.ensure_future(cache.get_or_create("key", others)) for cache in caches]
        while not all(cache.adapter.get_stats().misses for cache in caches):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        creator.release()
        await _all_raise(trial, calls)
        trial.expect(others.calls, 0)
        later = trial.another("later")
        trial.expect(await later.get("key", "nothing"), "nothing")
        trial.expect(await later.get_or_create("key", Creator(2)), 2)

    @rule
    async def test_a_creator_that_is_cancelled(self, trial: Trial) -> None:
        """Where the caller that creates is cancelled, one of those who wait creates instead."""
        cancelled, next_one = Creator(1, held=True), Creator(2)
        creating = asyncio.ensure_future(trial.cache.get_or_create("key", cancelled))
        await cancelled.begun.wait()
        waiting = [asyncio.ensure_future(trial.cache.get_or_create("key", next_one)) for _ in range(3)]
        await asyncio.sleep(self.a_turn)
        creating.cancel()
        trial.expect(await asyncio.gather(*waiting), [2, 2, 2])
        trial.expect(next_one.calls, 1)
        await asyncio.wait([creating])
        trial.expect(creating.cancelled(), True)

    @needs("shared_store")
    @rule
    async def test_a_creator_that_is_cancelled_elsewhere(self, trial: Trial) -> None:
        """Where the caller that creates is cancelled, nobody in another process waits for the lock to end."""
        cancelled = Creator(1, held=True)
        creating = asyncio.ensure_future(trial.cache.get_or_create("key", cancelled))
        await cancelled.begun.wait()
        waiting = asyncio.ensure_future(trial.another().get_or_create("key", Creator(2)))
        await asyncio.sleep(self.a_turn)
        creating.cancel()
        trial.expect(await waiting, 2)
        await asyncio.wait([creating])

    @rule
    async def test_one_who_waits_is_cancelled(self, trial: Trial) -> None:
        """Where one who waits is cancelled, nobody else is."""
        async with Held(trial.cache, "key") as creating:
            waiting = [asyncio.ensure_future(trial.cache.get_or_create("key", Creator(2))) for _ in range(3)]
            await asyncio.sleep(self.a_turn)
            waiting[1].cancel()
            await asyncio.wait([waiting[1]])
            trial.expect(waiting[1].cancelled(), True)
        trial.expect(await asyncio.gather(creating.task, waiting[0], waiting[2]), ["created"] * 3)


class CacheLockRules(CacheSuite):
    """Whoever creates holds the key for a while, and no longer."""

    @needs("shared_store", "movable_time")
    @rule
    async def test_a_holder_that_dies(self, trial: Trial) -> None:
        """A holder that dies frees its key after ``lock_timeout``, and not before."""
        next_one = Creator(2)
        async with Held(trial.cache, "key"):
            waiting = asyncio.ensure_future(trial.another().get_or_create("key", next_one))
            await trial.until_just_before(self.lock_timeout)
            await asyncio.sleep(self.a_turn)
            trial.expect(next_one.calls, 0)
            await trial.until_the_end()
            trial.expect(await waiting, 2)
            trial.expect(next_one.calls, 1)

    @needs("shared_store", "movable_time")
    @rule
    async def test_a_holder_that_is_too_slow_overwrites_nothing(self, trial: Trial) -> None:
        """What a holder brings after its lock has ended goes to its callers, and never over a newer value."""
        other = trial.another()
        async with Held(trial.cache, "key") as slow:
            await trial.pass_time(self.lock_timeout)
            trial.expect(await other.get_or_create("key", Creator("newer")), "newer")
        trial.expect(await slow, "created")
        trial.expect(await trial.cache.get("key"), "newer")

    @needs("shared_store", "movable_time")
    @rule
    async def test_a_holder_that_is_too_slow_unlocks_nothing(self, trial: Trial) -> None:
        """A holder whose lock has ended does not unlock a newer one's, whether it ends well, fails or is cancelled."""
        for outcome in ("ends well", "fails", "is cancelled"):
            key = f"key that {outcome}"
            other, third, creator = trial.another("other"), trial.another("third"), Creator("third")
            error = LookupError("no such thing") if outcome == "fails" else None
            async with Held(trial.cache, key, error) as slow:
                await trial.pass_time(self.lock_timeout)
                async with Held(other, key) as newer:
                    if outcome == "is cancelled":
                        slow.task.cancel()
                    else:
                        slow.release()
                    await asyncio.wait([slow.task])
                    waiting = asyncio.ensure_future(third.get_or_create(key, creator))
                    await asyncio.sleep(self.a_turn)
                    trial.expect(creator.calls, 0, f"the slow one {outcome}: the newer one's lock must hold")
                trial.expect([await newer, await waiting], ["created", "created"])


class ForgettingRules(CacheSuite):
    """What is forgotten is gone, and nothing else."""

    @rule
    async def test_invalidate(self, trial: Trial) -> None:
        """``invalidate`` forgets one value, and returns whether there was one."""
        await trial.cache.set("key", None)
        await trial.cache.set("other", 1)
        trial.expect(await trial.cache.invalidate("key"), True)
        trial.expect(await trial.cache.invalidate("key"), False)
        trial.expect(await trial.cache.get("key", "nothing"), "nothing")
        trial.expect(await trial.cache.get_or_create("key", Creator(2)), 2)
        trial.expect(await trial.cache.get("other"), 1)

    @rule
    async def test_what_is_overtaken_is_not_stored(self, trial: Trial) -> None:
        """What ``invalidate`` or ``clear`` overtakes goes to those who waited for it, and to nobody who comes later."""
        for forget in (partial(trial.cache.invalidate, "key"), trial.cache.clear):
            async with Held(trial.cache, "key") as creating:
                await forget()
                trial.expect(await trial.cache.get_or_create("key", Creator("fresh")), "fresh")
            trial.expect(await creating, "created")
            trial.expect(await trial.cache.get("key"), "fresh")
            await trial.cache.invalidate("key")

    @rule
    async def test_what_is_set_meanwhile_stays(self, trial: Trial) -> None:
        """What is set while another value is being created stays."""
        async with Held(trial.cache, "key") as creating:
            await trial.cache.set("key", "set")
            trial.expect(await trial.cache.get_or_create("key", Creator("another")), "set")
        trial.expect(await creating, "created")
        trial.expect(await trial.cache.get("key"), "set")

    @rule
    async def test_clear(self, trial: Trial) -> None:
        """``clear`` forgets everything, and returns how many entries that were."""
        for number in range(5):
            await trial.cache.set(f"key:{number}", number)
        trial.expect(await trial.cache.clear(), 5)
        trial.expect(await trial.cache.get("key:1"), None)
        trial.expect(await trial.cache.clear(), 0)

    @needs("prefixes")
    @rule
    async def test_caches_on_one_store_are_apart(self, trial: Trial) -> None:
        """Caches with different prefixes on one store see, create and clear nothing of each other."""
        caches = [
            trial.cache,
            *(trial.another(prefix, prefix=prefix) for prefix in ("other:", "*:", "[a]:", "_:", "%:")),
        ]
        for cache in caches:
            await cache.set("key", shown(cache.adapter))
            trial.expect(await cache.get_or_create("created", Creator(shown(cache.adapter))), shown(cache.adapter))
        for cache in caches:
            trial.expect(await cache.get("key"), shown(cache.adapter))
            trial.expect(await cache.invalidate("created"), True)
            trial.expect(await cache.clear(), 1)


class CacheLifeRules(CacheSuite):
    """Statistics, closing and event loops."""

    @rule
    async def test_statistics(self, trial: Trial) -> None:
        """``get_stats`` counts what became of the calls: hits, misses, values created and waited for, failures."""
        await trial.cache.get("key")
        async with Held(trial.cache, "key"):
            waiting = asyncio.ensure_future(trial.cache.get_or_create("key", Creator(2)))
            await asyncio.sleep(self.a_turn)
        await waiting
        await trial.cache.get("key")
        await trial.cache.get_or_create("key", Creator(2))
        await trial.raises(trial.cache.get_or_create("bad", Creator(LookupError("no such thing"))), LookupError)
        stats = trial.adapter.get_stats()
        counts = {name: getattr(stats, name) for name in ("hits", "misses", "created", "waited", "failed")}
        trial.expect(counts, {"hits": 2, "misses": 4, "created": 1, "waited": 1, "failed": 1})

    @rule
    async def test_closing(self, trial: Trial) -> None:
        """``aclose`` and ``async with`` close the cache; closing twice is fine, and use after it reopens."""
        async with trial.adapter as cache:
            trial.expect(cache is trial.adapter, True)
            await cache.set("key", 1)
        await trial.cache.aclose()
        await trial.cache.aclose()
        await trial.cache.set("key", 2)
        trial.expect(await trial.cache.get("key"), 2)

    @needs("event_loops")
    @rule
    def test_one_event_loop_after_another(self, trial: Trial) -> None:
        """One cache may be used from one event loop and later from another."""
        numbers = count(1)

        async def use() -> Any:
            return await trial.cache.get_or_create("key", lambda: next(numbers))

        trial.expect([asyncio.run(use()) for _ in range(3)], [1, 1, 1])

    @needs("event_loops")
    @rule
    async def test_event_loops_of_several_threads(self, trial: Trial) -> None:
        """Of callers on the event loops of several threads one creates, and the others get its value."""
        calls: list[int] = []

        async def create() -> int:
            calls.append(1)
            await asyncio.sleep(self.a_turn)  # the other loops run in real time
            return len(calls)

        async def use() -> Any:
            return await asyncio.wait_for(trial.cache.get_or_create("key", create), self.patience)

        threads = (asyncio.to_thread(asyncio.run, use()) for _ in range(4))
        trial.expect(await asyncio.gather(*threads, use()), [1] * 5)


class CacheAdapterContract(
    CacheValueRules,
    CacheTTLRules,
    SingleFlightRules,
    CacheLockRules,
    ForgettingRules,
    CacheLifeRules,
):
    """The cache contract, as tests. Subclass it, and say how to make the cache::

        from taskiq_flow.pytest_plugin import CacheAdapterContract


        class TestMemcachedAdapter(CacheAdapterContract):
            @pytest.fixture
            def cache_adapter(self):
                return MemcachedAdapter(...)

    Without a ``cache_adapter`` of its own, a subclass tests a cache over each storage that the plugin knows. The tests
    are plain functions that call ``asyncio.run``.

    **Fixtures**, to be defined in the class:

    ``cache_adapter``
        a new, empty cache of the test's own, with a default time to live of 3,600 seconds and a ``lock_timeout`` of 10.
    ``make_cache_adapter``
        a function ``make(default_ttl=…, lock_timeout=…, prefix=…)`` that returns another cache on the same store, as a
        second process would have. Each argument may be left out; another ``prefix`` (any text) makes another cache
        beside the first. Without this fixture the tests of what several caches do to each other are skipped.

    **Attributes**: ``expiry_clock``, ``lacks``, ``server_life`` and ``patience``, as in ``StorageAdapterContract``.
    What may be lacking: ``default_ttl``, ``shared_store`` (one creates in all processes), ``prefixes``,
    ``event_loops``.
    """


def _identity(value: Any) -> Any:
    return value


async def _all_raise(trial: Trial, calls: list["asyncio.Task[Any]"]) -> None:
    for call in calls:
        error = await trial.raises(_awaited(call), LookupError)
        trial.expect(str(error), "no such thing")


async def _awaited(call: Awaitable[Any]) -> Any:
    return await call
