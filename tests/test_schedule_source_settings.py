"""The settings of ``StorageScheduleSource``: what is refused, what a prefix means, whose storage is closed."""

from typing import Any

import pytest
from taskiq import ScheduledTask

from taskiq_flow.exceptions import ConfigurationError, InvalidTTLError
from taskiq_flow.schedule_source import StorageScheduleSource
from taskiq_flow.storage import InMemoryStorageAdapter


async def test_a_prefix_means_the_same_with_a_colon_and_without() -> None:
    storage = InMemoryStorageAdapter()
    with_colon, without = (StorageScheduleSource(storage, prefix=prefix) for prefix in ("jobs:", "jobs"))
    await with_colon.add_schedule(
        ScheduledTask(task_name="t", labels={}, args=[], kwargs={}, schedule_id="1", cron="* * * * *")
    )
    assert [schedule.schedule_id for schedule in await without.get_schedules()] == ["1"]
    assert await storage.keys() == ["jobs:1"]


async def test_shutdown_closes_what_is_its_own() -> None:
    class Closing(InMemoryStorageAdapter):
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1

    for owns_storage in (None, False, True):
        storage = Closing()
        source = StorageScheduleSource(storage, owns_storage=owns_storage)
        await source.startup()
        await source.shutdown()
        assert storage.closed == bool(owns_storage)


def test_settings_that_cannot_be_used() -> None:
    wrong: Any = "redis://localhost"
    with pytest.raises(ConfigurationError, match="storage must be a BaseStorageAdapter, not 'redis://localhost'"):
        StorageScheduleSource(wrong)
    with pytest.raises(ConfigurationError, match="prefix is empty"):
        StorageScheduleSource(InMemoryStorageAdapter(), prefix="")
    with pytest.raises(InvalidTTLError):
        StorageScheduleSource(InMemoryStorageAdapter(), resend_after=0)
    with pytest.raises(ConfigurationError, match="retry_for must be a number of seconds, or 0, not -1"):
        StorageScheduleSource(InMemoryStorageAdapter(), retry_for=-1)
    assert repr(StorageScheduleSource(InMemoryStorageAdapter())).startswith("StorageScheduleSource(InMemoryStorage")
