"""Adapters that mix up keys, or take any."""

import contextlib
import functools
import re
import unicodedata
from typing import Any
from urllib.parse import unquote

from taskiq_flow import serialization
from taskiq_flow.exceptions import InvalidKeyError
from taskiq_flow.storage import StorageEntry, rules
from taskiq_flow.storage.backend import Record
from tests.contract.broken.base import Memory


class _Respelled(Memory):
    """Stores under another spelling of the key."""

    @staticmethod
    def respelled(key: str) -> str:
        raise NotImplementedError

    async def get(self, key: str) -> Any:
        return await super().get(self.respelled(rules.checked_key(key)))

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(self.respelled(rules.checked_key(key)), value, ttl_seconds)

    async def delete(self, key: str) -> bool:
        return await super().delete(self.respelled(rules.checked_key(key)))

    async def exists(self, key: str) -> bool:
        return await super().exists(self.respelled(rules.checked_key(key)))


class KeysCaseFolded(_Respelled):
    """Keys that differ in case are one."""

    @staticmethod
    def respelled(key: str) -> str:
        return key.casefold()


class KeysNormalized(_Respelled):
    """Keys that look the same are one: Unicode's NFC."""

    respelled = staticmethod(functools.partial(unicodedata.normalize, "NFC"))


class KeysWithoutAccents(_Respelled):
    """Keys that differ in accents are one, as under MySQL's usual collations."""

    @staticmethod
    def respelled(key: str) -> str:
        parts = unicodedata.normalize("NFD", key)
        return "".join(part for part in parts if not unicodedata.combining(part)) or key


class KeysStripped(_Respelled):
    """Trailing blanks do not count."""

    @staticmethod
    def respelled(key: str) -> str:
        return key.rstrip(" ") or key


class KeysCutOff(_Respelled):
    """Keys are cut off at 255 characters."""

    @staticmethod
    def respelled(key: str) -> str:
        return key[:255]


class KeysUnquoted(_Respelled):
    """Keys go through a URL, and come back unquoted."""

    @staticmethod
    def respelled(key: str) -> str:
        return unquote(key)


class KeysAsPaths(_Respelled):
    """Keys are taken for paths: "a//b" and "a/b" are one."""

    @staticmethod
    def respelled(key: str) -> str:
        return re.sub("/+", "/", key).rstrip("/") or key


class OneLineKeys(_Respelled):
    """Ends of lines do not count."""

    @staticmethod
    def respelled(key: str) -> str:
        return key.rstrip("\r\n") or key


class GetChecksNoKey(Memory):
    """``get`` of an illegal key just finds nothing."""

    async def get(self, key: str) -> Any:
        try:
            return await super().get(key)
        except InvalidKeyError:
            return None


class ExistsChecksNoKey(Memory):
    """``exists`` of an illegal key is False."""

    async def exists(self, key: str) -> bool:
        with contextlib.suppress(InvalidKeyError):
            return await super().exists(key)
        return False


class DeleteChecksNoKey(Memory):
    """``delete`` of an illegal key is False."""

    async def delete(self, key: str) -> bool:
        with contextlib.suppress(InvalidKeyError):
            return await super().delete(key)
        return False


class EntriesCheckNoKey(Memory):
    """``get_entry`` of an illegal key finds nothing."""

    async def get_entry(self, key: str) -> StorageEntry | None:
        with contextlib.suppress(InvalidKeyError):
            return await super().get_entry(key)
        return None


class KeysMeasuredInCharacters(Memory):
    """A key may have 1,024 characters, whatever their size."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        if isinstance(key, str) and len(key) <= 1024 < len(key.encode(errors="replace")):
            self._records[key] = Record(serialization.dumps(value), 0, None, "{}")
        else:
            await super().set(key, value, ttl_seconds)


class KeysTooShort(Memory):
    """A key may have 512 bytes."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        if isinstance(key, str) and len(key.encode(errors="replace")) > 512:
            raise InvalidKeyError("too long")
        await super().set(key, value, ttl_seconds)


class AnyKeyIsText(Memory):
    """A key of another type is converted: 1 and "1" are one."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(str(key), value, ttl_seconds)


class InvalidKeyIsAValueError(Memory):
    """An illegal key is a bare ValueError."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        try:
            await super().set(key, value, ttl_seconds)
        except InvalidKeyError as error:
            raise ValueError(str(error)) from None


class DeleteReturnsNone(Memory):
    """``delete`` returns nothing."""

    async def delete(self, key: str) -> Any:
        await super().delete(key)


class DeleteDoesNothing(Memory):
    """``delete`` says True and removes nothing."""

    async def _remove(self, key: str, now: int) -> bool:
        return await self._is_live(key, now)


class KeysByStr(Memory):
    """Takes ``str(key)``, which of an enum that is a str is not its text."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(str(rules.checked_key(key) and key), value, ttl_seconds)
