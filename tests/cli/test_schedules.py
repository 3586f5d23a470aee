"""``taskiq-flow schedules copy``: every schedule of another source comes over, and stays there, too."""

import asyncio
import sys
from datetime import datetime, timedelta, timezone
from types import ModuleType
from typing import Any

import pytest
from taskiq import ScheduledTask, ScheduleSource
from taskiq_redis import ListRedisScheduleSource, RedisScheduleSource

from taskiq_flow.cli import main
from taskiq_flow.pytest_plugin import StorageBackend
from taskiq_flow.schedule_source import StorageScheduleSource
from taskiq_flow.storage import BaseStorageAdapter

NOW = datetime.now(timezone.utc)


def task(schedule_id: str, **when: Any) -> ScheduledTask:
    return ScheduledTask(
        task_name="shop:charge", labels={"urgent": True}, args=[1], kwargs={"a": 2}, schedule_id=schedule_id, **when
    )


SCHEDULES = [
    task("cron", cron="*/5 * * * *", cron_offset="Europe/Paris"),
    task("interval", interval=90),
    task("due", time=NOW - timedelta(days=1)),
    task("later", time=NOW + timedelta(days=400)),
]


class Kept(ScheduleSource):
    """A source in memory."""

    def __init__(self) -> None:
        self.schedules = list(SCHEDULES)

    async def get_schedules(self) -> list[ScheduledTask]:
        return self.schedules


class LikePostgres(Kept):
    """As those of taskiq-postgres are: it begins by removing everything."""

    async def startup(self) -> None:
        await self._update_schedules_on_startup([])

    async def _update_schedules_on_startup(self, schedules: list[ScheduledTask]) -> None:
        self.schedules = schedules


class Broken(Kept):
    async def get_schedules(self) -> list[ScheduledTask]:
        raise OSError("no route to host")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of an application, which holds its source."""
    found: Any = ModuleType("shop_tkq")
    monkeypatch.setitem(sys.modules, "shop_tkq", found)
    return found


async def close(source: Any) -> None:
    await source.shutdown()
    if pool := getattr(source, "_connection_pool", None):  # which the source leaves open
        await pool.disconnect()


def by_id(storage: BaseStorageAdapter) -> dict[str, ScheduledTask]:
    found = asyncio.run(StorageScheduleSource(storage).get_schedules())
    return {each.schedule_id: each for each in found}


@pytest.mark.usefixtures("storage_in_environment")
@pytest.mark.parametrize("make", [Kept, LikePostgres])
def test_every_schedule_is_copied_and_stays(
    make: type[Kept], module: Any, storage_adapter: BaseStorageAdapter, capsys: pytest.CaptureFixture[str]
) -> None:
    module.source = make()
    for _ in range(2):  # it may be done again
        assert main(["schedules", "copy", "shop_tkq:source"]) == 0
        assert capsys.readouterr() == ("copied 4 schedules\n", "")
    assert by_id(storage_adapter) == {each.schedule_id: each for each in SCHEDULES}
    assert len(module.source.schedules) == 4


@pytest.mark.filterwarnings("ignore:RedisScheduleSource is deprecated")
@pytest.mark.storage_backends("redis")
@pytest.mark.usefixtures("storage_in_environment")
@pytest.mark.parametrize("make", [ListRedisScheduleSource, RedisScheduleSource])
def test_sources_of_taskiq_redis_lose_none(
    make: Any, module: Any, storage_adapter: BaseStorageAdapter, storage_backend: StorageBackend
) -> None:
    url, prefix = storage_backend.url, f"old-{id(module)}"

    async def fill() -> None:
        source = make(url, prefix=prefix)
        for each in SCHEDULES:
            await source.add_schedule(each)
        await close(source)

    async def clear() -> None:
        source = make(url, prefix=prefix)
        for each in SCHEDULES:
            await source.delete_schedule(each.schedule_id)
        await close(source)

    asyncio.run(fill())
    module.source = make(url, prefix=prefix)
    try:
        assert main(["schedules", "copy", "shop_tkq:source"]) == 0
        assert by_id(storage_adapter) == {each.schedule_id: each for each in SCHEDULES}
    finally:
        asyncio.run(clear())


@pytest.mark.storage_backends("memory")
@pytest.mark.usefixtures("storage_in_environment")
def test_dry_run_lists_and_stores_nothing(
    module: Any, storage_adapter: BaseStorageAdapter, capsys: pytest.CaptureFixture[str]
) -> None:
    module.source = Kept()
    assert main(["schedules", "copy", "shop_tkq:source", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cron  shop:charge  cron */5 * * * *"
    assert len(lines) == 4
    assert by_id(storage_adapter) == {}


@pytest.mark.storage_backends("memory")
@pytest.mark.usefixtures("storage_in_environment")
def test_schedule_that_cannot_be_stored_is_named_and_the_others_are_copied(
    module: Any, storage_adapter: BaseStorageAdapter, capsys: pytest.CaptureFixture[str]
) -> None:
    module.source = Kept()
    module.source.schedules.insert(0, task("odd", cron="* * * * *").model_copy(update={"args": [object()]}))
    assert main(["schedules", "copy", "shop_tkq:source"]) == 1
    output = capsys.readouterr()
    assert output.out == "copied 4 schedules\n"
    assert "schedule odd of shop:charge cannot be stored: " in output.err
    assert len(by_id(storage_adapter)) == 4


@pytest.mark.parametrize(
    ("spec", "status", "told"),
    [
        ("shop_tkq", 2, "write it like 'package.module:variable'"),
        ("no_such_module:source", 2, "cannot be imported: No module named 'no_such_module'"),
        ("shop_tkq:nothing", 2, "cannot be imported"),
        ("shop_tkq:number", 2, "is not a schedule source, but int"),
        ("shop_tkq:broken", 1, "shop_tkq:broken cannot be read: OSError: no route to host"),
        ("shop_tkq:source", 2, "no storage is named"),
    ],
)
def test_what_cannot_be_used_is_told(
    spec: str, status: int, told: str, module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    module.number, module.source, module.broken = 1, Kept(), Broken()
    assert main(["schedules", "copy", spec]) == status
    assert told in capsys.readouterr().err
