"""Adapters with patterns, and listings, of their own."""

import fnmatch
import re
from typing import Any

from tests.contract.broken.base import Memory


class _OtherPatterns(Memory):
    """Understands patterns in its own way."""

    def matches(self, key: str, pattern: str) -> bool:
        raise NotImplementedError

    async def keys(self, pattern: str = "*") -> list[str]:
        return [key for key in await super().keys("*") if self.matches(key, pattern)]


class LikePatterns(_OtherPatterns):
    """Hands patterns to LIKE, where % and _ mean something too."""

    def matches(self, key: str, pattern: str) -> bool:
        like = "".join({"*": ".*", "%": ".*", "?": ".", "_": "."}.get(sign, re.escape(sign)) for sign in pattern)
        return re.fullmatch(like, key, re.DOTALL) is not None


class CaselessLikePatterns(_OtherPatterns):
    """LIKE of SQLite: case of ASCII letters does not count."""

    def matches(self, key: str, pattern: str) -> bool:
        return fnmatch.fnmatchcase(key.lower(), pattern.lower())


class RedisPatterns(_OtherPatterns):
    """Hands patterns to Redis, where [^a] negates and a backslash escapes."""

    def matches(self, key: str, pattern: str) -> bool:
        pattern = re.sub(r"\\(.)", r"[\1]", pattern, flags=re.DOTALL)
        return fnmatch.fnmatchcase(key, pattern.replace("[^", "[!"))


class RegexPatterns(_OtherPatterns):
    """Makes a regular expression, and forgets that dots mean something there."""

    def matches(self, key: str, pattern: str) -> bool:
        regex = pattern.replace("*", ".*").replace("?", ".")
        try:
            return re.fullmatch(regex, key, re.DOTALL) is not None
        except re.error:
            return False


class OneLinePatterns(_OtherPatterns):
    """A star stops at the end of a line: re.DOTALL was forgotten."""

    def matches(self, key: str, pattern: str) -> bool:
        return fnmatch.fnmatchcase(key, pattern) and not ("*" in pattern and "\n" in key)


class PathPatterns(_OtherPatterns):
    """A star stops at a slash, as in a shell."""

    def matches(self, key: str, pattern: str) -> bool:
        return fnmatch.fnmatchcase(key, pattern) and key.count("/") == pattern.count("/")


class NoSets(_OtherPatterns):
    """Only * and ? are special."""

    def matches(self, key: str, pattern: str) -> bool:
        return fnmatch.fnmatchcase(key, pattern.replace("[", "[[]"))


class PrefixPatterns(_OtherPatterns):
    """Looks only at what stands before the first star."""

    def matches(self, key: str, pattern: str) -> bool:
        return key.startswith(pattern.partition("*")[0]) if "*" in pattern else key == pattern


class SubstringPatterns(_OtherPatterns):
    """A pattern may match a part of a key."""

    def matches(self, key: str, pattern: str) -> bool:
        return fnmatch.fnmatchcase(key, f"*{pattern}*")


class BracesPatterns(_OtherPatterns):
    """Understands {a,b} too, as some globs do."""

    def matches(self, key: str, pattern: str) -> bool:
        if found := re.fullmatch(r"\{(.*),(.*)\}", pattern):
            return key in found.groups()
        return fnmatch.fnmatchcase(key, pattern)


class EndlessPatterns(Memory):
    """A pattern may be of any length."""

    async def keys(self, pattern: str = "*") -> list[str]:
        return await super().keys(pattern.lstrip("*") if len(pattern) > 4096 else pattern)


class KeysInOrderOfInsertion(Memory):
    """``keys`` comes in the order in which entries were set."""

    async def keys(self, pattern: str = "*") -> list[str]:
        matching = set(await super().keys(pattern))
        return [key for key in self._records if key in matching]


class KeysSortedByCase(Memory):
    """``keys`` is sorted as a dictionary would be."""

    async def keys(self, pattern: str = "*") -> list[str]:
        return sorted(await super().keys(pattern), key=str.casefold)


class KeysTwice(Memory):
    """``keys`` may list a key twice, as Redis's SCAN may return it twice."""

    async def keys(self, pattern: str = "*") -> list[str]:
        found = await super().keys(pattern)
        return sorted(found + found[:1])


class KeysAreATuple(Memory):
    """``keys`` returns a tuple."""

    async def keys(self, pattern: str = "*") -> Any:
        return tuple(await super().keys(pattern))


class KeysAreBytes(Memory):
    """``keys`` returns bytes, as a driver gave them."""

    async def keys(self, pattern: str = "*") -> Any:
        return [key.encode() for key in await super().keys(pattern)]


class FirstPageOfKeys(Memory):
    """``keys`` stops after the first page of 1,000."""

    async def keys(self, pattern: str = "*") -> list[str]:
        return (await super().keys(pattern))[:1000]
