"""The contract's rules for ``compare_and_set``, on which the locks of caches are built."""

import asyncio
from typing import Any

from taskiq_flow.exceptions import InvalidKeyError, InvalidTTLError, SerializationError
from taskiq_flow.pytest_plugin.contract.check import CallRecorder, RuleCheck, needs, rule
from taskiq_flow.pytest_plugin.contract.suite import Suite
from taskiq_flow.storage.base import ABSENT

__all__ = ["CompareAndSetRules"]

_CALLERS = 10


class CompareAndSetRules(Suite):
    """``compare_and_set`` stores only if the expected value is still there."""

    @needs("compare_and_set")
    @rule
    async def test_compare_and_set_stores_over_what_is_expected(self, check: RuleCheck) -> None:
        """``compare_and_set`` stores where the expected value is there, and returns True."""
        await check.storage.set("key", {"a": [1]})
        await check.storage.set("other", {"a": [1]})
        check.expect(await check.storage.compare_and_set("key", {"a": [1]}, {"b": (2,)}), True)
        check.expect(await check.storage.get("key"), {"b": (2,)})
        check.expect(await check.storage.compare_and_set("key", {"b": (2,)}, None), True)
        check.expect(await check.storage.compare_and_set("key", None, float("nan")), True)
        check.expect(await check.storage.compare_and_set("key", float("nan"), "end"), True, "nan is stored as nan")
        check.expect(await check.storage.get("key"), "end")
        check.expect(await check.storage.get("other"), {"a": [1]}, "another entry, which only looked the same")

    @needs("compare_and_set")
    @rule
    async def test_compare_and_set_leaves_what_is_not_expected(self, check: RuleCheck) -> None:
        """``compare_and_set`` changes nothing where another value is there, or none, and returns False."""
        check.expect(await check.storage.compare_and_set("key", "expected", "new"), False)
        check.expect(await check.storage.exists("key"), False)
        check.expect(await check.storage.compare_and_set("key", "expected", ABSENT), False)
        await check.storage.set("key", "another", ttl_seconds=check.ttl)
        check.expect(await check.storage.compare_and_set("key", "expected", "new"), False)
        check.expect(await check.storage.compare_and_set("key", "expected", ABSENT), False)
        check.expect(await check.storage.get("key"), "another")
        await check.pass_time(check.ttl)
        check.expect(await check.storage.exists("key"), False, "its expiry was to stay the same")

    @needs("compare_and_set")
    @rule
    async def test_compare_and_set_compares_what_is_stored(self, check: RuleCheck) -> None:
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
            await check.storage.set("key", stored)
            check.expect(await check.storage.compare_and_set("key", expected, "new"), False)
            check.expect(await check.storage.get("key"), stored)
        await check.storage.set("key", {1, 2, 3})
        check.expect(await check.storage.compare_and_set("key", {3, 2, 1}, "new"), True, "equal sets are the same")

    @needs("compare_and_set")
    @rule
    async def test_compare_and_set_where_nothing_is(self, check: RuleCheck) -> None:
        """``compare_and_set(key, ABSENT, value)`` stores where nothing is, and only there."""
        check.expect(await check.storage.compare_and_set("key", ABSENT, "first"), True)
        check.expect(await check.storage.compare_and_set("key", ABSENT, "second"), False)
        check.expect(await check.storage.get("key"), "first")
        await check.storage.delete("key")
        check.expect(await check.storage.compare_and_set("key", ABSENT, ABSENT), True)
        check.expect(await check.storage.exists("key"), False)
        check.expect(await check.storage.compare_and_set("key", ABSENT, None), True)
        check.expect(await check.storage.exists("key"), True)

    @needs("compare_and_set")
    @rule
    async def test_compare_and_set_removes(self, check: RuleCheck) -> None:
        """``compare_and_set(key, value, ABSENT)`` removes the entry if that value is there."""
        await check.storage.set("key", "value")
        check.expect(await check.storage.compare_and_set("key", "value", ABSENT), True)
        check.expect(await check.storage.exists("key"), False)
        check.expect(await check.storage.keys(), [])
        check.expect(await check.storage.compare_and_set("key", "value", ABSENT), False)

    @needs("compare_and_set")
    @rule
    async def test_compare_and_set_and_time(self, check: RuleCheck) -> None:
        """To ``compare_and_set``, an expired entry is not there, from the instant of its expiry on."""
        await check.storage.set("key", "old", ttl_seconds=check.ttl)
        await check.until_just_before(check.ttl)
        check.expect(await check.storage.compare_and_set("key", ABSENT, "new"), False)
        await check.until_expiry()
        check.expect(await check.storage.compare_and_set("key", "old", "new"), False)
        check.expect(await check.storage.compare_and_set("key", "old", ABSENT), False)
        check.expect(await check.storage.compare_and_set("key", ABSENT, "new"), True)
        check.expect(await check.storage.get("key"), "new")
        check.expect(await check.storage.cleanup(), 0)

    @needs("compare_and_set", "movable_time")
    @rule
    async def test_compare_and_set_removes_nothing_else(self, check: RuleCheck) -> None:
        """``compare_and_set`` leaves other entries to ``cleanup``, also those that have expired."""
        await check.storage.set("another", "old", ttl_seconds=1)
        await check.pass_time(2)
        check.expect(await check.storage.compare_and_set("key", ABSENT, "new"), True)
        check.expect(await check.storage.cleanup(), 1)

    @needs("compare_and_set")
    @rule
    async def test_compare_and_set_gives_a_life_of_its_own(self, check: RuleCheck) -> None:
        """What ``compare_and_set`` stores expires after ``ttl_seconds``, whatever the expiry of what was there."""
        await check.storage.set("longer", 1, ttl_seconds=check.ttl)
        await check.storage.set("shorter", 1)
        await check.pass_time(check.ttl / 2)
        check.expect(await check.storage.compare_and_set("longer", 1, 2), True)
        check.expect(await check.storage.compare_and_set("shorter", 1, 2, ttl_seconds=check.ttl), True)
        check.expect(await check.storage.compare_and_set("new", ABSENT, 2, ttl_seconds=check.ttl), True)
        await check.until_just_before(check.ttl)
        check.expect(await check.storage.keys(), ["longer", "new", "shorter"])
        await check.until_expiry()
        check.expect(await check.storage.keys(), ["longer"])

    @needs("compare_and_set", "entries")
    @rule
    async def test_compare_and_set_replaces_the_whole_entry(self, check: RuleCheck) -> None:
        """What ``compare_and_set`` stores is a new entry: created now, without metadata."""
        await check.storage.set("key", 1, ttl_seconds=check.ttl)
        await check.storage.compare_and_set("key", 1, 2)
        entry = check.expect_entry(await check.storage.get_entry("key"), "key")
        check.expect((entry.value, entry.expires_at, entry.metadata), (2, None, {}))

    @needs("compare_and_set")
    @rule
    async def test_of_many_claims_one_succeeds(self, check: RuleCheck) -> None:
        """Of any number that find nothing and store at once, one is told True, and its value is there."""
        for attempt in range(5):
            key = f"key:{attempt}"
            await _one_claims(check, key, [check.storage] * _CALLERS)

    @needs("compare_and_set", "shared_store")
    @rule
    async def test_of_claims_by_many_adapters_one_succeeds(self, check: RuleCheck) -> None:
        """Of any number of adapters that find nothing, or something expired, and store at once, one is told True."""
        adapters = [check.storage, *(check.another(f"adapter {number}") for number in range(1, 5))] * 2
        for attempt in range(5):
            key = f"key:{attempt}"
            await _one_claims(check, key, adapters)
            await check.storage.set(key, "old", ttl_seconds=check.ttl)
            await check.pass_time(check.ttl)
            await _one_claims(check, key, adapters)

    @needs("compare_and_set", "shared_store")
    @rule
    async def test_counters_lose_no_step(self, check: RuleCheck) -> None:
        """A counter that many adapters move at once, each from the value that it read, loses no step."""
        adapters = [check.storage, check.another(), check.another("third")]
        await check.storage.set("counter", 0)

        async def count(storage: CallRecorder) -> None:
            for _ in range(_CALLERS):
                is_done = False
                while not is_done:
                    was = await storage.get("counter")
                    is_done = await storage.compare_and_set("counter", was, was + 1)

        await asyncio.gather(*map(count, adapters))
        check.expect(await check.storage.get("counter"), len(adapters) * _CALLERS)

    @needs("compare_and_set", "namespaces")
    @rule
    async def test_compare_and_set_stays_in_its_namespace(self, check: RuleCheck) -> None:
        """``compare_and_set`` sees and changes nothing of another namespace."""
        other = check.another("other", namespace="other")
        await check.storage.set("key", "ours")
        check.expect(await other.compare_and_set("key", "ours", "theirs"), False)
        check.expect(await other.compare_and_set("key", ABSENT, "theirs"), True)
        check.expect(await other.compare_and_set("key", "theirs", ABSENT), True)
        check.expect(await check.storage.get("key"), "ours")

    @needs("compare_and_set")
    @rule
    async def test_compare_and_set_refuses_what_set_refuses(self, check: RuleCheck) -> None:
        """``compare_and_set`` refuses a bad key, time to live or value as ``set`` does, and changes nothing."""
        storage = check.storage
        await storage.set("key", "value")
        await check.raises(storage.compare_and_set("", ABSENT, 1), InvalidKeyError, ValueError)
        await check.raises(storage.compare_and_set("key", "value", 1, ttl_seconds=0), InvalidTTLError, ValueError)
        bad: Any
        for bad in (object(), {"a": [print]}):
            await check.raises(storage.compare_and_set("key", "value", bad), SerializationError, TypeError)
            await check.raises(storage.compare_and_set("key", bad, "new"), SerializationError, TypeError)
        check.expect(await storage.get("key"), "value")

    @needs("compare_and_set", "raw_access")
    @rule
    async def test_compare_and_set_over_damaged_data(self, check: RuleCheck) -> None:
        """Over damaged or foreign data ``compare_and_set`` raises SerializationError, and leaves it."""
        await check.storage.set("key", "value")
        before = await self.read_raw(check.adapter, "key") or b""
        if not await self.write_raw(check.adapter, "key", b"garbage"):
            return
        for expected in ("value", ABSENT):
            error = await check.raises(check.storage.compare_and_set("key", expected, "new"), SerializationError)
            if "'key'" not in str(error):
                check.fail(came_back=str(error), should_be="an error that names the key")
        check.expect(await self.read_raw(check.adapter, "key") != before, True)
        check.expect(await check.storage.exists("key"), True)


async def _one_claims(check: RuleCheck, key: str, callers: list[CallRecorder]) -> None:
    claims = (storage.compare_and_set(key, ABSENT, number) for number, storage in enumerate(callers))
    outcomes = await asyncio.gather(*claims)
    check.expect(sorted(outcomes), [False] * (len(callers) - 1) + [True])
    check.expect(await check.storage.get(key), outcomes.index(True))
