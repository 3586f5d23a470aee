"""The cache contract's rules for values and keys."""

import asyncio
from functools import partial
from typing import Any

import pytest

from taskiq_flow.exceptions import InvalidKeyError, SerializationError
from taskiq_flow.pytest_plugin.contract.cache.suite import CacheSuite, Creator
from taskiq_flow.pytest_plugin.contract.check import RuleCheck, rule
from taskiq_flow.pytest_plugin.contract.samples import ILLEGAL_KEYS, LEGAL_KEYS, REFUSED, VALUES

__all__ = ["CacheValueRules"]


class CacheValueRules(CacheSuite):
    """What you get is what was set or created."""

    @rule
    async def test_get_of_a_missing_key_returns_the_default(self, check: RuleCheck) -> None:
        """``get`` of a key that is not there returns None, or the default that is asked for."""
        check.expect(await check.cache.get("key"), None)
        check.expect(await check.cache.get("key", "default"), "default")
        check.expect(await check.cache.get("key", default=0), 0)

    @pytest.mark.parametrize("kind", list(VALUES))
    @rule
    async def test_what_you_get_is_what_you_set(self, check: RuleCheck, kind: str) -> None:
        """Every way to a value gives one equal to, and of the same type as, the one that was set or created."""
        for number, value in enumerate(VALUES[kind]):
            await check.cache.set("key", value)
            check.expect(await check.cache.get("key", "default"), value)
            check.expect(await check.cache.get_or_create(f"created:{number}", partial(_identity, value)), value)

    @rule
    async def test_a_cached_none_is_a_hit(self, check: RuleCheck) -> None:
        """None is a value like any other: it is a hit."""
        await check.cache.set("key", None)
        check.expect(await check.cache.get("key", "default"), None)
        check.expect(await check.cache.get_or_create("key", Creator("another")), None)
        check.expect(await check.cache.get_or_create("created", Creator(None)), None)
        check.expect(await check.cache.get("created", "default"), None)

    @rule
    async def test_values_are_copies(self, check: RuleCheck) -> None:
        """A value is a copy: what is done to one that was set, created or given changes no other."""
        value = {"list": [1]}
        await check.cache.set("key", value)
        value["list"].append(2)
        (await check.cache.get("key"))["list"].append(3)
        check.expect(await check.cache.get("key"), {"list": [1]})
        made = {"list": [1]}
        creator = Creator(made, held=True)
        calls = [asyncio.ensure_future(check.cache.get_or_create("created", creator)) for _ in range(3)]
        await creator.begun.wait()
        creator.release()
        given = await asyncio.gather(*calls)
        made["list"].append(2)
        given[0]["list"].append(3)
        check.expect(given[1:], [{"list": [1]}, {"list": [1]}])
        check.expect(await check.cache.get("created"), {"list": [1]})

    @pytest.mark.parametrize("kind", list(REFUSED))
    @rule
    async def test_other_values_are_refused(self, check: RuleCheck, kind: str) -> None:
        """A value that would not come back as it is is refused, and the value before it stays."""
        for value in REFUSED[kind]:
            await check.cache.set("key", "before")
            await check.raises(check.cache.set("key", value), SerializationError, TypeError)
            check.expect(await check.cache.get("key"), "before")
            creating = check.cache.get_or_create("created", partial(_identity, value))
            await check.raises(creating, SerializationError, TypeError)
            check.expect(await check.cache.get("created", "nothing"), "nothing")

    @rule
    async def test_keys_are_equal_byte_for_byte(self, check: RuleCheck) -> None:
        """Keys are equal byte for byte, and every key that is legal for a storage is legal for a cache."""
        for key in LEGAL_KEYS:
            await check.cache.set(key, key)
        for key in LEGAL_KEYS:
            check.expect(await check.cache.get(key), key)
        check.expect(await check.cache.clear(), len(LEGAL_KEYS))

    @pytest.mark.parametrize("kind", list(ILLEGAL_KEYS))
    @rule
    async def test_an_illegal_key_is_refused(self, check: RuleCheck, kind: str) -> None:
        """A key that no storage could hold is refused by every method, before anything is created."""
        key, creator = ILLEGAL_KEYS[kind], Creator(1)
        for call in (
            check.cache.get(key),
            check.cache.set(key, 1),
            check.cache.get_or_create(key, creator),
            check.cache.invalidate(key),
        ):
            await check.raises(call, InvalidKeyError, ValueError)
        check.expect(creator.calls, 0)


def _identity(value: Any) -> Any:
    return value
