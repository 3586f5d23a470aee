"""The contract's rules for keys and namespaces."""

from datetime import timedelta
from typing import Any

from taskiq_flow.exceptions import InvalidKeyError
from taskiq_flow.pytest_plugin.contract.check import RuleCheck, needs, rule
from taskiq_flow.pytest_plugin.contract.samples import ILLEGAL_KEYS, LEGAL_KEYS, NAMESPACES, TextEnum
from taskiq_flow.pytest_plugin.contract.suite import Suite
from taskiq_flow.storage.entry import StorageEntry

__all__ = ["KeyRules", "NamespaceRules"]


class KeyRules(Suite):
    """Which keys are legal, and which are equal."""

    @rule
    async def test_a_new_storage_is_empty(self, check: RuleCheck) -> None:
        """Nothing is there that was not stored. (The fixture must give each test an empty storage.)"""
        check.expect(await check.storage.keys(), [])
        check.expect(await check.storage.get("key"), None)
        check.expect(await check.storage.exists("key"), False)
        check.expect(await check.storage.delete("key"), False)
        check.expect(await check.storage.cleanup(), 0)

    @rule
    async def test_delete_removes_an_entry_and_says_so_once(self, check: RuleCheck) -> None:
        """``delete`` removes the entry under the key and returns whether a live one was there."""
        await check.storage.set("key", 1)
        await check.storage.set("other", 2)
        check.expect(await check.storage.delete("key"), True)
        check.expect(await check.storage.delete("key"), False)
        check.expect(await check.storage.get("key"), None)
        check.expect(await check.storage.exists("key"), False)
        check.expect(await check.storage.keys(), ["other"])

    @rule
    async def test_illegal_keys_are_refused_by_get(self, check: RuleCheck) -> None:
        """A key is a str, not empty, valid UTF-8 of at most 1,024 bytes, without NUL; else get raises
        InvalidKeyError, which is a ValueError.
        """
        for description, key in ILLEGAL_KEYS.items():
            await check.raises(check.storage.get(key), InvalidKeyError, ValueError, note=f"the key: {description}")

    @rule
    async def test_illegal_keys_are_refused_by_set(self, check: RuleCheck) -> None:
        """A key is a str, not empty, valid UTF-8 of at most 1,024 bytes, without NUL; else set raises
        InvalidKeyError, which is a ValueError, and stores nothing.
        """
        for description, key in ILLEGAL_KEYS.items():
            await check.raises(check.storage.set(key, 1), InvalidKeyError, ValueError, note=f"the key: {description}")
        check.expect(await check.storage.keys(), [])

    @rule
    async def test_illegal_keys_are_refused_by_delete(self, check: RuleCheck) -> None:
        """A key is a str, not empty, valid UTF-8 of at most 1,024 bytes, without NUL; else delete raises
        InvalidKeyError, which is a ValueError.
        """
        for description, key in ILLEGAL_KEYS.items():
            await check.raises(check.storage.delete(key), InvalidKeyError, ValueError, note=f"the key: {description}")

    @rule
    async def test_illegal_keys_are_refused_by_exists(self, check: RuleCheck) -> None:
        """A key is a str, not empty, valid UTF-8 of at most 1,024 bytes, without NUL; else exists raises
        InvalidKeyError, which is a ValueError.
        """
        for description, key in ILLEGAL_KEYS.items():
            await check.raises(check.storage.exists(key), InvalidKeyError, ValueError, note=f"the key: {description}")

    @needs("entries")
    @rule
    async def test_illegal_keys_are_refused_by_get_entry_and_set_entry(self, check: RuleCheck) -> None:
        """A key is a str, not empty, valid UTF-8 of at most 1,024 bytes, without NUL; else get_entry and set_entry
        raise InvalidKeyError, which is a ValueError.
        """
        for description, key in ILLEGAL_KEYS.items():
            note = f"the key: {description}"
            await check.raises(check.storage.get_entry(key), InvalidKeyError, ValueError, note=note)
            entry = StorageEntry(key, 1)
            await check.raises(check.storage.set_entry(entry), InvalidKeyError, ValueError, note=note)
        check.expect(await check.storage.keys(), [])

    @rule
    async def test_keys_of_up_to_1024_bytes_are_legal(self, check: RuleCheck) -> None:
        """A key may be 1,024 bytes long in UTF-8, whatever its characters."""
        for key in ("k" * 1024, "é" * 512, "😀" * 256, "%" * 1024, " " * 1024):
            await check.storage.set(key, len(key))
            check.expect(await check.storage.get(key), len(key))
            check.expect(await check.storage.keys(), [key])
            check.expect(await check.storage.delete(key), True)

    @rule
    async def test_keys_are_equal_byte_for_byte(self, check: RuleCheck) -> None:
        """Keys are equal byte for byte: case, accents, blanks, emoji and signs that mean something elsewhere count."""
        for number, key in enumerate(LEGAL_KEYS):
            await check.storage.set(key, number)
        for number, key in enumerate(LEGAL_KEYS):
            check.expect(await check.storage.get(key), number, "another key's value")
        check.expect(await check.storage.keys(), sorted(LEGAL_KEYS))

    @rule
    async def test_delete_and_exists_mean_exactly_one_key(self, check: RuleCheck) -> None:
        """``delete`` and ``exists`` mean the key that is equal byte for byte, and no other."""
        stored, other = LEGAL_KEYS[::4], LEGAL_KEYS[1::4]
        for key in stored:
            await check.storage.set(key, key)
        for key in other:
            check.expect(await check.storage.exists(key), False)
            check.expect(await check.storage.delete(key), False)
        for key in stored:
            check.expect(await check.storage.exists(key), True)
            check.expect(await check.storage.delete(key), True)
        check.expect(await check.storage.keys(), [])

    @rule
    async def test_a_str_of_a_subclass_is_its_text(self, check: RuleCheck) -> None:
        """A key of a subclass of str is the text that it equals, and keys() gives plain strings."""
        await check.storage.set(TextEnum.MEMBER, 1)
        check.expect(await check.storage.get("member"), 1)
        check.expect(await check.storage.keys(), ["member"])
        check.expect(await check.storage.exists(TextEnum.MEMBER), True)
        check.expect(await check.storage.delete(TextEnum.MEMBER), True)


class NamespaceRules(Suite):
    """Two namespaces on one server never see each other's entries."""

    @needs("shared_store", "namespaces")
    @rule
    async def test_namespaces_never_see_each_other(self, check: RuleCheck) -> None:
        """Entries of one namespace are never seen or listed from another, however alike the two names are."""
        adapters = {name: check.another(f"of namespace {name!r}", namespace=name) for name in NAMESPACES}
        for name, adapter in adapters.items():
            await adapter.set("key", name)
            await adapter.set(f"only {name}", name)
        for name, adapter in adapters.items():
            check.expect(await adapter.get("key"), name, "another namespace's value")
            check.expect(await adapter.keys(), sorted(["key", f"only {name}"]))
            check.expect(await adapter.exists("only a" if name != "a" else "only A"), False)

    @needs("shared_store", "namespaces")
    @rule
    async def test_namespace_and_key_never_run_together(self, check: RuleCheck) -> None:
        """The key "b:c" in namespace "a" and the key "c" in namespace "a:b" are different entries, whatever separates
        a namespace from a key where they are stored.
        """
        short = check.another("short", namespace="a")
        for separator in (":", "/", ".", "_", "-", "|", "\n", " ", "::", "%3A"):
            long = check.another("long", namespace=f"a{separator}b")
            await short.set(f"b{separator}c", "short")
            await long.set("c", "long")
            check.expect(await short.get(f"b{separator}c"), "short")
            check.expect(await short.keys(), [f"b{separator}c"])
            check.expect(await long.keys(), ["c"])
            check.expect(await short.delete("c"), False)
            check.expect(await short.delete(f"b{separator}c"), True)
            check.expect(await long.get("c"), "long")

    @needs("shared_store", "namespaces")
    @rule
    async def test_delete_stays_in_its_namespace(self, check: RuleCheck) -> None:
        """``delete`` removes nothing of another namespace."""
        other = check.another("of another namespace", namespace="other")
        await other.set("key", "other")
        check.expect(await check.storage.delete("key"), False)
        await check.storage.set("key", "mine")
        check.expect(await check.storage.delete("key"), True)
        check.expect(await other.get("key"), "other")

    @needs("shared_store", "namespaces", "entries")
    @rule
    async def test_an_expired_entry_removes_nothing_of_another_namespace(self, check: RuleCheck) -> None:
        """``set_entry`` of an entry already expired removes what was under its key, in its own namespace only."""
        other = check.another("of another namespace", namespace="other")
        for storage in (check.storage, other):
            await storage.set("key", 1)
        await check.storage.set_entry(StorageEntry("key", 2, expires_at=check.clock.now() - timedelta(seconds=1)))
        check.expect(await check.storage.keys(), [])
        check.expect(await other.keys(), ["key"])

    @needs("shared_store", "namespaces", "movable_time")
    @rule
    async def test_cleanup_stays_in_its_namespace(self, check: RuleCheck) -> None:
        """``cleanup`` removes and counts the expired entries of its own namespace only."""
        others = [check.another(f"of namespace {name!r}", namespace=name) for name in ("other", "other:more", "o%")]
        for storage in (check.storage, *others):
            await storage.set("expires", 1, ttl_seconds=1)
            await storage.set("stays", 1)
        await check.pass_time(2)
        check.expect(await check.storage.cleanup(), 1)
        check.expect(await check.storage.cleanup(), 0)
        for other in others:
            check.expect(await other.keys(), ["stays"])
            check.expect(await other.cleanup(), 1, "its expired entry was removed by another namespace's cleanup")

    @needs("shared_store", "namespaces")
    @rule
    async def test_keys_never_show_the_namespace(self, check: RuleCheck) -> None:
        """Keys given and returned never show the namespace, and a pattern does not see it."""
        storage: Any = check.another("of namespace 'mine'", namespace="mine")
        await storage.set("key", 1)
        check.expect(await storage.keys(), ["key"])
        check.expect(await storage.keys("k*"), ["key"])
        check.expect(await storage.keys("*mine*"), [])
        check.expect(await storage.exists("mine:key"), False)
