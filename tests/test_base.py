"""What an adapter of one's own inherits, and entries as such."""

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from taskiq_flow import clock
from taskiq_flow.exceptions import UnsupportedOperationError
from taskiq_flow.storage import BaseStorageAdapter, StorageEntry
from tests.contract.test_clocks import SixMethods

NEW_YEAR = datetime(2030, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda adapter: adapter.get_entry("key"),
            "keeps values only: it has no get_entry(), which needs creation time",
        ),
        (
            lambda adapter: adapter.set_entry(StorageEntry("key", 1)),
            "keeps values only: it has no set_entry(), which needs creation time",
        ),
        (
            lambda adapter: adapter.compare_and_set("key", 1, 2),
            "has no compare_and_set(): it has nothing that is atomic over a read and a write",
        ),
    ],
)
async def test_six_methods_alone_refuse_the_rest(call: Callable[[BaseStorageAdapter], Any], told: str) -> None:
    async with SixMethods(clock.now_ms, {}) as adapter:
        with pytest.raises(UnsupportedOperationError) as raised:
            await call(adapter)
    assert str(raised.value).startswith(f"SixMethods {told}")


def test_entry_tells_its_remaining_ttl() -> None:
    with clock.freeze(NEW_YEAR) as frozen:
        entry = StorageEntry("key", 1, expires_at=NEW_YEAR + timedelta(seconds=90, milliseconds=1))
        assert entry.created_at == NEW_YEAR
        assert (entry.remaining_ttl(), entry.is_expired()) == (90.001, False)
        frozen.tick(90)
        assert (entry.remaining_ttl(), entry.is_expired()) == (0.001, False)
        frozen.tick(0.001)
        assert (entry.remaining_ttl(), entry.is_expired()) == (0, True)
        frozen.tick(1)
        assert (entry.remaining_ttl(), entry.is_expired()) == (0, True)


def test_entry_without_expiry_never_expires() -> None:
    entry = StorageEntry("key", 1)
    with clock.freeze("9999-12-31T00:00:00Z"):
        assert (entry.remaining_ttl(), entry.is_expired()) == (None, False)


@pytest.mark.parametrize("name", ["created_at", "expires_at"])
def test_time_that_is_no_datetime_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be an aware datetime, not 1700000000"):
        StorageEntry("key", 1, **{name: 1_700_000_000})  # type: ignore[arg-type]


def test_creation_time_of_none_is_refused_with_what_to_do() -> None:
    with pytest.raises(TypeError, match="created_at must be an aware datetime, not None; leave it out"):
        StorageEntry("key", 1, created_at=None)  # type: ignore[arg-type]
