"""What the differential test found, each in its smallest form."""

from datetime import datetime, time, timedelta, timezone
from typing import Any

import pytest

from taskiq_flow import serialization
from taskiq_flow.clock import FrozenClock
from taskiq_flow.storage.backend import BackendAdapter
from taskiq_flow.storage.base import ABSENT
from tests.fuzz.answers import canonical

NAN = float("nan")
TINY = timezone(timedelta(microseconds=-1))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("\ud83d\ude00", id="two surrogates that JSON takes for one character"),
        pytest.param(["a\ud800\udc00\udc00\ud800\ud800\udfffz", "\udc00\ud800"], id="the same among others"),
        pytest.param({"\ud83d\ude00": 1, "😀": 2}, id="the same as a key of a dict"),
        pytest.param({NAN, float("nan")}, id="two NaNs in a set"),
        pytest.param({NAN: 1, float("nan"): 2}, id="two NaNs as keys of a dict"),
        pytest.param(datetime(2000, 1, 1, tzinfo=TINY), id="an offset below a second"),
        pytest.param(time(1, tzinfo=TINY), id="a time with an offset below a second"),
    ],
)
def test_comes_back_as_it_was(value: Any) -> None:
    text = serialization.dumps(value)
    assert canonical(serialization.loads(text)) == canonical(value), ascii(text)
    text.encode()


async def test_nothing_for_nothing_leaves_what_has_expired_to_cleanup(
    storage_adapter: BackendAdapter, frozen_clock: FrozenClock
) -> None:
    await storage_adapter.set("key", 1, ttl_seconds=1)
    frozen_clock.tick(1)
    assert await storage_adapter.compare_and_set("key", ABSENT, ABSENT)
    assert await storage_adapter.cleanup() == 1
