"""What a schedule means."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from taskiq import ScheduledTask

from taskiq_flow import schedules
from taskiq_flow.exceptions import ConfigurationError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def scheduled(**timing: Any) -> ScheduledTask:
    return ScheduledTask(task_name="t", labels={}, args=[], kwargs={}, schedule_id="1", **timing)


def test_a_time_without_a_zone_is_utc() -> None:
    assert schedules.aware_time(scheduled(time=NOON.replace(tzinfo=None))) == NOON
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5)))
    assert schedules.aware_time(scheduled(time=elsewhere)) == NOON
    assert schedules.aware_time(scheduled(cron="* * * * *")) is None


@pytest.mark.parametrize("interval", [90, timedelta(seconds=90)])
def test_an_interval_is_a_timedelta(interval: Any) -> None:
    assert schedules.interval_of(scheduled(interval=interval)) == timedelta(seconds=90)
    assert schedules.interval_of(scheduled(time=NOON)) is None


def test_a_schedule_that_is_changed_to_another_time_is_another_one() -> None:
    same = [scheduled(interval=90), scheduled(interval=timedelta(seconds=90))]
    assert len({schedules.identity(each) for each in same}) == 1
    others = [
        scheduled(interval=91),
        scheduled(time=NOON),
        scheduled(cron="0 9 * * *"),
        scheduled(cron="0 9 * * *", cron_offset="Europe/Berlin"),
        scheduled(cron="0 9 * * *", cron_offset=timedelta(hours=1)),
    ]
    assert len({schedules.identity(each) for each in [*same, *others]}) == 1 + len(others)


@pytest.mark.parametrize(
    ("cron", "offset", "is_due"),
    [
        ("0 12 * * *", None, True),
        ("0 13 * * *", None, False),
        ("0 13 * * *", "Europe/Berlin", True),
        ("0 14 * * *", timedelta(hours=2), True),
        ("0 12 * * *", "Europe/Berlin", False),
    ],
)
def test_a_cron_expression_is_read_in_its_zone(cron: str, offset: Any, is_due: bool) -> None:
    assert schedules.is_cron_due(scheduled(cron=cron, cron_offset=offset), NOON) is is_due


@pytest.mark.parametrize(("cron", "offset"), [("every day", None), ("0 9 * * *", "Europe/Atlantis")])
def test_a_cron_expression_that_cannot_be_read_is_named(cron: str, offset: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"the schedule .1. of task t will never fire"):
        schedules.is_cron_due(scheduled(cron=cron, cron_offset=offset), NOON)
