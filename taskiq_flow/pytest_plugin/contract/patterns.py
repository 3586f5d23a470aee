"""The contract's rules for ``keys(pattern)``."""

import fnmatch

from taskiq_flow.pytest_plugin.contract.check import RuleCheck, rule
from taskiq_flow.pytest_plugin.contract.samples import LEGAL_KEYS, PATTERNS
from taskiq_flow.pytest_plugin.contract.suite import Suite

__all__ = ["PatternRules"]


class PatternRules(Suite):
    """Which keys a pattern matches, and how they are listed."""

    @rule
    async def test_patterns_mean_what_fnmatchcase_means(self, check: RuleCheck) -> None:
        """``keys(pattern)`` follows the rules of fnmatch.fnmatchcase, for every legal key: *, ?, [seq], [!seq], and no
        escapes but [*].
        """
        for key in LEGAL_KEYS:
            await check.storage.set(key, 1)
        for pattern in PATTERNS:
            wanted = sorted(key for key in LEGAL_KEYS if fnmatch.fnmatchcase(key, pattern))
            check.expect(await check.storage.keys(pattern), wanted, f"the pattern {pattern!r}")

    @rule
    async def test_a_pattern_of_more_than_4096_characters_is_refused(self, check: RuleCheck) -> None:
        """A pattern is at most 4,096 characters long; else ValueError."""
        key = "k" * 1024
        await check.storage.set(key, 1)
        check.expect(await check.storage.keys("*" * 3072 + key), [key])
        await check.raises(check.storage.keys("*" * 3073 + key), ValueError)

    @rule
    async def test_keys_without_pattern_lists_all(self, check: RuleCheck) -> None:
        """``keys()`` lists every live key."""
        for key in LEGAL_KEYS[:25]:
            await check.storage.set(key, 1)
        check.expect(await check.storage.keys(), sorted(LEGAL_KEYS[:25]))

    @rule
    async def test_keys_are_a_sorted_list(self, check: RuleCheck) -> None:
        """``keys`` returns a list of str, sorted by code points, whatever the order in which they were set."""
        for key in ("b", "ä", "B", "a", "z", "10", "9", "a b", "a", "Z", "é", "\uffff", "😀", "_", "~"):
            await check.storage.set(key, 1)
        wanted = ["10", "9", "B", "Z", "_", "a", "a b", "b", "z", "~", "ä", "é", "\uffff", "😀"]
        check.expect(await check.storage.keys(), wanted)

    @rule
    async def test_keys_lists_a_key_once_however_often_it_was_set(self, check: RuleCheck) -> None:
        """``keys`` lists each live key once, however often it was set."""
        for key in "aabacbaa":
            await check.storage.set(key, 1)
        check.expect(await check.storage.keys(), ["a", "b", "c"])

    @rule
    async def test_keys_lists_more_keys_than_a_page(self, check: RuleCheck) -> None:
        """``keys`` lists each live key once, however many there are: also if a server returns them in pages."""
        wanted = await check.store_many(self.many_keys)
        await check.storage.set("another", 1)
        check.expect(await check.storage.keys("key:*"), wanted)
        check.expect(await check.storage.keys(), ["another", *wanted])
