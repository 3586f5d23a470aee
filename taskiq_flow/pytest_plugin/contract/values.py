"""The contract's rules for values."""

import copy
import json
import os
import pickle
from typing import Any

import pytest

from taskiq_flow.exceptions import SerializationError
from taskiq_flow.pytest_plugin.contract.likeness import shown
from taskiq_flow.pytest_plugin.contract.samples import REFUSED, VALUES
from taskiq_flow.pytest_plugin.contract.suite import Suite
from taskiq_flow.pytest_plugin.contract.trial import Trial, needs, rule

__all__ = ["DamageRules", "ValueRules"]


class ValueRules(Suite):
    """What you get is what you set."""

    @pytest.mark.parametrize("kind", list(VALUES))
    @rule
    async def test_what_you_get_is_what_you_set(self, trial: Trial, kind: str) -> None:
        """``get`` returns a value equal to, and of the same type as, the one that was set."""
        for value in VALUES[kind]:
            await trial.storage.set("key", value)
            trial.expect(await trial.storage.get("key"), value)

    @rule
    async def test_none_may_be_stored(self, trial: Trial) -> None:
        """None may be stored: get returns None, exists returns True, and keys lists it."""
        await trial.storage.set("key", None)
        trial.expect(await trial.storage.get("key"), None)
        trial.expect(await trial.storage.exists("key"), True)
        trial.expect(await trial.storage.keys(), ["key"])
        trial.expect(await trial.storage.delete("key"), True)
        trial.expect(await trial.storage.exists("key"), False)

    @rule
    async def test_exists_does_not_depend_on_the_value(self, trial: Trial) -> None:
        """``exists`` returns whether a live entry is there, whatever its value."""
        values: list[Any] = [None, False, 0, 0.0, "", [], {}, (), set(), b""]
        for value in values:
            await trial.storage.set("key", value)
            trial.expect(await trial.storage.exists("key"), True, f"the value is {shown(value)}")
            trial.expect(await trial.storage.keys(), ["key"], f"the value is {shown(value)}")

    @rule
    async def test_set_replaces_the_value(self, trial: Trial) -> None:
        """``set`` replaces what was there, whatever the types of the two."""
        for value in ({"a": 1}, {"b": 2}, [1], "text", None, (1,), {"a": 1}):
            await trial.storage.set("key", value)
            trial.expect(await trial.storage.get("key"), value)
        trial.expect(await trial.storage.keys(), ["key"])

    @pytest.mark.parametrize("kind", list(REFUSED))
    @rule
    async def test_other_values_are_refused(self, trial: Trial, kind: str) -> None:
        """Anything that would not come back as it is: SerializationError, which is a TypeError; at the top and deep
        inside. What was stored before stays.
        """
        await trial.storage.set("key", "before")
        for value in REFUSED[kind]:
            await trial.raises(trial.storage.set("key", value), SerializationError, TypeError)
            await trial.raises(trial.storage.set("new", {"rows": [1, (value,)]}), SerializationError, TypeError)
        trial.expect(await trial.storage.get("key"), "before")
        trial.expect(await trial.storage.keys(), ["key"])

    @rule
    async def test_a_refusal_names_key_and_path(self, trial: Trial) -> None:
        """The error for a value that is refused names the key and the path to the offending part."""
        value = {"invoices": [{"number": 1}, {"lines": ({"buyer": object()},)}]}
        error = await trial.raises(trial.storage.set("the:key", value), SerializationError)
        rest = message = str(error)
        for part in ("the:key", "invoices", "1", "lines", "0", "buyer"):
            if part not in rest:
                trial.fail(came_back=message, should_be="a message with the:key … invoices … 1 … lines … 0 … buyer")
            rest = rest.partition(part)[2]

    @rule
    async def test_a_refused_value_leaves_the_expiry_as_it_was(self, trial: Trial) -> None:
        """A value that is refused changes nothing of what was stored, its time to live included."""
        await trial.storage.set("key", "before", ttl_seconds=trial.life)
        await trial.raises(trial.storage.set("key", object(), ttl_seconds=trial.life * 100), SerializationError)
        await trial.until_just_before(trial.life)
        trial.expect(await trial.storage.get("key"), "before")
        await trial.until_the_end()
        trial.expect(await trial.storage.get("key"), None)

    @rule
    async def test_changing_what_was_set_changes_nothing_stored(self, trial: Trial) -> None:
        """A stored value is a copy: changing the object that was set changes nothing stored."""
        value: dict[str, Any] = {"list": [1], "dict": {"a": {2}}, "tuple": ([3],)}
        before = copy.deepcopy(value)
        await trial.storage.set("key", value)
        value["list"].append("changed")
        value["dict"]["a"].add("changed")
        value["tuple"][0].append("changed")
        value["new"] = "changed"
        trial.expect(await trial.storage.get("key"), before)

    @rule
    async def test_changing_what_get_returned_changes_nothing_stored(self, trial: Trial) -> None:
        """A value that get returned is a copy: changing it changes nothing stored."""
        before = {"list": [1], "dict": {"a": {2}}}
        await trial.storage.set("key", copy.deepcopy(before))
        for _ in range(2):
            value: Any = await trial.storage.get("key")
            trial.expect(value, before)
            value["list"].append("changed")
            value["dict"]["a"].clear()
            value["new"] = "changed"

    @needs("raw_access")
    @rule
    async def test_json_data_is_stored_as_plain_json(self, trial: Trial) -> None:
        """JSON data is stored as plain JSON text, so that a person can read it with redis-cli or SQL."""
        value = {"name": "Grüße 世界", "rows": [1, 2.5, True, None, {"a": "b"}]}
        await trial.storage.set("key", value)
        raw = await self.read_raw(trial.adapter, "key")
        text = (raw or b"").decode(errors="replace")
        try:
            found = json.loads(text)
        except ValueError:
            trial.fail(came_back=f"stored as {shown(raw)}", should_be="JSON text")
        # The value may lie in an envelope, beside its times.
        if value not in (found, *(found.values() if isinstance(found, dict) else ())):
            trial.fail(
                came_back=f"stored as {shown(raw)}", should_be=f"the JSON of {shown(value)}, or that in an object"
            )
        if "Grüße 世界" not in text:
            trial.fail(came_back=f"stored as {shown(raw)}", should_be="text that is not escaped")


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
    async def test_damaged_data_is_an_error_that_names_the_key(self, trial: Trial, kind: str) -> None:
        """Damaged or foreign data under a key: get raises SerializationError that names the key; never a wrong value,
        never a crash of another kind, and nothing is executed.
        """
        await trial.storage.set("the:key", {"a": [1, 2]})
        for damage in self._DAMAGE[kind]:
            if not await self.write_raw(trial.adapter, "the:key", damage):
                continue  # the store itself takes no such data
            trial.transcript.append(f"(what is stored is now: {shown(damage, 60)})")
            error = await trial.raises(trial.storage.get("the:key"), SerializationError)
            if "the:key" not in str(error):
                trial.fail(came_back=f"SerializationError: {error}", should_be="a message that names the:key")

    @needs("raw_access")
    @rule
    async def test_a_cut_off_record_is_never_a_wrong_value(self, trial: Trial) -> None:
        """Damaged data under a key is a SerializationError, wherever a record was cut off."""
        await trial.storage.set("key", {"list": [12, 34], "text": "ab"})
        whole = await self.read_raw(trial.adapter, "key") or b""
        for length in range(len(whole)):
            if await self.write_raw(trial.adapter, "key", whole[:length]):
                await trial.raises(trial.storage.get("key"), SerializationError, note=f"cut off: {whole[:length]!r}")

    @needs("raw_access")
    @rule
    async def test_damaged_data_can_be_listed_replaced_and_deleted(self, trial: Trial) -> None:
        """Damaged data under one key harms no other: keys and cleanup work, set heals it, delete removes it."""
        for key in ("a", "b"):
            await trial.storage.set(key, "good")
            await self.write_raw(trial.adapter, key, b'{"damaged')
        await trial.storage.set("c", "good")
        trial.expect(await trial.storage.keys(), ["a", "b", "c"])
        trial.expect(await trial.storage.cleanup(), 0)
        trial.expect(await trial.storage.exists("a"), True)
        trial.expect(await trial.storage.get("c"), "good")
        await trial.storage.set("a", "healed")
        trial.expect(await trial.storage.get("a"), "healed")
        trial.expect(await trial.storage.delete("b"), True)
        trial.expect(await trial.storage.keys(), ["a", "c"])
