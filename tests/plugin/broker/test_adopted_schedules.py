"""Adopted schedulers and sources: the same objects, whose schedules are in the test's storage and fire on its clock."""

import warnings
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from taskiq import (
    AsyncBroker,
    ScheduledTask,
    ScheduleSource,
    SmartRetryMiddleware,
    TaskiqMiddleware,
    TaskiqResult,
    TaskiqScheduler,
)
from taskiq.kicker import AsyncKicker
from taskiq.schedule_sources import LabelScheduleSource
from taskiq_redis import ListRedisScheduleSource, RedisScheduleSource

from taskiq_flow.clock import FrozenClock
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.pytest_plugin.faults import StorageFaults
from taskiq_flow.schedule_source import StorageScheduleSource
from taskiq_flow.storage import BaseStorageAdapter
from tests.plugin.broker.application import Noted, ProductionBroker, ProductionSource, ProductionStorage

MIDNIGHT = datetime(2026, 3, 29, tzinfo=timezone.utc)
pytestmark = [pytest.mark.frozen_clock(at=MIDNIGHT.isoformat()), pytest.mark.storage_backends("memory", "sqlite")]

NOWHERE = "redis://production.invalid"


def redis_schedule_source() -> RedisScheduleSource:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return RedisScheduleSource(NOWHERE)


class Overriding(ListRedisScheduleSource):
    """An application's own subclass of a library's source."""

    def __init__(self) -> None:
        super().__init__(NOWHERE)
        self.calls: list[str] = []

    async def add_schedule(self, schedule: ScheduledTask) -> None:
        self.calls.append("add")
        await super().add_schedule(schedule)

    async def pre_send(self, task: ScheduledTask) -> None:
        self.calls.append("pre_send")

    async def post_send(self, task: ScheduledTask) -> None:
        self.calls.append("post_send")
        await super().post_send(task)


SOURCES: dict[str, Callable[[], ScheduleSource]] = {
    "a list on Redis": lambda: ListRedisScheduleSource(NOWHERE),
    "keys on Redis": redis_schedule_source,
    "the kit's": lambda: StorageScheduleSource(ProductionStorage()),
    "the application's own": ProductionSource,
    "a subclass": Overriding,
}


@pytest.fixture
def runs() -> list[str]:
    """When the task ``note`` ran, on the frozen clock, and with which text."""
    return []


@pytest.fixture
def broker(frozen_clock: FrozenClock, runs: list[str]) -> AsyncBroker:
    """An application's broker, with a task."""
    made = ProductionBroker()

    @made.task(task_name="note")
    async def note(text: str = "") -> None:
        runs.append(f"{frozen_clock.now():%H:%M} {text}".strip())

    return made


def task_of(broker: AsyncBroker) -> Any:
    return broker.find_task("note")


@pytest.mark.parametrize("kind", SOURCES)
async def test_a_source_keeps_its_schedules_in_the_tests_storage(
    flow_broker: FlowBroker, broker: AsyncBroker, frozen_clock: FrozenClock, runs: list[str], kind: str
) -> None:
    source = SOURCES[kind]()
    flow_broker.adopt(TaskiqScheduler(broker, [source]))
    await source.startup()
    await task_of(broker).schedule_by_time(source, MIDNIGHT + timedelta(minutes=5), "once")
    cancelled = await task_of(broker).schedule_by_cron(source, "30 * * * *", "cancelled")
    await task_of(broker).schedule_by_cron(source, "0 1 * * *", "cron")
    await cancelled.unschedule()
    assert len(await source.get_schedules()) == 2
    await frozen_clock.advance(timedelta(hours=2))
    await source.shutdown()
    assert runs == ["00:05 once", "01:00 cron"]
    assert [schedule.args for schedule in await source.get_schedules()] == [["cron"]]
    if isinstance(source, Overriding):
        assert source.calls == ["add"] * 3 + ["pre_send", "post_send"] * 2
    if isinstance(source, ProductionSource):
        assert source.sent == ["note"] * 2


def test_in_the_end_a_source_is_as_it_was(flow_broker: FlowBroker) -> None:
    sources = [make() for make in SOURCES.values()]
    before = [{**vars(source), "class": type(source)} for source in sources]
    flow_broker.adopt(*sources)
    assert [type(source) for source in sources] != [each["class"] for each in before]
    flow_broker.close_from_outside()
    assert [{**vars(source), "class": type(source)} for source in sources] == before


async def test_faults_of_the_storage_reach_a_source(
    storage_faults: StorageFaults, flow_broker: FlowBroker, broker: AsyncBroker
) -> None:
    source = ListRedisScheduleSource(NOWHERE)
    flow_broker.adopt(broker, source)
    fault = storage_faults.fail("set_entry")
    await task_of(broker).schedule_by_cron(source, "* * * * *")
    assert fault.happened == 1, "and it was tried again"


async def test_sources_are_apart(flow_broker: FlowBroker, broker: AsyncBroker) -> None:
    one, two = ListRedisScheduleSource(NOWHERE), ListRedisScheduleSource(NOWHERE)
    flow_broker.adopt(one, broker)
    flow_broker.adopt(two)
    await task_of(broker).schedule_by_cron(one, "* * * * *")
    assert [len(await source.get_schedules()) for source in (one, two, flow_broker.schedule_source)] == [1, 0, 0]


async def test_a_source_by_itself_fires_through_the_broker_of_each_task(
    flow_broker: FlowBroker, broker: AsyncBroker, frozen_clock: FrozenClock, runs: list[str]
) -> None:
    source, seen, other_seen = ListRedisScheduleSource(NOWHERE), Noted(), Noted()
    broker.add_middlewares(seen)
    other = ProductionBroker().with_middlewares(other_seen)
    other.register_task(lambda: runs.append("other"), task_name="other")
    flow_broker.adopt(source, other, broker)
    await task_of(broker).schedule_by_cron(source, "0 * * * *")
    other_task: Any = other.find_task("other")
    await other_task.schedule_by_cron(source, "0 * * * *")
    await frozen_clock.advance(timedelta(hours=1))
    assert sorted(runs) == ["01:00", "other"]
    assert [seen.seen, other_seen.seen] == [["sends note", "runs note"], ["sends other", "runs other"]]


async def test_a_scheduler_sends_by_itself(
    flow_broker: FlowBroker, broker: AsyncBroker, frozen_clock: FrozenClock, runs: list[str]
) -> None:
    ready: list[str] = []

    class Own(TaskiqScheduler):
        async def on_ready(self, source: ScheduleSource, task: ScheduledTask) -> None:
            ready.append(task.task_name)
            await super().on_ready(source, task)

    source = ListRedisScheduleSource(NOWHERE)
    scheduler = Own(broker, [source])
    flow_broker.adopt(scheduler, source)
    await task_of(broker).schedule_by_time(source, MIDNIGHT)
    await frozen_clock.advance(1)
    assert [ready, runs] == [["note"], ["00:00"]]


async def test_a_source_that_a_task_is_scheduled_on_is_adopted_with_its_broker(
    flow_broker: FlowBroker, broker: AsyncBroker, frozen_clock: FrozenClock, runs: list[str]
) -> None:
    source = ListRedisScheduleSource(NOWHERE)
    schedule_by_time = AsyncKicker.schedule_by_time
    flow_broker.adopt(broker)
    await task_of(broker).schedule_by_time(source, MIDNIGHT + timedelta(minutes=5))
    await frozen_clock.advance(timedelta(minutes=10))
    assert runs == ["00:05"]
    assert AsyncKicker.schedule_by_time is not schedule_by_time
    flow_broker._adoption.release()
    assert AsyncKicker.schedule_by_time is schedule_by_time
    assert type(source) is ListRedisScheduleSource


# --- labels -----------------------------------------------------------------------------------------------------------


def add_labelled(broker: AsyncBroker, runs: list[str]) -> None:
    @broker.task(task_name="labelled", schedule=[{"cron": "*/20 * * * *"}])
    async def labelled() -> None:
        runs.append("labelled")


@pytest.mark.parametrize("how", ["without a scheduler", "by its scheduler", "by itself", "by the fixture"])
async def test_labels_fire(
    flow_broker: FlowBroker, broker: AsyncBroker, frozen_clock: FrozenClock, runs: list[str], how: str
) -> None:
    add_labelled(broker, runs)
    labels = LabelScheduleSource(broker)
    if how == "by its scheduler":
        flow_broker.adopt(TaskiqScheduler(broker, [labels]))
    elif how == "by itself":
        flow_broker.adopt(labels, broker)
    else:
        flow_broker.adopt(broker)
    if how == "by the fixture":
        flow_broker.schedule_sources.append(labels)
    await frozen_clock.advance(timedelta(hours=1))
    assert runs == ["labelled"] * 3
    assert type(labels) is LabelScheduleSource


async def test_the_sources_of_a_scheduler_decide(
    flow_broker: FlowBroker, broker: AsyncBroker, frozen_clock: FrozenClock, runs: list[str]
) -> None:
    add_labelled(broker, runs)
    flow_broker.adopt(broker)
    flow_broker.adopt(TaskiqScheduler(broker, [ListRedisScheduleSource(NOWHERE)]))
    await frozen_clock.advance(timedelta(hours=1))
    assert runs == []


# --- retries by schedule ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("back_off", [False, True])
async def test_retries_by_schedule_come_to_an_end(
    flow_broker: FlowBroker, frozen_clock: FrozenClock, jitter: bool, back_off: bool
) -> None:
    source, runs = ListRedisScheduleSource(NOWHERE), []
    retries = SmartRetryMiddleware(
        default_retry_count=4,
        default_retry_label=True,
        default_delay=7.5,
        use_jitter=jitter,
        use_delay_exponent=back_off,
        schedule_source=source,
    )
    broker = ProductionBroker().with_middlewares(retries)

    @broker.task(task_name="fails")
    async def fails() -> None:
        runs.append(frozen_clock.now())
        raise ValueError

    flow_broker.adopt(broker)
    frozen_clock.move_to(datetime.now(timezone.utc))
    await fails.kiq()
    await frozen_clock.advance(200)
    assert len(runs) == 4
    assert runs == sorted(runs), "what is overdue fires at the instant of the clock"
    assert await source.get_schedules() == []


async def test_what_a_middleware_holds_is_adopted(
    flow_broker: FlowBroker, storage_adapter: BaseStorageAdapter, broker: AsyncBroker
) -> None:
    class Reminding(TaskiqMiddleware):
        """Schedules something for each task that has ended."""

        def __init__(self, where: ScheduleSource) -> None:
            super().__init__()
            self.where = where

        async def post_execute(self, message: Any, result: TaskiqResult[Any]) -> None:
            await self.where.add_schedule(
                ScheduledTask(task_name="note", labels={}, args=[], kwargs={}, cron="0 0 1 1 *")
            )

    source = ListRedisScheduleSource(NOWHERE)
    broker.add_middlewares(Reminding(source))
    flow_broker.adopt(broker)
    await task_of(broker).kiq()
    await flow_broker.drain()
    assert len(await source.get_schedules()) == 1
    assert len(await storage_adapter.keys("schedule-1:*")) == 1


async def test_a_source_that_reads_labels_at_startup_has_them(
    flow_broker: FlowBroker, broker: AsyncBroker, frozen_clock: FrozenClock, runs: list[str]
) -> None:
    class Labelled(ListRedisScheduleSource):
        """What taskiq-postgres has: its own startup stores the schedules in labels."""

        def extract_scheduled_tasks_from_broker(self) -> list[ScheduledTask]:
            cron = broker.get_all_tasks()["labelled"].labels["schedule"][0]["cron"]
            return [ScheduledTask(task_name="labelled", labels={}, args=[], kwargs={}, cron=cron)]

    add_labelled(broker, runs)
    source = Labelled(NOWHERE)
    flow_broker.adopt(TaskiqScheduler(broker, [source]))
    await source.startup()
    await frozen_clock.advance(timedelta(hours=1))
    assert runs == ["labelled"] * 3
