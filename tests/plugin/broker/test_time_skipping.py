"""``await frozen_clock.advance(…)``: what falls due on the way happens at its instant, in order, on every storage."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
import taskiq
from taskiq import Context, TaskiqDepends
from taskiq.schedule_sources import LabelScheduleSource

from taskiq_flow.clock import FrozenClock
from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.pytest_plugin.broker.deliveries import StuckTasksError
from taskiq_flow.schedule_source import StorageScheduleSource
from taskiq_flow.storage import BaseStorageAdapter
from tests.inner import InnerRun

MIDNIGHT = datetime(2026, 3, 29, tzinfo=timezone.utc)  # a day on which Europe's clocks change
AT_MIDNIGHT = pytest.mark.frozen_clock(at=MIDNIGHT.isoformat())

Log = list[tuple[str, str]]


@pytest.fixture
def log(flow_broker: FlowBroker, frozen_clock: FrozenClock) -> Log:
    """What ran, and when on the frozen clock; the task ``note`` writes it."""
    written: Log = []

    @flow_broker.task(task_name="note")
    async def note(text: str) -> None:
        written.append((frozen_clock.now().strftime("%H:%M:%S.%f")[:-3], text))

    return written


@AT_MIDNIGHT
@pytest.mark.parametrize("hours", [1, pytest.param(24, marks=pytest.mark.long)])
async def test_hours_of_schedules(flow_broker: FlowBroker, frozen_clock: FrozenClock, log: Log, hours: int) -> None:
    source, task = flow_broker.schedule_source, flow_broker.find_task("note")
    await task.kicker().with_schedule_id("each minute").schedule_by_cron(source, "* * * * *", "cron")
    await task.kicker().with_schedule_id("once").schedule_by_time(source, MIDNIGHT + timedelta(seconds=90.5), "once")
    cancelled = await task.schedule_by_time(source, MIDNIGHT + timedelta(minutes=30), "cancelled")
    await frozen_clock.advance(timedelta(minutes=2))
    assert log == [("00:01:00.000", "cron"), ("00:01:30.500", "once"), ("00:02:00.000", "cron")]
    await cancelled.unschedule()
    await frozen_clock.advance(timedelta(hours=hours) - timedelta(minutes=2))
    assert len(log) == 1 + hours * 60
    assert log[-1] == (f"{hours % 24:02}:00:00.000", "cron")
    assert [when for when, _ in log if not when.endswith(":00.000")] == ["00:01:30.500"]
    assert [schedule.schedule_id for schedule in await source.get_schedules()] == ["each minute"]


@AT_MIDNIGHT
@pytest.mark.storage_backends("memory", "sqlite")
async def test_jumped_over_cron_minutes_do_not_fire(
    flow_broker: FlowBroker, frozen_clock: FrozenClock, log: Log
) -> None:
    source, task = flow_broker.schedule_source, flow_broker.find_task("note")
    await task.schedule_by_cron(source, "0 * * * *", "cron")
    await task.schedule_by_time(source, MIDNIGHT + timedelta(hours=1), "once")
    frozen_clock.move_to(MIDNIGHT + timedelta(hours=5, minutes=10))
    await frozen_clock.advance(timedelta(hours=1))
    frozen_clock.tick(timedelta(hours=2))
    await frozen_clock.advance(timedelta(hours=1))
    assert log == [("05:10:00.000", "once"), ("06:00:00.000", "cron"), ("09:00:00.000", "cron")]


@AT_MIDNIGHT
@pytest.mark.storage_backends("memory", "sqlite")
async def test_every_kind_of_schedule(flow_broker: FlowBroker, frozen_clock: FrozenClock, log: Log) -> None:
    source, task = flow_broker.schedule_source, flow_broker.find_task("note")
    await task.schedule_by_time(source, MIDNIGHT - timedelta(days=1), "overdue")
    await task.schedule_by_time(source, (MIDNIGHT + timedelta(minutes=5)).replace(tzinfo=None), "naive, in UTC")
    await task.schedule_by_cron(source, "30 3 * * *", "half past three")
    kicker = task.kicker()
    if hasattr(kicker, "schedule_by_interval"):  # from taskiq 0.12 on
        await kicker.schedule_by_interval(source, timedelta(minutes=50), "interval")
    await frozen_clock.advance(timedelta(hours=2))
    await frozen_clock.advance(timedelta(hours=2))
    expected = [("00:00:00.000", "overdue"), ("00:05:00.000", "naive, in UTC"), ("03:30:00.000", "half past three")]
    assert [entry for entry in log if entry[1] != "interval"] == expected
    intervals = [when for when, text in log if text == "interval"]
    assert intervals in ([], ["00:00:00.000", "00:50:00.000", "01:40:00.000", "02:30:00.000", "03:20:00.000"])


@AT_MIDNIGHT
@pytest.mark.storage_backends("memory")
async def test_cron_in_other_time_zones(flow_broker: FlowBroker, frozen_clock: FrozenClock, log: Log) -> None:
    from taskiq.scheduler.scheduled_task import ScheduledTask

    for schedule_id, offset in (("berlin", "Europe/Berlin"), ("east", timedelta(hours=5, minutes=45))):
        await flow_broker.schedule_source.add_schedule(
            ScheduledTask(
                task_name="note",
                labels={},
                args=[schedule_id],
                kwargs={},
                schedule_id=schedule_id,
                cron="0 6 * * *",
                cron_offset=offset,
            )
        )
    await frozen_clock.advance(timedelta(days=2))
    # In Berlin it is 6 o'clock at 4 in UTC from this day on; yesterday it was at 5.
    times = [("00:15:00.000", "east"), ("04:00:00.000", "berlin")]
    assert log == times * 2


@AT_MIDNIGHT
@pytest.mark.storage_backends("memory")
async def test_a_cron_expression_that_cannot_be_used(
    flow_broker: FlowBroker, frozen_clock: FrozenClock, log: Log
) -> None:
    task = flow_broker.find_task("note")
    await task.kicker().with_schedule_id("wrong").schedule_by_cron(flow_broker.schedule_source, "61 * * *", "never")
    with pytest.raises(ConfigurationError, match=r"schedule 'wrong' of task note will never fire: .*'61 "):
        await frozen_clock.advance(60)


@AT_MIDNIGHT
@pytest.mark.storage_backends("memory", "sqlite", "redis")
async def test_what_happens_comes_to_its_end_before_time_goes_on(
    flow_broker: FlowBroker, frozen_clock: FrozenClock, log: Log, storage_adapter: BaseStorageAdapter
) -> None:
    @flow_broker.task(task_name="start")
    async def start(context: Context = TaskiqDepends()) -> list[str]:
        await asyncio.sleep(0.01)  # real time passes, and none of the clock's
        await storage_adapter.set("trace", frozen_clock.now().isoformat(), ttl_seconds=90)
        return ["a", "b"]

    @flow_broker.task(task_name="again")
    async def again() -> None:
        await Pipeline(flow_broker, start).map(flow_broker.find_task("note"), check_interval=0.001).kiq()

    await again.schedule_by_cron(flow_broker.schedule_source, "*/5 * * * *")
    await frozen_clock.advance(timedelta(minutes=10))
    assert sorted(log) == [(f"00:{minute:02}:00.000", text) for minute in (5, 10) for text in "ab"]
    assert await storage_adapter.get("trace") == (MIDNIGHT + timedelta(minutes=10)).isoformat()
    await frozen_clock.advance(89.999)
    assert await storage_adapter.exists("trace")
    await frozen_clock.advance(0.001)
    assert not await storage_adapter.exists("trace"), "lives end where they end"


@AT_MIDNIGHT
@pytest.mark.storage_backends("memory", "redis")
@pytest.mark.skipif(not hasattr(taskiq, "SmartRetryMiddleware"), reason="this taskiq has no SmartRetryMiddleware")
async def test_retries_with_delays(flow_broker: FlowBroker, frozen_clock: FrozenClock, log: Log) -> None:
    retries = taskiq.SmartRetryMiddleware(default_retry_count=4, default_delay=10, use_delay_exponent=True)
    flow_broker.add_middlewares(retries)

    @flow_broker.task(task_name="flaky", retry_on_error=True)
    async def flaky() -> str:
        log.append((frozen_clock.now().strftime("%H:%M:%S"), "try"))
        if len(log) < 3:
            raise ConnectionError("not yet")
        return "done"

    task = await flaky.kiq()
    await frozen_clock.advance(9)
    assert log == [("00:00:00", "try")]
    await frozen_clock.advance(60)
    assert [when for when, _ in log] == ["00:00:00", "00:00:10", "00:00:30"]
    assert (await task.get_result()).return_value == "done"
    await flow_broker.drain()


@AT_MIDNIGHT
@pytest.mark.storage_backends("memory")
async def test_tick_lets_go_what_is_due_too(flow_broker: FlowBroker, frozen_clock: FrozenClock, log: Log) -> None:
    await flow_broker.find_task("note").kicker().with_labels(delay=5).kiq("late")
    frozen_clock.tick(4.999)
    await asyncio.sleep(0)
    await flow_broker.wait_all()
    assert log == []
    frozen_clock.tick(0.001)
    await asyncio.sleep(0)
    await flow_broker.drain()
    assert log == [("00:00:05.000", "late")]


@AT_MIDNIGHT
@pytest.mark.storage_backends("memory")
async def test_schedules_of_other_sources(flow_broker: FlowBroker, frozen_clock: FrozenClock) -> None:
    ran: list[datetime] = []

    @flow_broker.task(task_name="labelled", schedule=[{"cron": "0 * * * *"}])
    async def labelled() -> None:
        ran.append(frozen_clock.now())

    labels = LabelScheduleSource(flow_broker)
    await labels.startup()
    flow_broker.schedule_sources.append(labels)
    await frozen_clock.advance(timedelta(hours=3))
    assert ran == [MIDNIGHT + timedelta(hours=hour) for hour in (1, 2, 3)]


@AT_MIDNIGHT
@pytest.mark.storage_backends("memory")
async def test_another_scheduler_has_sent_it(
    flow_broker: FlowBroker,
    frozen_clock: FrozenClock,
    log: Log,
    make_storage_adapter: Callable[..., BaseStorageAdapter],
) -> None:
    await flow_broker.find_task("note").schedule_by_time(flow_broker.schedule_source, MIDNIGHT, "once")
    flow_broker.schedule_sources.append(StorageScheduleSource(make_storage_adapter()))
    await frozen_clock.advance(1)
    assert log == [("00:00:00.000", "once")]


@AT_MIDNIGHT
@pytest.mark.storage_backends("memory", "sqlite")
@pytest.mark.parametrize("microseconds", [1, 999, 123_456, 999_999])
async def test_an_instant_may_have_microseconds(
    flow_broker: FlowBroker, frozen_clock: FrozenClock, log: Log, microseconds: int
) -> None:
    due = MIDNIGHT + timedelta(seconds=60, microseconds=microseconds)
    await flow_broker.find_task("note").schedule_by_time(flow_broker.schedule_source, due, "once")
    await frozen_clock.advance(timedelta(seconds=60, microseconds=microseconds - 1))
    assert log == []
    await frozen_clock.advance(timedelta(microseconds=1))
    assert len(log) == 1
    assert frozen_clock.now() == due


@AT_MIDNIGHT
@pytest.mark.storage_backends("memory")
@pytest.mark.parametrize("how", ["schedule", "delay"])
async def test_what_is_due_again_at_once_without_an_end_is_an_error(
    flow_broker: FlowBroker, frozen_clock: FrozenClock, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("taskiq_flow.pytest_plugin.broker.clock_driver._MOST_AT_ONE_INSTANT", 30)
    runs: list[datetime] = []

    @flow_broker.task(task_name="again")
    async def again() -> None:
        runs.append(frozen_clock.now())
        if how == "schedule":
            kicker = again.kicker().with_schedule_id(f"number {len(runs)}")
            await kicker.schedule_by_time(flow_broker.schedule_source, MIDNIGHT - timedelta(days=1))
        elif len(runs) < 300:
            await again.kicker().with_labels(delay=0.0001).kiq()

    await again.schedule_by_time(flow_broker.schedule_source, MIDNIGHT + timedelta(seconds=30))
    what = "schedule 'number [0-9]+' of task again" if how == "schedule" else "a message that is delayed"
    with pytest.raises(StuckTasksError, match=rf"at 2026-03-29T00:00:30\+00:00 .* things have fired, and {what}"):
        await frozen_clock.advance(60)
    assert 30 <= len(runs) < 60
    assert set(runs) == {MIDNIGHT + timedelta(seconds=30)}


@AT_MIDNIGHT
@pytest.mark.storage_backends("memory")
async def test_much_may_be_due_at_one_instant(
    flow_broker: FlowBroker, frozen_clock: FrozenClock, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    monkeypatch.setattr("taskiq_flow.pytest_plugin.broker.clock_driver._MOST_AT_ONE_INSTANT", 30)
    for number in range(40):
        await flow_broker.find_task("note").schedule_by_time(flow_broker.schedule_source, MIDNIGHT, str(number))
    await frozen_clock.advance(1)
    assert len(log) == 40


@AT_MIDNIGHT
@pytest.mark.storage_backends("memory")
@pytest.mark.flow_broker(loses="still running")
async def test_what_does_not_come_to_its_end_is_named(
    flow_broker: FlowBroker, frozen_clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskiq_flow.pytest_plugin.broker.clock_driver._TIMEOUT", 0.05)
    flow_broker.shutdown_timeout = 0.05

    @flow_broker.task(task_name="stuck")
    async def stuck() -> None:
        await asyncio.Event().wait()

    await stuck.kiq()
    with pytest.raises(StuckTasksError, match=r"stuck .* waits in stuck"):
        await frozen_clock.advance(60)


@pytest.mark.storage_backends("memory")
async def test_without_a_broker_it_is_tick(storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock) -> None:
    await storage_adapter.set("key", 1, ttl_seconds=60)
    before = frozen_clock.now()
    assert await frozen_clock.advance(60) == before + timedelta(seconds=60)
    assert not await storage_adapter.exists("key")
    with pytest.raises(ValueError, match="only moves forward"):
        await frozen_clock.advance(-1)


def test_the_clock_drives_the_broker_whichever_is_asked_for_first(inner: InnerRun) -> None:
    code = """
        import pytest

        async def reminded(flow_broker, frozen_clock):
            ran = []

            @flow_broker.task(task_name="remind")
            async def remind():
                ran.append(1)

            await remind.schedule_by_cron(flow_broker.schedule_source, "* * * * *")
            await remind.kicker().with_labels(delay=90).kiq()
            await frozen_clock.advance(120)
            return len(ran) == 3

        async def test_arguments(frozen_clock, flow_broker):
            assert await reminded(flow_broker, frozen_clock)

        async def test_arguments_the_other_way_round(flow_broker, frozen_clock):
            assert await reminded(flow_broker, frozen_clock)

        async def test_the_clock_later(flow_broker, request):
            assert await reminded(flow_broker, request.getfixturevalue("frozen_clock"))

        async def test_the_broker_later(frozen_clock, request, storage_backend):
            assert await reminded(request.getfixturevalue("flow_broker"), frozen_clock)

        async def test_both_later(request, storage_backend):
            broker = request.getfixturevalue("flow_broker")
            assert await reminded(broker, request.getfixturevalue("frozen_clock"))

        async def test_both_later_the_other_way_round(request, storage_backend):
            frozen = request.getfixturevalue("frozen_clock")
            assert await reminded(request.getfixturevalue("flow_broker"), frozen)

        async def test_neither(request):
            assert await request.getfixturevalue("frozen_clock").advance(1)
    """
    inner(code, "--storage-backends=memory").assert_outcomes(passed=7)
