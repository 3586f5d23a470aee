"""Adapters that make the wrong thing of data that they did not write."""

import contextlib
import json
from collections.abc import Iterable
from typing import Any

from taskiq_flow import serialization
from taskiq_flow.exceptions import SerializationError
from tests.contract.broken.base import Memory


class DamageIsNone(Memory):
    """Damaged data is None."""

    async def get(self, key: str) -> Any:
        with contextlib.suppress(SerializationError):
            return await super().get(key)
        return None


class DamageCrashes(Memory):
    """Damaged data is whatever ``json`` raises."""

    def _decode(self, key: str, text: str) -> Any:
        json.loads(text)
        return super()._decode(key, text)


class DamageIsText(Memory):
    """What is not JSON is given out as text."""

    def _decode(self, key: str, text: str) -> Any:
        with contextlib.suppress(SerializationError):
            return super()._decode(key, text)
        return text


class DamageNamesNoKey(Memory):
    """The error for damaged data does not say where."""

    def _decode(self, key: str, text: str) -> Any:
        return serialization.loads(text)


class UnknownTagsAreDicts(Memory):
    """An unknown tag is given out as a dict."""

    def _decode(self, key: str, text: str) -> Any:
        with contextlib.suppress(SerializationError):
            return super()._decode(key, text)
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(text)
        raise SerializationError(key)


class DamageStopsKeys(Memory):
    """One damaged entry makes ``keys`` fail for all."""

    async def _live_keys(self, prefix: str, now: int) -> Iterable[str]:
        for key, record in self._records.items():
            self._decode(key, record.value)
        return await super()._live_keys(prefix, now)
