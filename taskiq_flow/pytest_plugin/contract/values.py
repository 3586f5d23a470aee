"""The contract's rules for values."""

import copy
import json
import os
import pickle
from typing import Any

import pytest

from taskiq_flow.exceptions import SerializationError
from taskiq_flow.pytest_plugin.contract.check import RuleCheck, needs, rule
from taskiq_flow.pytest_plugin.contract.comparison import shown
from taskiq_flow.pytest_plugin.contract.samples import REFUSED, VALUES
from taskiq_flow.pytest_plugin.contract.suite import Suite

__all__ = ["DamageRules", "ValueRules"]


class ValueRules(Suite):
    """What you get is what you set."""

    @pytest.mark.parametrize("kind", list(VALUES))
    @rule
    async def test_what_you_get_is_what_you_set(self, check: RuleCheck, kind: str) -> None:
        """``get`` returns a value equal to, and of the same type as, the one that was set."""
        for value in VALUES[kind]:
            await check.storage.set("key", value)
            check.expect(await check.storage.get("key"), value)

    @rule
    async def test_none_may_be_stored(self, check: RuleCheck) -> None:
        """None may be stored: get returns None, exists returns True, and keys lists it."""
        await check.storage.set("key", None)
        check.expect(await check.storage.get("key"), None)
        check.expect(await check.storage.exists("key"), True)
        check.expect(await check.storage.keys(), ["key"])
        check.expect(await check.storage.delete("key"), True)
        check.expect(await check.storage.exists("key"), False)

    @rule
    async def test_exists_does_not_depend_on_the_value(self, check: RuleCheck) -> None:
        """``exists`` returns whether a live entry is there, whatever its value."""
        values: list[Any] = [None, False, 0, 0.0, "", [], {}, (), set(), b""]
        for value in values:
            await check.storage.set("key", value)
            check.expect(await check.storage.exists("key"), True, f"the value is {shown(value)}")
            check.expect(await check.storage.keys(), ["key"], f"the value is {shown(value)}")

    @rule
    async def test_set_replaces_the_value(self, check: RuleCheck) -> None:
        """``set`` replaces what was there, whatever the types of the two."""
        for value in ({"a": 1}, {"b": 2}, [1], "text", None, (1,), {"a": 1}):
            await check.storage.set("key", value)
            check.expect(await check.storage.get("key"), value)
        check.expect(await check.storage.keys(), ["key"])

    @pytest.mark.parametrize("kind", list(REFUSED))
    @rule
    async def test_other_values_are_refused(self, check: RuleCheck, kind: str) -> None:
        """Anything that would not come back as it is: SerializationError, which is a TypeError; at the top and deep
        inside. What was stored before stays.
        """
        await check.storage.set("key", "before")
        for value in REFUSED[kind]:
            await check.raises(check.storage.set("key", value), SerializationError, TypeError)
            await check.raises(check.storage.set("new", {"rows": [1, (value,)]}), SerializationError, TypeError)
        check.expect(await check.storage.get("key"), "before")
        check.expect(await check.storage.keys(), ["key"])

    @rule
    async def test_a_refusal_names_key_and_path(self, check: RuleCheck) -> None:
        """The error for a value that is refused names the key and the path to the offending part."""
        value = {"invoices": [{"number": 1}, {"lines": ({"buyer": object()},)}]}
        error = await check.raises(check.storage.set("the:key", value), SerializationError)
        rest = message = str(error)
        for part in ("the:key", "invoices", "1", "lines", "0", "buyer"):
            if part not in rest:
                check.fail(came_back=message, should_be="a message with the:key … invoices … 1 … lines … 0 … buyer")
            rest = rest.partition(part)[2]

    @rule
    async def test_a_refused_value_leaves_the_expiry_as_it_was(self, check: RuleCheck) -> None:
        """A value that is refused changes nothing of what was stored, its time to live included."""
        await check.storage.set("key", "before", ttl_seconds=check.ttl)
        await check.raises(check.storage.set("key", object(), ttl_seconds=check.ttl * 100), SerializationError)
        await check.until_just_before(check.ttl)
        check.expect(await check.storage.get("key"), "before")
        await check.until_expiry()
        check.expect(await check.storage.get("key"), None)

    @rule
    async def test_changing_what_was_set_changes_nothing_stored(self, check: RuleCheck) -> None:
        """A stored value is a copy: changing the object that was set changes nothing stored."""
        value: dict[str, Any] = {"list": [1], "dict": {"a": {2}}, "tuple": ([3],)}
        before = copy.deepcopy(value)
        await check.storage.set("key", value)
        value["list"].append("changed")
        value["dict"]["a"].add("changed")
        value["tuple"][0].append("changed")
        value["new"] = "changed"
        check.expect(await check.storage.get("key"), before)

    @rule
    async def test_changing_what_get_returned_changes_nothing_stored(self, check: RuleCheck) -> None:
        """A value that get returned is a copy: changing it changes nothing stored."""
        before = {"list": [1], "dict": {"a": {2}}}
        await check.storage.set("key", copy.deepcopy(before))
        for _ in range(2):
            value: Any = await check.storage.get("key")
            check.expect(value, before)
            value["list"].append("changed")
            value["dict"]["a"].clear()
            value["new"] = "changed"

    @needs("raw_access")
    @rule
    async def test_json_data_is_stored_as_plain_json(self, check: RuleCheck) -> None:
        """JSON data is stored as plain JSON text, so that a person can read it with redis-cli or SQL."""
        value = {"name": "Grüße 世界", "rows": [1, 2.5, True, None, {"a": "b"}]}
        await check.storage.set("key", value)
        raw = await self.read_raw(check.adapter, "key")
        text = (raw or b"").decode(errors="replace")
        try:
            found = json.loads(text)
        except ValueError:
            check.fail(came_back=f"stored as {shown(raw)}", should_be="JSON text")
        # The value may lie in an envelope, beside its times.
        if value not in (found, *(found.values() if isinstance(found, dict) else ())):
            check.fail(
                came_back=f"stored as {shown(raw)}", should_be=f"the JSON of {shown(value)}, or that in an object"
            )
        if "Grüße 世界" not in text:
            check.fail(came_back=f"stored as {shown(raw)}", should_be="text that is not escaped")


class DamageRules(Suite):
    """What an adapter makes of data that it did not write."""

    _DAMAGE: dict[str, list[bytes]] = {  # noqa: RUF012 - a table
        "garbage": [b"", b" ", b"hello", b"\x00", b"\xff\xfe\x00\x01", b'{"a": 1} {"b": 2}'],
        "half a record": [
            b'{"expires_at": null, "created_at": 17',
            b'{"expires_at": null, "created_at": 1700000000000, "metadata": {}, "value": {"a": ',
            b'{"expires_at": null, "created_at": 1700000000000, "metadata": {}}]',
        ],
        "brackets, 100,000 deep": [b"[" * 100_000, b'{"a":' * 100_000],
        "pickles": [pickle.dumps(os.getpid), pickle.dumps([1]), pickle.dumps("text", protocol=0)],
        "tags that are none": [
            b'{"$type": "os.system", "value": "true"}',
            b'{"$type": "decimal", "value": "one"}',
            b'{"$type": "decimal", "value": 1}',
            b'{"$type": "datetime"}',
            b'{"$type": "tuple", "value": "abc"}',
            b'{"$type": "set", "value": [[]]}',
            b'{"$type": "date", "value": "2026-02-30"}',
            b'{"$type": "timedelta", "value": [1000000000000, 0, 0]}',
        ],
    }

    @needs("raw_access")
    @pytest.mark.parametrize("kind", list(_DAMAGE))
    @rule
    async def test_damaged_data_is_an_error_that_names_the_key(self, check: RuleCheck, kind: str) -> None:
        """Damaged or foreign data under a key: get raises SerializationError that names the key; never a wrong value,
        never a crash of another kind, and nothing is executed.
        """
        await check.storage.set("the:key", {"a": [1, 2]})
        for damage in self._DAMAGE[kind]:
            if not await self.write_raw(check.adapter, "the:key", damage):
                continue  # the store itself takes no such data
            check.transcript.append(f"(what is stored is now: {shown(damage, 60)})")
            error = await check.raises(check.storage.get("the:key"), SerializationError)
            if "the:key" not in str(error):
                check.fail(came_back=f"SerializationError: {error}", should_be="a message that names the:key")

    @needs("raw_access")
    @rule
    async def test_a_cut_off_record_is_never_a_wrong_value(self, check: RuleCheck) -> None:
        """Damaged data under a key is a SerializationError, wherever a record was cut off."""
        await check.storage.set("key", {"list": [12, 34], "text": "ab"})
        whole = await self.read_raw(check.adapter, "key") or b""
        for length in range(len(whole)):
            if await self.write_raw(check.adapter, "key", whole[:length]):
                await check.raises(check.storage.get("key"), SerializationError, note=f"cut off: {whole[:length]!r}")

    @needs("raw_access")
    @rule
    async def test_damaged_data_can_be_listed_replaced_and_deleted(self, check: RuleCheck) -> None:
        """Damaged data under one key harms no other: keys and cleanup work, set heals it, delete removes it."""
        for key in ("a", "b"):
            await check.storage.set(key, "good")
            await self.write_raw(check.adapter, key, b'{"damaged')
        await check.storage.set("c", "good")
        check.expect(await check.storage.keys(), ["a", "b", "c"])
        check.expect(await check.storage.cleanup(), 0)
        check.expect(await check.storage.exists("a"), True)
        check.expect(await check.storage.get("c"), "good")
        await check.storage.set("a", "healed")
        check.expect(await check.storage.get("a"), "healed")
        check.expect(await check.storage.delete("b"), True)
        check.expect(await check.storage.keys(), ["a", "c"])
