"""What writers were promised, and whether the storage keeps it."""

from typing import Any

from taskiq_flow.exceptions import SerializationError
from taskiq_flow.storage.base import BaseStorageAdapter

__all__ = ["Ledger", "value"]


def value(number: int) -> dict[str, Any]:
    """Return the value that the write of this number stores: up to several pages of a database."""
    return {"number": number, "body": f"{number:x}." * (number * 7919 % 4096)}


class Ledger:
    """For each key, the write that was acknowledged last, and those after it that may or may not be stored."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self._possible: dict[str, set[int | None]] = {}

    def tried(self, key: str, number: int) -> None:
        """Note that a write has begun."""
        self._possible.setdefault(key, {None}).add(number)

    def promised(self, key: str, number: int) -> None:
        """Note that it was acknowledged."""
        self._possible[key] = {number}
        self.acknowledged += 1

    async def write(self, adapter: BaseStorageAdapter, key: str, number: int) -> None:
        """Write, and note what became of it."""
        self.tried(key, number)
        await adapter.set(key, value(number))
        self.promised(key, number)

    async def broken_promises(self, adapter: BaseStorageAdapter) -> list[str]:
        """Return what is not as it was promised: lost, replaced by something older, or not whole."""
        broken = []
        for key, possible in self._possible.items():
            try:
                stored = await adapter.get(key)
            except SerializationError as error:
                broken.append(str(error))
                continue
            number = stored["number"] if stored is not None else None
            if number not in possible or (number is not None and stored != value(number)):
                broken.append(f"{key}: {number} is stored, not whole or none of {possible}")
        return broken
