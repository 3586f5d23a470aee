"""Dates as values in tests that freeze all time: there ``datetime.now()`` gives a class of freezegun's."""

import asyncio
from datetime import date, datetime, timezone
from typing import Any

import freezegun

from taskiq_flow.storage import InMemoryStorageAdapter

REAL = (datetime, date)


def test_dates_of_freezegun_are_stored_as_what_they_stand_for() -> None:
    storage = InMemoryStorageAdapter()

    async def keep(value: Any) -> Any:
        await storage.set("key", value)
        return await storage.get("key")

    with freezegun.freeze_time("2026-03-04T05:06:07.000008", real_asyncio=True):
        moment, day = datetime.now(timezone.utc), date.today()  # noqa: DTZ011 - a date without a time zone, on purpose
        assert type(moment) is not REAL[0], "freezegun gives no class of its own any more: this test shows nothing"
        kept = asyncio.run(keep([moment, {"day": day}]))
    assert kept == [moment, {"day": day}]
    assert type(kept[0]) is REAL[0]
    assert type(kept[1]["day"]) is REAL[1]
