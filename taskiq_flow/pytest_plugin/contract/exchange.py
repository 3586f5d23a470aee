"""The rules for ``compare_and_set``, on which locks and single flight stand."""

import asyncio
from typing import Any

from taskiq_flow.exceptions import InvalidKeyError, InvalidTTLError, SerializationError
from taskiq_flow.pytest_plugin.contract.suite import Suite
from taskiq_flow.pytest_plugin.contract.trial import Trial, Witness, needs, rule
from taskiq_flow.storage.base import ABSENT

__all__ = ["ExchangeRules"]

_CALLERS = 10


class ExchangeRules(Suite):
    """``compare_and_set`` stores only where nobody else was quicker."""

    @needs("compare_and_set")
    @rule
    async def test_compare_and_set_stores_over_what_is_expected(self, trial: Trial) -> None:
        """``compare_and_set`` stores where the expected value is there, and returns True."""
        await trial.storage.set("key", {"a": [1]})
        await trial.storage.set("other", {"a": [1]})
        trial.expect(await trial.storage.compare_and_set("key", {"a": [1]}, {"b": (2,)}), True)
        trial.expect(await trial.storage.get("key"), {"b": (2,)})
        trial.expect(await trial.storage.compare_and_set("key", {"b": (2,)}, None), True)
        trial.expect(await trial.storage.compare_and_set("key", None, float("nan")), True)
        trial.expect(await trial.storage.compare_and_set("key", float("nan"), "end"), True, "nan is stored as nan")
        trial.expect(await trial.storage.get("key"), "end")
        trial.expect(await trial.storage.get("other"), {"a": [1]}, "another entry, which only looked the same")

    @needs("compare_and_set")
    @rule
    async def test_compare_and_set_leaves_what_is_not_expected(self, trial: Trial) -> None:
        """``compare_and_set`` changes nothing where another value is there, or none, and returns False."""
        trial.expect(await trial.storage.compare_and_set("key", "expected", "new"), False)
        trial.expect(await trial.storage.exists("key"), False)
        trial.expect(await trial.storage.compare_and_set("key", "expected", ABSENT), False)
        await trial.storage.set("key", "another", ttl_seconds=trial.life)
        trial.expect(await trial.storage.compare_and_set("key", "expected", "new"), False)
        trial.expect(await trial.storage.compare_and_set("key", "expected", ABSENT), False)
        trial.expect(await trial.storage.get("key"), "another")
        await trial.pass_time(trial.life)
        trial.expect(await trial.storage.exists("key"), False, "its life was to stay the same")

    @needs("compare_and_set")
    @rule
    async def test_compare_and_set_compares_what_is_stored(self, trial: Trial) -> None:
        """Values are compared as they are stored: type, case and blanks count."""
        for stored, expected in (
            (1, True),
            (1, 1.0),
            (0.0, -0.0),
            ("text", "Text"),
            ("text", "text "),
            ("e\u0301", "é"),
            ((1,), [1]),
            (None, ABSENT),
            (False, ABSENT),
            ("", ABSENT),
            ([], ABSENT),
        ):
            await trial.storage.set("key", stored)
            trial.expect(await trial.storage.compare_and_set("key", expected, "new"), False)
            trial.expect(await trial.storage.get("key"), stored)
        await trial.storage.set("key", {1, 2, 3})
        trial.expect(await trial.storage.compare_and_set("key", {3, 2, 1}, "new"), True, "equal sets are the same")

    @needs("compare_and_set")
    @rule
    async def test_compare_and_set_where_nothing_is(self, trial: Trial) -> None:
        """``compare_and_set(key, ABSENT, value)`` stores where nothing is, and only there."""
        trial.expect(await trial.storage.compare_and_set("key", ABSENT, "first"), True)
        trial.expect(await trial.storage.compare_and_set("key", ABSENT, "second"), False)
        trial.expect(await trial.storage.get("key"), "first")
        await trial.storage.delete("key")
        trial.expect(await trial.storage.compare_and_set("key", ABSENT, ABSENT), True)
        trial.expect(await trial.storage.exists("key"), False)
        trial.expect(await trial.storage.compare_and_set("key", ABSENT, None), True)
        trial.expect(await trial.storage.exists("key"), True)

    @needs("compare_and_set")
    @rule
    async def test_compare_and_set_removes(self, trial: Trial) -> None:
        """``compare_and_set(key, value, ABSENT)`` removes the entry if that value is there."""
        await trial.storage.set("key", "value")
        trial.expect(await trial.storage.compare_and_set("key", "value", ABSENT), True)
        trial.expect(await trial.storage.exists("key"), False)
        trial.expect(await trial.storage.keys(), [])
        trial.expect(await trial.storage.compare_and_set("key", "value", ABSENT), False)

    @needs("compare_and_set")
    @rule
    async def test_compare_and_set_and_time(self, trial: Trial) -> None:
        """To ``compare_and_set``, an expired entry is not there, from the instant of its end on."""
        await trial.storage.set("key", "old", ttl_seconds=trial.life)
        await trial.until_just_before(trial.life)
        trial.expect(await trial.storage.compare_and_set("key", ABSENT, "new"), False)
        await trial.until_the_end()
        trial.expect(await trial.storage.compare_and_set("key", "old", "new"), False)
        trial.expect(await trial.storage.compare_and_set("key", "old", ABSENT), False)
        trial.expect(await trial.storage.compare_and_set("key", ABSENT, "new"), True)
        trial.expect(await trial.storage.get("key"), "new")
        trial.expect(await trial.storage.cleanup(), 0)

    @needs("compare_and_set", "movable_time")
    @rule
    async def test_compare_and_set_removes_nothing_else(self, trial: Trial) -> None:
        """``compare_and_set`` leaves other entries to ``cleanup``, also those that have expired."""
        await trial.storage.set("another", "old", ttl_seconds=1)
        await trial.pass_time(2)
        trial.expect(await trial.storage.compare_and_set("key", ABSENT, "new"), True)
        trial.expect(await trial.storage.cleanup(), 1)

    @needs("compare_and_set")
    @rule
    async def test_compare_and_set_gives_a_life_of_its_own(self, trial: Trial) -> None:
        """What ``compare_and_set`` stores lives ``ttl_seconds``, whatever was left of the life of what was there."""
        await trial.storage.set("longer", 1, ttl_seconds=trial.life)
        await trial.storage.set("shorter", 1)
        await trial.pass_time(trial.life / 2)
        trial.expect(await trial.storage.compare_and_set("longer", 1, 2), True)
        trial.expect(await trial.storage.compare_and_set("shorter", 1, 2, ttl_seconds=trial.life), True)
        trial.expect(await trial.storage.compare_and_set("new", ABSENT, 2, ttl_seconds=trial.life), True)
        await trial.until_just_before(trial.life)
        trial.expect(await trial.storage.keys(), ["longer", "new", "shorter"])
        await trial.until_the_end()
        trial.expect(await trial.storage.keys(), ["longer"])

    @needs("compare_and_set", "entries")
    @rule
    async def test_compare_and_set_replaces_the_whole_entry(self, trial: Trial) -> None:
        """What ``compare_and_set`` stores is a new entry: created now, without metadata."""
        await trial.storage.set("key", 1, ttl_seconds=trial.life)
        await trial.storage.compare_and_set("key", 1, 2)
        entry = trial.expect_entry(await trial.storage.get_entry("key"), "key")
        trial.expect((entry.value, entry.expires_at, entry.metadata), (2, None, {}))

    @needs("compare_and_set")
    @rule
    async def test_of_many_claims_one_succeeds(self, trial: Trial) -> None:
        """Of any number that find nothing and store at once, one is told True, and its value is there."""
        for attempt in range(5):
            key = f"key:{attempt}"
            await _one_claims(trial, key, [trial.storage] * _CALLERS)

    @needs("compare_and_set", "shared_store")
    @rule
    async def test_of_claims_by_many_adapters_one_succeeds(self, trial: Trial) -> None:
        """Of any number of adapters that find nothing, or something expired, and store at once, one is told True."""
        adapters = [trial.storage, *(trial.another(f"adapter {number}") for number in range(1, 5))] * 2
        for attempt in range(5):
            key = f"key:{attempt}"
            await _one_claims(trial, key, adapters)
            await trial.storage.set(key, "old", ttl_seconds=trial.life)
            await trial.pass_time(trial.life)
            await _one_claims(trial, key, adapters)

    @needs("compare_and_set", "shared_store")
    @rule
    async def test_counters_lose_no_step(self, trial: Trial) -> None:
        """A counter that many adapters move at once, each from the value that it read, loses no step."""
        adapters = [trial.storage, trial.another(), trial.another("third")]
        await trial.storage.set("counter", 0)

        async def count(storage: Witness) -> None:
            for _ in range(_CALLERS):
                is_done = False
                while not is_done:
                    was = await storage.get("counter")
                    is_done = await storage.compare_and_set("counter", was, was + 1)

        await asyncio.gather(*map(count, adapters))
        trial.expect(await trial.storage.get("counter"), len(adapters) * _CALLERS)

    @needs("compare_and_set", "namespaces")
    @rule
    async def test_compare_and_set_stays_in_its_namespace(self, trial: Trial) -> None:
        """``compare_and_set`` sees and changes nothing of another namespace."""
        other = trial.another("other", namespace="other")
        await trial.storage.set("key", "ours")
        trial.expect(await other.compare_and_set("key", "ours", "theirs"), False)
        trial.expect(await other.compare_and_set("key", ABSENT, "theirs"), True)
        trial.expect(await other.compare_and_set("key", "theirs", ABSENT), True)
        trial.expect(await trial.storage.get("key"), "ours")

    @needs("compare_and_set")
    @rule
    async def test_compare_and_set_refuses_what_set_refuses(self, trial: Trial) -> None:
        """``compare_and_set`` refuses a bad key, time to live or value as ``set`` does, and changes nothing."""
        storage = trial.storage
        await storage.set("key", "value")
        await trial.raises(storage.compare_and_set("", ABSENT, 1), InvalidKeyError, ValueError)
        await trial.raises(storage.compare_and_set("key", "value", 1, ttl_seconds=0), InvalidTTLError, ValueError)
        bad: Any
        for bad in (object(), {"a": [print]}):
            await trial.raises(storage.compare_and_set("key", "value", bad), SerializationError, TypeError)
            await trial.raises(storage.compare_and_set("key", bad, "new"), SerializationError, TypeError)
        trial.expect(await storage.get("key"), "value")

    @needs("compare_and_set", "raw_access")
    @rule
    async def test_compare_and_set_over_damaged_data(self, trial: Trial) -> None:
        """Over damaged or foreign data ``compare_and_set`` raises SerializationError, and leaves it."""
        await trial.storage.set("key", "value")
        before = await self.read_raw(trial.adapter, "key") or b""
        if not await self.write_raw(trial.adapter, "key", b"garbage"):
            return
        for expected in ("value", ABSENT):
            error = await trial.raises(trial.storage.compare_and_set("key", expected, "new"), SerializationError)
            if "'key'" not in str(error):
                trial.fail(came_back=str(error), should_be="an error that names the key")
        trial.expect(await self.read_raw(trial.adapter, "key") != before, True)
        trial.expect(await trial.storage.exists("key"), True)


async def _one_claims(trial: Trial, key: str, callers: list[Witness]) -> None:
    claims = (storage.compare_and_set(key, ABSENT, number) for number, storage in enumerate(callers))
    outcomes = await asyncio.gather(*claims)
    trial.expect(sorted(outcomes), [False] * (len(callers) - 1) + [True])
    trial.expect(await trial.storage.get(key), outcomes.index(True))
