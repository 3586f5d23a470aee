"""Many entries at a time mean what single calls mean, on every storage and for custom adapters."""

from datetime import timedelta
from typing import Any

import pytest

from taskiq_flow import clock
from taskiq_flow.exceptions import InvalidKeyError, InvalidTTLError, SerializationError
from taskiq_flow.storage import BaseStorageAdapter, InMemoryStorageAdapter, StorageEntry
from tests.adapters import SixMethods


@pytest.fixture(params=["whole", "six methods"])
def adapter(request: pytest.FixtureRequest, storage_adapter: BaseStorageAdapter) -> BaseStorageAdapter:
    return storage_adapter if request.param == "whole" else SixMethods(storage_adapter)


async def test_many_are_stored_read_and_removed(adapter: BaseStorageAdapter) -> None:
    values: dict[str, Any] = {"b": 1, "a": None, "ü": [1, "x"]}
    await adapter.set_many(values)
    assert list((await adapter.get_many(["ü", "missing", "b", "a"])).items()) == [
        ("ü", [1, "x"]),
        ("b", 1),
        ("a", None),
    ]
    assert await adapter.delete_many(["a", "missing", "b", "a"]) == 2
    assert await adapter.keys() == ["ü"]


async def test_more_than_a_thousand_are_stored_read_and_removed(storage_adapter: BaseStorageAdapter) -> None:
    values = {f"key {number:04}": number for number in range(1100)}
    await storage_adapter.set_many(values)
    assert await storage_adapter.get_many(values) == values
    assert [entry.value async for entry in storage_adapter.entries()] == list(range(1100))
    assert await storage_adapter.delete_many(values) == 1100
    assert await storage_adapter.get_many(values) == {}


async def test_none_at_all_cost_nothing(adapter: BaseStorageAdapter) -> None:
    await adapter.set_many({})
    assert await adapter.get_many([]) == {}
    assert await adapter.delete_many([]) == 0
    assert [entry async for entry in adapter.entries()] == []


async def test_set_many_replaces_and_sets_the_ttl(adapter: BaseStorageAdapter) -> None:
    with clock.freeze() as frozen:
        await adapter.set("a", "old")
        await adapter.set_many({"a": 1, "b": 2}, ttl_seconds=60)
        frozen.tick(59.999)
        assert await adapter.get_many(["a", "b"]) == {"a": 1, "b": 2}
        frozen.tick(0.001)
        assert await adapter.get_many(["a", "b"]) == {}
        assert await adapter.delete_many(["a", "b"]) == 0


@pytest.mark.parametrize(
    ("entries", "ttl", "error"),
    [
        ({"good": 1, "": 2}, None, InvalidKeyError),
        ({"good": 1, "bad": object()}, None, SerializationError),
        ({"good": 1}, 0, InvalidTTLError),
    ],
)
async def test_one_bad_entry_is_refused_before_anything_is_stored(
    entries: dict[str, Any], ttl: float | None, error: type[Exception], adapter: BaseStorageAdapter
) -> None:
    with pytest.raises(error):
        await adapter.set_many(entries, ttl)
    assert await adapter.keys() == []


async def test_one_bad_key_is_refused_before_anything_is_removed(adapter: BaseStorageAdapter) -> None:
    await adapter.set("good", 1)
    with pytest.raises(InvalidKeyError):
        await adapter.delete_many(["good", ""])
    assert await adapter.exists("good")
    with pytest.raises(InvalidKeyError):
        await adapter.get_many(["good", "\0"])


async def test_entries_come_sorted_with_times_and_metadata(storage_adapter: BaseStorageAdapter) -> None:
    now = clock.now()
    stored = [
        StorageEntry(f"run:{name}", name, now, now + timedelta(hours=1), {"step": name}) for name in ("b", "a", "c")
    ]
    for entry in stored:
        await storage_adapter.set_entry(entry)
    await storage_adapter.set("other", 1)
    found = [entry async for entry in storage_adapter.entries("run:*")]
    assert found == sorted(stored, key=lambda entry: entry.key)


async def test_entries_of_a_custom_adapter_have_their_values() -> None:
    adapter = SixMethods(InMemoryStorageAdapter())
    await adapter.set_many({"b": None, "a": 1})
    assert [(entry.key, entry.value) async for entry in adapter.entries()] == [("a", 1), ("b", None)]
