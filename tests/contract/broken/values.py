"""Adapters that change values, or take what they cannot keep."""

import contextlib
import copy
import json
import math
import pickle
from base64 import b64decode, b64encode
from datetime import timedelta
from decimal import Decimal
from typing import Any

from taskiq_flow import clock
from taskiq_flow.exceptions import SerializationError
from taskiq_flow.storage import rules
from taskiq_flow.storage.backend import Record
from tests.contract.broken.base import Memory


class AliasOnSet(Memory):
    """Keeps the object that was set."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.objects: dict[str, Any] = {}

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, value, ttl_seconds)
        self.objects[key] = value

    async def get(self, key: str) -> Any:
        return copy.deepcopy(self.objects.get(key)) if await super().get(key) is not None else None


class AliasOnGet(Memory):
    """Gives out the object that it keeps."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.objects: dict[str, Any] = {}

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, value, ttl_seconds)
        self.objects[key] = copy.deepcopy(value)

    async def get(self, key: str) -> Any:
        return self.objects.get(key) if await super().get(key) is not None else None


class CopyIsShallow(Memory):
    """Copies only the outermost container."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.objects: dict[str, Any] = {}

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, value, ttl_seconds)
        self.objects[key] = copy.copy(value)

    async def get(self, key: str) -> Any:
        return copy.copy(self.objects.get(key)) if await super().get(key) is not None else None


class _Changed(Memory):
    """Changes some values on their way in."""

    def changed(self, value: Any) -> Any:
        raise NotImplementedError

    def everywhere(self, value: Any) -> Any:
        value = self.changed(value)
        if type(value) in (list, tuple, set, frozenset):
            try:
                return type(value)(map(self.everywhere, value))
            except (TypeError, RecursionError):
                return value
        return value

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, self.everywhere(value), ttl_seconds)


class TuplesAreLists(_Changed):
    """Tuples come back as lists."""

    def changed(self, value: Any) -> Any:
        return list(value) if type(value) is tuple else value


class SetsAreLists(_Changed):
    """Sets come back as lists."""

    def changed(self, value: Any) -> Any:
        return list(value) if type(value) is set else value


class FrozensetsAreSets(_Changed):
    """Frozen sets come back as sets, where they stand outermost."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await Memory.set(self, key, set(value) if type(value) is frozenset else value, ttl_seconds)


class DecimalsAreFloats(_Changed):
    """Decimals come back as floats."""

    def changed(self, value: Any) -> Any:
        return float(value) if type(value) is Decimal and value.is_finite() else value


class DecimalsAreNormalized(_Changed):
    """Decimal("1.10") comes back as Decimal("1.1")."""

    def changed(self, value: Any) -> Any:
        return value.normalize() if type(value) is Decimal and value.is_finite() else value


class NaNIsNone(_Changed):
    """NaN comes back as None, as strict JSON has it."""

    def changed(self, value: Any) -> Any:
        return None if type(value) is float and math.isnan(value) else value


class MinusZeroIsZero(_Changed):
    """-0.0 comes back as 0.0."""

    def changed(self, value: Any) -> Any:
        return 0.0 if type(value) is float and value == 0 else value


class WholeFloatsAreInts(_Changed):
    """1.0 comes back as 1, as from JavaScript."""

    def changed(self, value: Any) -> Any:
        return int(value) if type(value) is float and value.is_integer() else value


class BoolsAreInts(_Changed):
    """True comes back as 1, as from a database without booleans."""

    def changed(self, value: Any) -> Any:
        return int(value) if type(value) is bool else value


class BigIntsAreFloats(_Changed):
    """Integers above 2**53 lose their last digits, as in JavaScript."""

    def changed(self, value: Any) -> Any:
        return int(float(value)) if type(value) is int and 2**53 < value < 2**100 else value


class HugeIntsFail(_Changed):
    """Integers of more than 4,300 digits do not print in Python."""

    def changed(self, value: Any) -> Any:
        return int(str(value)) if type(value) is int else value


class DatetimesAreNaive(_Changed):
    """Datetimes lose their offset."""

    def changed(self, value: Any) -> Any:
        return value.replace(tzinfo=None) if hasattr(value, "astimezone") and hasattr(value, "tzinfo") else value


class DatetimesAreUTC(_Changed):
    """Datetimes lose the offset that they had, though not the moment."""

    def changed(self, value: Any) -> Any:
        if hasattr(value, "astimezone") and value.tzinfo is not None and value.year > 1:
            return value.astimezone(clock.now().tzinfo)
        return value


class DatetimesInMilliseconds(_Changed):
    """Datetimes lose their microseconds, as in a database."""

    def changed(self, value: Any) -> Any:
        if hasattr(value, "astimezone") and hasattr(value, "microsecond"):
            return value.replace(microsecond=value.microsecond // 1000 * 1000)
        return value


class FoldsAreLost(_Changed):
    """The second of two repeated hours comes back as the first."""

    def changed(self, value: Any) -> Any:
        return value.replace(fold=0) if hasattr(value, "fold") else value


class TimedeltasInSeconds(_Changed):
    """Timedeltas go through total_seconds(), a float."""

    def changed(self, value: Any) -> Any:
        if type(value) is timedelta and abs(value) < timedelta(days=10**8):
            return timedelta(seconds=int(value.total_seconds()))
        return value


class BytesAreText(_Changed):
    """Bytes come back as text where they can."""

    def changed(self, value: Any) -> Any:
        return value.decode(errors="ignore") if type(value) is bytes else value


class SurrogatesAreReplaced(_Changed):
    """Lone surrogates become question marks."""

    def changed(self, value: Any) -> Any:
        return value.encode(errors="replace").decode() if type(value) is str else value


class NULsAreDropped(_Changed):
    """NUL characters are dropped, since PostgreSQL takes none."""

    def changed(self, value: Any) -> Any:
        return value.replace("\0", "") if type(value) is str else value


class TextIsStripped(_Changed):
    """Text loses the blanks around it."""

    def changed(self, value: Any) -> Any:
        return value.strip(" ") if type(value) is str else value


class TextIsCutOff(_Changed):
    """Text is cut off at 65,535 characters, as MySQL's TEXT is."""

    def changed(self, value: Any) -> Any:
        return value[:65_535] if type(value) is str else value


class DictKeysAreText(_Changed):
    """The keys of a dict become strings."""

    def changed(self, value: Any) -> Any:
        return {str(key): item for key, item in value.items()} if type(value) is dict else value


class DictsAreSorted(_Changed):
    """Dicts come back sorted, as from PostgreSQL's jsonb."""

    def changed(self, value: Any) -> Any:
        if type(value) is dict and all(type(key) is str for key in value):
            return {key: value[key] for key in sorted(value)}
        return value


class TagsAreTaken(Memory):
    """A dict of the user's that looks like a tag is taken for one."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, value, ttl_seconds)
        if type(value) is dict and type(value.get("$type")) is str:
            self._records[key] = self._records[key]._replace(value=json.dumps(value, default=repr, skipkeys=True))


class PlainJSON(Memory):
    """``json.dumps`` and ``json.loads``, and nothing else."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, None, ttl_seconds)
        self._records[key] = self._records[key]._replace(value=json.dumps(value))

    async def get(self, key: str) -> Any:
        await super().exists(key)
        record = await self._read(key, clock.now_ms())
        return None if record is None else json.loads(record.value)


class DefaultStr(Memory):
    """``json.dumps(default=str)``: everything can be stored, as something else."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        try:
            await super().set(key, value, ttl_seconds)
        except SerializationError:
            await super().set(key, str(type(value)), ttl_seconds)


class Pickles(Memory):
    """Pickles: write access to the server means running code in the worker."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        try:
            text = pickle.dumps(value).decode("latin-1")
        except Exception:  # noqa: BLE001 - what cannot be pickled is left to the codec
            await super().set(key, value, ttl_seconds)
        else:
            await super().set(key, text, ttl_seconds)

    async def get(self, key: str) -> Any:
        text = await super().get(key)
        return pickle.loads(text.encode("latin-1")) if isinstance(text, str) else text


class DropsWhatItCannotStore(Memory):
    """A value that cannot be stored is dropped without a word."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        with contextlib.suppress(SerializationError):
            await super().set(key, value, ttl_seconds)


class SubclassesAreTaken(Memory):
    """A namedtuple is stored, and comes back as a tuple."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, tuple(value) if hasattr(value, "_fields") else value, ttl_seconds)


class EnumsAreTaken(Memory):
    """An IntEnum is stored, and comes back as an int."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, int(value) if isinstance(value, int) and hasattr(value, "name") else value, ttl_seconds)


class CyclesOverflow(Memory):
    """A value that contains itself is a RecursionError."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        try:
            await super().set(key, value, ttl_seconds)
        except SerializationError as error:
            if "nested" in str(error):
                raise RecursionError from None
            raise


class RefusalLosesTheOld(Memory):
    """Removes the old value before it looks at the new one."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await self._discard(rules.checked_key(key))
        await super().set(key, value, ttl_seconds)


class RefusalTakesTheExpiry(Memory):
    """Takes the old entry's expiry away before it looks at the new value."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        if isinstance(key, str) and (record := self.record(key)):
            self._records[key] = record._replace(expires_at=None)
        await super().set(key, value, ttl_seconds)


class RefusalNamesNothing(Memory):
    """The error for a value that cannot be stored says neither where nor what."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        try:
            await super().set(key, value, ttl_seconds)
        except SerializationError:
            raise SerializationError("cannot be stored") from None


class RefusalIsATypeError(Memory):
    """The error for a value that cannot be stored is a bare TypeError."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        try:
            await super().set(key, value, ttl_seconds)
        except SerializationError as error:
            raise TypeError(str(error)) from None


class NoneIsNothing(Memory):
    """Setting None removes the entry."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        await super().set(key, value, ttl_seconds)
        if value is None:
            await self._discard(key)


class ExistsByValue(Memory):
    """``exists`` is ``get(key) is not None``."""

    async def exists(self, key: str) -> bool:
        return await self.get(key) is not None


class ExistsByTruth(Memory):
    """``exists`` is ``bool(get(key))``, and wrong for 0 and ""."""

    async def exists(self, key: str) -> bool:
        return (await self.get(key)) not in (False, 0, "", [], {}, ())


class ExistsIsACount(Memory):
    """``exists`` returns 1 or 0, as Redis does."""

    async def exists(self, key: str) -> Any:
        return int(await super().exists(key))


class SetIsAdd(Memory):
    """``set`` leaves what is there: an INSERT that ignores conflicts."""

    async def _write(self, key: str, record: Record, now: int) -> None:
        if not await self._is_live(key, now):
            await super()._write(key, record, now)


class SetMerges(Memory):
    """``set`` merges dicts, as an UPDATE of a document may."""

    async def set(self, key: str, value: Any, ttl_seconds: float | None = None) -> None:
        old = await self.get(key) if type(value) is dict else None
        await super().set(key, {**old, **value} if type(old) is dict else value, ttl_seconds)


class StoredEscaped(Memory):
    """Text is stored in escapes that nobody can read."""

    async def _write(self, key: str, record: Record, now: int) -> None:
        escaped = "".join(sign if ord(sign) < 128 else f"\\u{ord(sign):04x}" for sign in record.value)
        readable = max(map(ord, record.value)) < 0x10000
        await super()._write(key, record._replace(value=escaped) if readable else record, now)


class StoredAsBase64(Memory):
    """Values are stored as something that is not JSON."""

    async def _write(self, key: str, record: Record, now: int) -> None:
        await super()._write(key, record._replace(value=b64encode(record.value.encode()).decode()), now)

    async def _read(self, key: str, now: int) -> Record | None:
        record = await super()._read(key, now)
        return record and record._replace(value=b64decode(record.value).decode())
