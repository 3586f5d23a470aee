"""``StorageScheduleSource``: schedules survive, and of many schedulers one sends what is due, on every storage."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pydantic
import pytest
from taskiq import InMemoryBroker, ScheduledTask, TaskiqScheduler
from taskiq.exceptions import ScheduledTaskCancelledError, SendTaskError

from taskiq_flow.clock import FrozenClock
from taskiq_flow.exceptions import SerializationError, StorageConnectionError
from taskiq_flow.schedule_source import StorageScheduleSource
from taskiq_flow.storage import BaseStorageAdapter, InMemoryStorageAdapter
from tests.adapters import SixMethods

NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
MakeAdapter = Callable[..., BaseStorageAdapter]
FROZEN = pytest.mark.frozen_clock(at=NOW.isoformat())
INTERVALS = pytest.mark.skipif("interval" not in ScheduledTask.model_fields, reason="this taskiq has no intervals")


class Total(pydantic.BaseModel):
    net: Decimal
    day: date


class ShakyAdapter(InMemoryStorageAdapter):
    """Fails as it is told to."""

    gone_for = 0
    damaged = ""

    async def get(self, key: str) -> Any | None:
        if key == self.damaged:
            raise SerializationError(f"the entry under key {key!r} cannot be read: it is damaged")
        return await super().get(key)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        return await BaseStorageAdapter.get_many(self, keys)

    async def keys(self, pattern: str = "*") -> list[str]:
        self.gone_for -= 1
        if self.gone_for >= 0:
            raise StorageConnectionError("redis at redis://host/0: keys() failed: gone")
        return await super().keys(pattern)


@pytest.fixture(params=["whole", "six methods"])
def storage(request: pytest.FixtureRequest, storage_adapter: BaseStorageAdapter) -> BaseStorageAdapter:
    return storage_adapter if request.param == "whole" else SixMethods(storage_adapter)


def schedule_of(schedule_id: str = "one", **more: Any) -> ScheduledTask:
    if not {"cron", "interval", "time"} & more.keys():
        more["time"] = NOW
    return ScheduledTask(
        **{"task_name": "t", "labels": {}, "args": [], "kwargs": {}, "schedule_id": schedule_id, **more}
    )


async def is_sent(source: StorageScheduleSource, schedule: ScheduledTask) -> bool:
    """Return whether a scheduler sends a schedule; it does so without a broker."""
    try:
        await source.pre_send(schedule)
    except ScheduledTaskCancelledError:
        return False
    await source.post_send(schedule)
    return True


async def ids(source: StorageScheduleSource) -> list[str]:
    return [schedule.schedule_id for schedule in await source.get_schedules()]


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "timing",
    [
        {"cron": "*/5 * * * *"},
        {"cron": "0 9 * * 1-5", "cron_offset": "Europe/Berlin"},
        {"cron": "0 9 * * 1-5", "cron_offset": timedelta(hours=2)},
        {"time": datetime(2025, 1, 2, 3, 4, 5, 678901)},
        {"time": NOW},
        {"time": datetime(2025, 7, 2, 3, tzinfo=ZoneInfo("Europe/Berlin"))},
        pytest.param({"interval": 90}, marks=INTERVALS),
        pytest.param({"interval": timedelta(minutes=2)}, marks=INTERVALS),
    ],
    ids=str,
)
async def test_all_of_a_schedule_comes_back(storage: BaseStorageAdapter, timing: dict[str, Any]) -> None:
    source = StorageScheduleSource(storage)
    fields: dict[str, Any] = {
        "task_name": "shop.price",
        "labels": {"region": "north", "weight": 3, "raw": b"\x00"},
        "args": [1, "a", None, (1, 2), NOW, Decimal("1.10")],
        "kwargs": {"by": {"sku": ["A1"]}},
        "schedule_id": "one",
        **({"task_id": "the task's"} if "task_id" in ScheduledTask.model_fields else {}),
    }
    await source.add_schedule(ScheduledTask(**fields, **timing))
    [schedule] = await source.get_schedules()
    assert schedule == ScheduledTask(**fields, **timing)
    for name, value in timing.items():
        kept = getattr(schedule, name)
        assert isinstance(kept, type(value))
    if schedule.time is not None:
        assert schedule.time.utcoffset() == timing["time"].utcoffset()
    assert type(schedule.args[3]) is tuple


async def test_models_among_the_arguments_are_kept_as_data(storage: BaseStorageAdapter) -> None:
    source = StorageScheduleSource(storage)
    await source.add_schedule(schedule_of(args=[Total(net=Decimal("9.90"), day=date(2025, 1, 2))]))
    [schedule] = await source.get_schedules()
    assert Total.model_validate(schedule.args[0]) == Total(net=Decimal("9.90"), day=date(2025, 1, 2))


async def test_arguments_that_are_no_data(storage: BaseStorageAdapter) -> None:
    source = StorageScheduleSource(storage)
    with pytest.raises(SerializationError, match=r"'schedule:one'.*\['args'\]\[0\]"):
        await source.add_schedule(schedule_of(args=[object()]))
    assert await source.get_schedules() == []


async def test_schedules_are_added_replaced_listed_and_deleted(
    storage_adapter: BaseStorageAdapter, make_storage_adapter: MakeAdapter
) -> None:
    source = StorageScheduleSource(storage_adapter)
    for schedule in (schedule_of("b"), schedule_of("a", cron="* * * * *"), schedule_of("c")):
        await source.add_schedule(schedule)
    await source.add_schedule(schedule_of("c", task_name="other"))
    await source.delete_schedule("b")
    await source.delete_schedule("nobody")
    restarted = StorageScheduleSource(make_storage_adapter())
    assert [(schedule.schedule_id, schedule.task_name) for schedule in await restarted.get_schedules()] == [
        ("a", "t"),
        ("c", "other"),
    ]


@pytest.mark.parametrize("custom", [False, True])
async def test_schedules_outlive_the_storages_time_to_live(
    make_storage_adapter: MakeAdapter, frozen_clock: FrozenClock, custom: bool
) -> None:
    storage = make_storage_adapter(ttl_seconds=10)
    source = StorageScheduleSource(SixMethods(storage) if custom else storage)
    await source.add_schedule(schedule_of(cron="* * * * *"))
    frozen_clock.tick(timedelta(days=3650))
    assert await ids(source) == ["one"]


async def test_sources_with_prefixes_of_their_own(storage_adapter: BaseStorageAdapter) -> None:
    sources = [StorageScheduleSource(storage_adapter, prefix=prefix) for prefix in ("schedule", "[a]*", "a*")]
    for number, source in enumerate(sources):
        await source.add_schedule(schedule_of(f"schedule {number}"))
    for number, source in enumerate(sources):
        assert await ids(source) == [f"schedule {number}"]


async def test_ids_that_are_no_legal_keys(storage: BaseStorageAdapter) -> None:
    source = StorageScheduleSource(storage)
    wanted = {"x" * 5000, "x" * 5001, "", "a\0b", "*", "é" * 600, "sha256:0"}
    for schedule_id in wanted:
        await source.add_schedule(schedule_of(schedule_id))
    schedules = await source.get_schedules()
    assert {schedule.schedule_id for schedule in schedules} == wanted
    for schedule in schedules:
        assert await is_sent(source, schedule)
    assert await storage.keys() == []


async def test_entries_that_are_no_schedules(caplog: pytest.LogCaptureFixture) -> None:
    storage = ShakyAdapter()
    source = StorageScheduleSource(storage)
    await storage.set("schedule:foreign", {"cron": "* * * * *"})
    await source.add_schedule(schedule_of("damaged"))
    await source.add_schedule(schedule_of("one"))
    storage.damaged = "schedule:damaged"
    for _ in range(3):
        assert await ids(source) == ["one"]
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(logged) == 2  # each once
    assert "'schedule:damaged' cannot be read" in logged[0]
    assert "'schedule:foreign' is no stored schedule: task_name: Field required" in logged[1]
    assert await storage.get("schedule:foreign") == {"cron": "* * * * *"}
    assert not await is_sent(source, schedule_of("foreign"))


@FROZEN
async def test_a_damaged_claim_concerns_one_schedule_only(frozen_clock: FrozenClock) -> None:
    storage = ShakyAdapter()
    source = StorageScheduleSource(storage)
    for schedule_id in ("one", "two"):
        await source.add_schedule(schedule_of(schedule_id))
    storage.damaged = "schedule-claim:one"
    assert await ids(source) == ["one", "two"]
    with pytest.raises(SerializationError, match="schedule-claim:one"):
        await source.pre_send(schedule_of("one"))
    assert await is_sent(source, schedule_of("two"))


@FROZEN
async def test_schedules_are_listed_in_as_many_calls_as_one_is(frozen_clock: FrozenClock) -> None:
    class Counting(InMemoryStorageAdapter):
        calls = 0

        async def get(self, key: str) -> Any | None:
            self.calls += 1
            return await super().get(key)

        async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
            self.calls += 1
            return await super().get_many(keys)

    storage = Counting()
    source = StorageScheduleSource(storage)
    for number in range(50):
        await source.add_schedule(schedule_of(f"{number:02}"))
    assert len(await ids(source)) == 50
    assert storage.calls == 2  # the schedules, and the claims on those that are due


async def test_a_storage_that_is_gone_for_a_moment() -> None:
    storage = ShakyAdapter()
    source = StorageScheduleSource(storage)
    await source.add_schedule(schedule_of())
    storage.gone_for = 2
    assert await ids(source) == ["one"]
    storage.gone_for = 1
    with pytest.raises(StorageConnectionError):
        await StorageScheduleSource(storage, retry_for=0).get_schedules()


# --- one-offs ---------------------------------------------------------------------------------------------------------


async def test_a_one_off_is_sent_once_and_removed(storage: BaseStorageAdapter) -> None:
    source, other = StorageScheduleSource(storage), StorageScheduleSource(storage)
    await source.add_schedule(schedule_of())
    [mine], [theirs] = await source.get_schedules(), await other.get_schedules()
    await source.pre_send(mine)
    assert await other.get_schedules() == []  # while it is being sent
    assert not await is_sent(other, theirs)
    await source.post_send(mine)
    assert not await is_sent(other, theirs)
    assert await storage.keys() == []


async def test_of_many_schedulers_one_sends_a_one_off(make_storage_adapter: MakeAdapter) -> None:
    sources = [StorageScheduleSource(make_storage_adapter()) for _ in range(4)]
    for number in range(5):
        schedule = schedule_of(f"schedule {number}")
        await sources[0].add_schedule(schedule)
        assert sum(await asyncio.gather(*(is_sent(source, schedule) for source in sources * 2))) == 1
    assert await sources[0].storage.keys() == []


async def test_a_one_off_for_later_is_listed(storage: BaseStorageAdapter) -> None:
    source = StorageScheduleSource(storage)
    await source.add_schedule(schedule_of(time=datetime.now(UTC) + timedelta(days=1)))
    assert await ids(source) == ["one"]


@FROZEN
async def test_a_one_off_whose_scheduler_died_is_taken_up_again(
    storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock
) -> None:
    source, other = StorageScheduleSource(storage_adapter, resend_after=120), StorageScheduleSource(storage_adapter)
    await source.add_schedule(schedule_of())
    await source.pre_send(schedule_of())  # and died
    frozen_clock.tick(119.999)
    assert await ids(other) == []
    assert not await is_sent(other, schedule_of())
    frozen_clock.tick(0.001)
    assert await ids(other) == ["one"]
    assert await is_sent(other, schedule_of())
    await source.post_send(schedule_of())  # it was only held up: nothing is left to remove
    assert await storage_adapter.keys() == []


@pytest.mark.parametrize("custom", [False, True])
@FROZEN
async def test_a_one_off_that_is_sent_at_most_once(
    storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock, custom: bool
) -> None:
    source = (
        StorageScheduleSource(SixMethods(storage_adapter))  # has nothing to claim with but delete()
        if custom
        else StorageScheduleSource(storage_adapter, resend_after=None)
    )
    await source.add_schedule(schedule_of())
    sent = await asyncio.gather(*(source.pre_send(schedule_of()) for _ in range(5)), return_exceptions=True)
    assert sent.count(None) == 1
    assert await storage_adapter.keys() == []
    frozen_clock.tick(timedelta(days=1))
    assert await source.get_schedules() == []
    await source.add_schedule(schedule_of())  # by its own task, before the scheduler is told that it was sent
    await source.post_send(schedule_of())
    assert await ids(source) == ["one"]


@FROZEN
async def test_a_one_off_that_the_broker_refused(
    storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock
) -> None:
    broker, source = InMemoryBroker(await_inplace=True), StorageScheduleSource(storage_adapter)
    scheduler, ran = TaskiqScheduler(broker, [source]), list[tuple[Any, ...]]()
    await source.add_schedule(schedule_of(task_name="greet", args=["Ada"], kwargs={"times": 2}, labels={"a": "b"}))
    [schedule] = await source.get_schedules()
    with pytest.raises(SendTaskError):  # nobody knows this task, yet
        await scheduler.on_ready(source, schedule)

    @broker.task(task_name="greet")
    def greet(name: str, times: int) -> None:
        ran.append((name, times))

    assert await source.get_schedules() == []
    frozen_clock.tick(300)
    [schedule] = await source.get_schedules()
    await scheduler.on_ready(source, schedule)
    assert ran == [("Ada", 2)]
    assert await storage_adapter.keys() == []


async def test_a_task_that_schedules_itself_again(storage: BaseStorageAdapter) -> None:
    broker, source = InMemoryBroker(await_inplace=True), StorageScheduleSource(storage)
    scheduler, later = TaskiqScheduler(broker, [source]), NOW + timedelta(hours=1)

    @broker.task(task_name="again")
    async def again() -> None:
        await source.add_schedule(schedule_of(task_name="again", time=later))

    await source.add_schedule(schedule_of(task_name="again"))
    [schedule] = await source.get_schedules()
    await scheduler.on_ready(source, schedule)
    [schedule] = await source.get_schedules()
    assert schedule.time == later
    assert not await is_sent(source, schedule_of(task_name="again"))  # by a scheduler that read it before
    assert await is_sent(source, schedule)


async def test_what_was_deleted_or_put_off_is_not_sent(storage: BaseStorageAdapter) -> None:
    source = StorageScheduleSource(storage)
    await source.add_schedule(schedule_of("deleted"))
    await source.add_schedule(schedule_of("put off"))
    await source.add_schedule(schedule_of("stopped", cron="* * * * *"))
    read = await source.get_schedules()
    await source.delete_schedule("deleted")
    await source.delete_schedule("stopped")
    later = schedule_of("put off", time=NOW + timedelta(hours=1))
    await source.add_schedule(later)
    for schedule in read:
        assert not await is_sent(source, schedule)
    assert await is_sent(source, later)
    await source.add_schedule(schedule_of("deleted"))
    assert await is_sent(source, schedule_of("deleted"))  # nothing is left of the attempt before


async def test_a_time_without_a_zone_is_utc(storage: BaseStorageAdapter) -> None:
    source = StorageScheduleSource(storage)
    await source.add_schedule(schedule_of(time=NOW.replace(tzinfo=None)))
    assert await is_sent(source, schedule_of(time=NOW))


async def test_taskiqs_own_way_to_schedule(storage: BaseStorageAdapter) -> None:
    broker, source = InMemoryBroker(), StorageScheduleSource(storage)

    @broker.task(task_name="greet")
    def greet(name: str) -> None: ...

    await greet.schedule_by_time(source, NOW, "Ada")
    created = await greet.schedule_by_cron(source, "* * * * *", "Bea")
    assert sorted(schedule.args[0] for schedule in await source.get_schedules()) == ["Ada", "Bea"]
    await created.unschedule()
    assert [schedule.args for schedule in await source.get_schedules()] == [["Ada"]]


# --- what repeats -----------------------------------------------------------------------------------------------------


@FROZEN
async def test_cron_is_sent_once_a_minute(make_storage_adapter: MakeAdapter, frozen_clock: FrozenClock) -> None:
    sources = [StorageScheduleSource(make_storage_adapter()) for _ in range(4)]
    schedule = schedule_of(cron="* * * * *", cron_offset="Europe/Berlin")
    await sources[0].add_schedule(schedule)
    for _ in range(3):
        assert sum(await asyncio.gather(*(is_sent(source, schedule) for source in sources))) == 1
        frozen_clock.tick(54.999)  # to the last moment of the minute
        assert not await is_sent(sources[0], schedule)
        frozen_clock.tick(0.001)
        assert sum(await asyncio.gather(*(is_sent(source, schedule) for source in sources))) == 1
        frozen_clock.tick(65)
    assert await ids(sources[0]) == ["one"]


@FROZEN
@INTERVALS
async def test_an_interval_is_kept_by_all_schedulers_together(
    make_storage_adapter: MakeAdapter, frozen_clock: FrozenClock
) -> None:
    first, second = (StorageScheduleSource(make_storage_adapter()) for _ in range(2))
    schedule = schedule_of(interval=60)
    await first.add_schedule(schedule)
    for _ in range(3):
        assert await is_sent(first, schedule)
        frozen_clock.tick(20)
        assert not await is_sent(second, schedule)  # which began 20 seconds later
        frozen_clock.tick(40)
    frozen_clock.tick(20)  # the first has died
    assert await is_sent(second, schedule)
    frozen_clock.tick(59.3)  # a moment early: the last time it took the storage that long
    assert await is_sent(second, schedule)
    frozen_clock.move_to(NOW)  # a clock that was wrong, and is put right
    assert await is_sent(second, schedule)


@FROZEN
async def test_adapters_without_compare_and_set_let_every_scheduler_send(
    storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock
) -> None:
    sources = [StorageScheduleSource(SixMethods(storage_adapter)) for _ in range(3)]
    schedule = schedule_of(cron="* * * * *")
    await sources[0].add_schedule(schedule)
    assert [await is_sent(source, schedule) for source in sources] == [True, True, True]
    assert await storage_adapter.keys() == ["schedule:one"]


async def test_a_schedule_with_a_cron_and_a_time_is_sent_by_every_scheduler(
    storage_adapter: BaseStorageAdapter,
) -> None:
    sources = [StorageScheduleSource(storage_adapter) for _ in range(3)]
    schedule = schedule_of(cron="* * * * *", time=NOW)
    await sources[0].add_schedule(schedule)
    assert [await is_sent(source, schedule) for source in sources] == [True, True, True]
    assert await ids(sources[0]) == ["one"]


@FROZEN
@pytest.mark.parametrize("skips", [False, True])
async def test_one_offs_that_a_scheduler_missed_may_be_skipped(
    storage: BaseStorageAdapter, frozen_clock: FrozenClock, skips: bool
) -> None:
    missed = {"long ago": NOW - timedelta(days=1), "the minute before": NOW.replace(second=0) - timedelta(seconds=1)}
    others = {"this minute": NOW.replace(second=0), "later": NOW + timedelta(minutes=5)}
    source = StorageScheduleSource(storage, skip_past_schedules=skips)
    for schedule_id, time in (missed | others).items():
        await source.add_schedule(schedule_of(schedule_id, time=time))
    await source.add_schedule(schedule_of("cron", cron="* * * * *"))
    expected = {*others, "cron", *([] if skips else missed)}
    assert set(await ids(source)) == expected
    frozen_clock.tick(600)
    assert set(await ids(source)) == expected, "what falls due while the scheduler runs is never skipped"
    assert set(await ids(StorageScheduleSource(storage))) == {*missed, *others, "cron"}, "they are left alone"
