"""Adapters that get times to live wrong."""

from collections.abc import Iterable
from typing import Any

from taskiq_flow import clock
from taskiq_flow.exceptions import InvalidKeyError
from taskiq_flow.storage import rules
from taskiq_flow.storage.backend import Record
from tests.contract.broken.base import Memory

HOUR_MS = 3_600_000


class TTLInMilliseconds(Memory):
    """Takes ttl_seconds for milliseconds."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, value, ttl_seconds and ttl_seconds / 1000)


class TTLInMinutes(Memory):
    """Takes ttl_seconds for minutes."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, value, min(ttl_seconds * 60, rules.MAX_TTL_SECONDS) if ttl_seconds else ttl_seconds)


class OneMillisecondLate(Memory):
    """An entry is still there at the instant of its end: ``now > expires_at`` instead of ``>=``."""

    async def _read(self, key: str, now: int) -> Record | None:
        return await super()._read(key, now - 1)


class OneMillisecondEarly(Memory):
    """An entry is gone one millisecond before its end."""

    async def _read(self, key: str, now: int) -> Record | None:
        return await super()._read(key, now + 1)


class KeysOneMillisecondLate(Memory):
    """``keys`` still lists an entry at the instant of its end."""

    async def _live_keys(self, prefix: str, now: int) -> Iterable[str]:
        return await super()._live_keys(prefix, now - 1)


class WholeSeconds(Memory):
    """Keeps expiry in whole seconds."""

    async def _write(self, key: str, record: Record, now: int) -> None:
        if record.expires_at is not None:
            record = record._replace(expires_at=record.expires_at // 1000 * 1000)
        await super()._write(key, record, now)


class TTLRoundedUp(Memory):
    """Rounds a time to live up to whole seconds, as a command that takes integers makes one do."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        if isinstance(ttl_seconds, float) and 0 < ttl_seconds < rules.MAX_TTL_SECONDS:
            ttl_seconds = int(-(-ttl_seconds // 1))
        await super().set(key, value, ttl_seconds)


class GetExtendsLife(Memory):
    """Every read extends the TTL, as some caches do."""

    async def _read(self, key: str, now: int) -> Record | None:
        record = await super()._read(key, now)
        if record is not None and record.expires_at is not None:
            await self._write(key, record._replace(expires_at=record.expires_at + 1000), now)
        return record


class ExistsExtendsLife(Memory):
    """``exists`` extends the TTL."""

    async def _is_live(self, key: str, now: int) -> bool:
        if (record := self.record(key)) and record.expires_at and record.is_live(now):
            await self._write(key, record._replace(expires_at=now + HOUR_MS), now)
        return await super()._is_live(key, now)


class GetRemovesExpired(Memory):
    """A read removes what has expired: ``cleanup`` then counts less."""

    async def _read(self, key: str, now: int) -> Record | None:
        record = await super()._read(key, now)
        if record is None:
            await self._discard(key)
        return record


class GetRemovesLive(Memory):
    """Reading takes the entry away: a queue's habit."""

    async def _read(self, key: str, now: int) -> Record | None:
        record = await super()._read(key, now)
        await self._discard(key)
        return record


class GetForgetsExpiry(Memory):
    """``get`` gives what has expired, until ``cleanup`` comes."""

    async def _read(self, key: str, now: int) -> Record | None:
        return self.record(key)

    async def _is_live(self, key: str, now: int) -> bool:
        record = self.record(key)
        return record is not None and record.is_live(now)


class ExistsForgetsExpiry(Memory):
    """``exists`` is true for what has expired."""

    async def _is_live(self, key: str, now: int) -> bool:
        return self.record(key) is not None


class KeysForgetsExpiry(Memory):
    """``keys`` lists what has expired."""

    async def _live_keys(self, prefix: str, now: int) -> Iterable[str]:
        return [key for key in self._records if key.startswith(prefix)]


class DeleteForgetsExpiry(Memory):
    """``delete`` says True for what has expired."""

    async def _remove(self, key: str, now: int) -> bool:
        return self._records.pop(key, None) is not None


class DeleteRemovesExpiredSilently(Memory):
    """``delete`` removes what has expired while it says False."""

    async def _remove(self, key: str, now: int) -> bool:
        live = await super()._remove(key, now)
        await self._discard(key)
        return live


class NoDefaultTTL(Memory):
    """Forgets the default time to live of its constructor."""

    def __init__(self, ttl_seconds: float | None = None, **settings: Any) -> None:
        super().__init__(None, **settings)


class DefaultTTLWins(Memory):
    """The default time to live takes precedence over that of the call."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, value, self.ttl_seconds or ttl_seconds)


class DefaultTTLIsTheMost(Memory):
    """The default time to live caps that of the call."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        if ttl_seconds is not None and self.ttl_seconds is not None:
            ttl_seconds = min(ttl_seconds, self.ttl_seconds)
        await super().set(key, value, ttl_seconds)


class HiddenDefaultTTL(Memory):
    """Gives entries a day where nobody asked for an end."""

    def __init__(self, ttl_seconds: float | None = None, **settings: Any) -> None:
        super().__init__(86_400 if ttl_seconds is None else ttl_seconds, **settings)


class SetKeepsOldExpiry(Memory):
    """``set`` again leaves the first expiry in place."""

    async def _write(self, key: str, record: Record, now: int) -> None:
        old = await self._read(key, now)
        await super()._write(key, record._replace(expires_at=old.expires_at) if old else record, now)


class SetWithoutTTLKeepsOldExpiry(Memory):
    """``set`` without a time to live keeps that of the entry before."""

    async def _write(self, key: str, record: Record, now: int) -> None:
        old = await self._read(key, now)
        if old is not None and record.expires_at is None:
            record = record._replace(expires_at=old.expires_at)
        await super()._write(key, record, now)


class SetNeverShortens(Memory):
    """``set`` again keeps the later of two ends."""

    async def _write(self, key: str, record: Record, now: int) -> None:
        old = await self._read(key, now)
        if old is not None and old.expires_at and record.expires_at:
            record = record._replace(expires_at=max(old.expires_at, record.expires_at))
        await super()._write(key, record, now)


class BoolIsATTL(Memory):
    """``ttl_seconds=True`` is one second."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, value, 1 if ttl_seconds is True else ttl_seconds)


class ZeroTTLIsForEver(Memory):
    """``ttl_seconds=0`` means no expiry: ``if ttl_seconds:``."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, value, ttl_seconds or None)


class NegativeTTLDeletes(Memory):
    """A negative time to live removes the entry, as Redis's EXPIRE does."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        if type(ttl_seconds) in (int, float) and ttl_seconds is not None and ttl_seconds < 0:
            await self.delete(key)
        else:
            await super().set(key, value, ttl_seconds)


class NaNIsATTL(Memory):
    """NaN slips through: ``if ttl_seconds <= 0: raise``."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, value, None if str(ttl_seconds) == "nan" else ttl_seconds)


class InfinityIsForEver(Memory):
    """An infinite time to live is taken for none."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, value, None if ttl_seconds == float("inf") else ttl_seconds)


class TextIsATTL(Memory):
    """``ttl_seconds="60"`` is converted."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, value, float(ttl_seconds) if isinstance(ttl_seconds, str) else ttl_seconds)


class TTLCapped(Memory):
    """No entry is kept longer than 30 days."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        if ttl_seconds is not None and 30 * 86_400 < ttl_seconds <= rules.MAX_TTL_SECONDS:
            ttl_seconds = 30 * 86_400
        await super().set(key, value, ttl_seconds)


class TTLCheckedTooLate(Memory):
    """An illegal time to live is noticed when the value is stored already."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, value)
        await super().set(key, value, ttl_seconds)


class TTLErrorIsATypeError(Memory):
    """An illegal time to live is a bare TypeError."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        try:
            await super().set(key, value, ttl_seconds)
        except InvalidKeyError:
            raise
        except ValueError as error:
            raise TypeError(str(error)) from None


class LivesByTheOldClock(Memory):
    """Judges expiry by a clock that was read once, when the adapter was made."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._made = clock.now_ms()

    async def _read(self, key: str, now: int) -> Record | None:
        return await super()._read(key, self._made)
