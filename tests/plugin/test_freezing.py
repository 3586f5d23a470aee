"""Freezing the time, by any tool at any moment, leaves the process sound: no module keeps a fake of what it imports."""

import pytest

from tests.inner import InnerRun

USE = """
    import taskiq

    async def use(flow_broker):
        @flow_broker.task(task_name="one")
        async def one():
            return 1

        task = await one.kiq()
        await flow_broker.drain()
        assert (await task.get_result()).return_value == 1
        await one.schedule_by_cron(flow_broker.schedule_source, "0 0 1 1 *")
        assert len(await flow_broker.schedule_source.get_schedules()) == 1
"""
AFTER = """
    async def test_ordinary(flow_broker):
        import datetime
        import sys

        await use(flow_broker)
        assert datetime.datetime.__module__ == "datetime"
        fakes = [
            f"{name}.{attribute}"
            for name, module in list(sys.modules.items())
            if name.startswith(("taskiq", "sqlalchemy", "redis", "fakeredis", "aiosqlite"))
            for attribute, value in list(vars(module).items())
            if getattr(value, "__module__", None) == "freezegun.api"
        ]
        assert fakes == []
"""
TOOLS = {
    "the marker": """
    import pytest

    @pytest.mark.frozen_clock(everything=True)
    async def test_frozen(frozen_clock, flow_broker):
        await use(flow_broker)
        await frozen_clock.advance(60)
""",
    "an autouse fixture": """
    import pytest
    from freezegun import freeze_time

    @pytest.fixture(autouse=True)
    def frozen(request):
        if "ordinary" in request.node.name:
            yield
        else:
            with freeze_time("2030-01-01", real_asyncio=True):
                yield

    async def test_frozen(flow_broker):
        await use(flow_broker)
""",
    "a decorator": """
    from freezegun import freeze_time

    @freeze_time("2030-01-01", real_asyncio=True)
    async def test_frozen(request, storage_backend):
        await use(request.getfixturevalue("flow_broker"))
""",
    "a module's fixture": """
    import pytest
    from freezegun import freeze_time

    @pytest.fixture(scope="module")
    def frozen():
        frozen = freeze_time("2030-01-01", real_asyncio=True)
        frozen.start()
        yield frozen
        frozen.stop()

    async def test_frozen(frozen, storage_adapter, flow_broker):
        await storage_adapter.set("key", 1, ttl_seconds=60)
        await use(flow_broker)
        frozen.stop()
        frozen.start()
""",
}


@pytest.mark.parametrize("tool", TOOLS)
def test_what_is_first_imported_while_the_time_is_frozen(inner: InnerRun, tool: str) -> None:
    ordinary_later = (
        AFTER
        if tool != "a module's fixture"
        else AFTER.replace("(flow_broker):", "(flow_broker, frozen):\n        frozen.stop()").replace(
            "assert fakes == []", "frozen.start()\n        assert fakes == []"
        )
    )
    result = inner(USE + TOOLS[tool] + ordinary_later, "--storage-backends=fakes")
    result.assert_outcomes(passed=6)


def test_the_fixture_of_pytest_freezer(inner: InnerRun) -> None:
    code = """
    async def test_frozen(freezer, flow_broker):
        await use(flow_broker)
        freezer.tick(10)
"""
    inner(USE + code + AFTER, "--storage-backends=memory", companions=True).assert_outcomes(passed=2)


def test_all_tests_frozen_by_the_ini_file(inner: InnerRun) -> None:
    code = """
    async def test_frozen(frozen_clock, flow_broker):
        await use(flow_broker)
"""
    inner(USE + code + AFTER, "--storage-backends=memory", ini="frozen_clock = everything").assert_outcomes(passed=2)
