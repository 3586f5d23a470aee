"""The labels of schedules keep their types through ``StorageScheduleSource``."""

from datetime import UTC, datetime
from typing import Any

import pytest
from taskiq import Context, InMemoryBroker, ScheduledTask, TaskiqDepends, TaskiqScheduler

from taskiq_flow.schedule_source import StorageScheduleSource
from taskiq_flow.storage import BaseStorageAdapter
from tests.adapters import SixMethods

NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(params=["whole", "six methods"])
def storage(request: pytest.FixtureRequest, storage_adapter: BaseStorageAdapter) -> BaseStorageAdapter:
    return storage_adapter if request.param == "whole" else SixMethods(storage_adapter)


def schedule_of(schedule_id: str = "one", **more: Any) -> ScheduledTask:
    if not {"cron", "interval", "time"} & more.keys():
        more["time"] = NOW
    return ScheduledTask(
        **{"task_name": "t", "labels": {}, "args": [], "kwargs": {}, "schedule_id": schedule_id, **more}
    )


async def test_labels_keep_their_types(storage: BaseStorageAdapter) -> None:
    broker, source = InMemoryBroker(await_inplace=True), StorageScheduleSource(storage)
    seen: list[dict[str, Any]] = []

    @broker.task(task_name="one", cache_ttl=60, flag=True, rate=0.5, raw=b"\xff", text="60", nothing=None)
    async def one(context: Context = TaskiqDepends()) -> None:
        seen.append({**context.message.labels, "schedule_id": ""})

    kicker = one.kicker().with_labels(more=7)
    await kicker.with_labels(schedule_id="").kiq()
    await kicker.schedule_by_time(source, NOW)
    await kicker.schedule_by_cron(source, "* * * * *")
    if hasattr(kicker, "schedule_by_interval"):  # from taskiq 0.12 on
        await kicker.schedule_by_interval(source, 60)
    for schedule in await source.get_schedules():
        await TaskiqScheduler(broker, [source]).on_ready(source, schedule)
    direct, *scheduled = seen
    assert direct["raw"] == b"\xff"
    assert direct["cache_ttl"] == 60
    assert scheduled
    assert scheduled == [direct] * len(scheduled)


async def test_labels_of_a_schedule_that_is_added_by_hand_stay_as_they_are(storage: BaseStorageAdapter) -> None:
    source = StorageScheduleSource(storage)
    await source.add_schedule(schedule_of(labels={"text": "60", "number": 60}, cron="* * * * *"))
    assert [schedule.labels for schedule in await source.get_schedules()] == [{"text": "60", "number": 60}]
