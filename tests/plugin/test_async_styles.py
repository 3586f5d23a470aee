"""The fixtures work with every way of running async tests, and with none."""

import pytest

from tests.inner import InnerRun

BODY = """
        await storage_adapter.set("pipeline:run42:status", {"phase": "running"}, ttl_seconds=60)
        frozen_clock.tick(59.999)
        assert await storage_adapter.get("pipeline:run42:status") == {"phase": "running"}
        frozen_clock.tick(0.001)
        assert await storage_adapter.get("pipeline:run42:status") is None
"""

STYLES = {
    "pytest-asyncio auto": (
        "auto",
        f"""
    async def test_style(storage_adapter, frozen_clock):
{BODY}
    """,
    ),
    "pytest-asyncio strict": (
        "strict",
        f"""
    import pytest

    @pytest.mark.asyncio
    async def test_style(storage_adapter, frozen_clock):
{BODY}
    """,
    ),
    "pytest-asyncio, one loop for the module": (
        "strict",
        f"""
    import pytest

    pytestmark = pytest.mark.asyncio(loop_scope="module")

    async def test_style(storage_adapter, frozen_clock):
{BODY}
    """,
    ),
    "anyio": (
        "strict",
        f"""
    import pytest

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    async def test_style(storage_adapter, frozen_clock):
{BODY}
    """,
    ),
    "asyncio.run": (
        "strict",
        f"""
    import asyncio

    def test_style(storage_adapter, frozen_clock):
        async def body():
            {BODY.replace(chr(10), chr(10) + "    ")}
        asyncio.run(body())
        asyncio.run(body())
    """,
    ),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.storage_backends("all")
def test_async_style(inner: InnerRun, style: str, real_servers: list[str]) -> None:
    asyncio_mode, code = STYLES[style]
    result = inner(code, *real_servers, asyncio_mode=asyncio_mode)
    result.assert_outcomes(passed=5)


PIPELINE = """
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    import pytest

    from taskiq_flow.pipeline import Pipeline

    @pytest.fixture
    def campaign(flow_broker):
        @flow_broker.task(task_name="readers")
        async def readers(topic):
            return ["ann", "bob", "cid"]

        @flow_broker.task(task_name="is_asked")
        async def is_asked(name):
            return name != "bob"

        @flow_broker.task(task_name="send")
        async def send(name):
            return f"a letter to {name}"

        steps = Pipeline(flow_broker, readers).filter(is_asked, check_interval=0.01).map(send, check_interval=0.01)
        return steps.call_next(flow_broker.task(task_name="count")(len_of))

    async def len_of(letters):
        return len(letters)

    @pytest.fixture
    def all_is_stored(storage_adapter):
        yield
        with ThreadPoolExecutor() as elsewhere:  # asyncio.run takes pytest-asyncio before 1.0 its own loop
            stored = elsewhere.submit(asyncio.run, storage_adapter.keys("pipeline:*:task:*")).result()
        assert len(stored) == 1 + 4 + 3 + 1

    @pytest.fixture
    def anyio_backend():
        return "asyncio"
"""

SENDING = """
    {mark}
    async def test_sends_and_ends(all_is_stored, campaign):
        await campaign.kiq("letters")

    {mark}
    async def test_asks_later(all_is_stored, request):
        await request.getfixturevalue("campaign").kiq("letters")

    {mark}
    async def test_fails(all_is_stored, campaign):
        await campaign.kiq("letters")
        pytest.fail("for a reason of its own")
"""

OF_A_PLUGIN = {
    "pytest-asyncio auto": ("auto", ""),
    "pytest-asyncio strict": ("strict", "@pytest.mark.asyncio"),
    "pytest-asyncio, one loop for the module": ("strict", '@pytest.mark.asyncio(loop_scope="module")'),
    "anyio": ("strict", "@pytest.mark.anyio"),
}


@pytest.mark.parametrize("style", OF_A_PLUGIN)
def test_what_tasks_send_after_the_test_is_waited_for(inner: InnerRun, style: str, real_servers: list[str]) -> None:
    asyncio_mode, mark = OF_A_PLUGIN[style]
    result = inner(PIPELINE + SENDING.format(mark=mark), *real_servers, asyncio_mode=asyncio_mode)
    result.assert_outcomes(passed=10, failed=5)


ENDLESS = """
    import asyncio

    import pytest
    from taskiq import TaskiqMiddleware

    class Again(TaskiqMiddleware):
        async def post_save(self, message, result):
            await self.broker.find_task("again").kiq()

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    {mark}
    async def test_it(flow_broker):
        flow_broker.shutdown_timeout = 0.12
        flow_broker.add_middlewares(Again())

        @flow_broker.task(task_name="again")
        async def again():
            await asyncio.sleep(0.05)

        await again.kiq()

    {mark}
    async def test_next(flow_broker):
        pass
"""


@pytest.mark.parametrize("style", ["pytest-asyncio auto", "anyio"])
def test_a_chain_without_an_end_is_ended(inner: InnerRun, style: str) -> None:
    asyncio_mode, mark = OF_A_PLUGIN[style]
    result = inner(ENDLESS.format(mark=mark), "--storage-backends=memory", asyncio_mode=asyncio_mode)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "  again (*): was still running at the end of the test and 0.12 s later, and waits in again *: await *",
            "  again (*): was sent after the end of the test, when nothing is run any more",
        ]
    )
    result.stdout.no_fnmatch_line("*broken off*")


def test_flow_broker_without_an_async_plugin(inner: InnerRun) -> None:
    code = """
        import asyncio

        def test_pipeline(flow_broker, storage_adapter):
            @flow_broker.task(task_name="double")
            def double(number: int) -> int:
                return 2 * number

            async def body():
                task = await double.kiq(21)
                await flow_broker.drain()
                return (await task.get_result()).return_value

            assert asyncio.run(body()) == 42
            assert asyncio.run(body()) == 42
            assert len(asyncio.run(storage_adapter.keys("task:*"))) == 2
    """
    arguments = ["-p", "no:asyncio", "-p", "no:anyio", "--storage-backends=fakes"]
    inner(code, *arguments, asyncio_mode="").assert_outcomes(passed=3)


def test_async_fixture_of_the_users_own(inner: InnerRun) -> None:
    code = """
        import pytest_asyncio

        @pytest_asyncio.fixture
        async def stored(storage_adapter):
            await storage_adapter.set("key", "value", ttl_seconds=1)
            yield "key"
            assert await storage_adapter.delete("key")

        async def test_sees_it(stored, storage_adapter, frozen_clock):
            frozen_clock.tick(0.999)
            assert await storage_adapter.get(stored) == "value"
    """
    inner(code, "--storage-backends=fakes").assert_outcomes(passed=3)


def test_a_loop_that_is_closed_at_once(inner: InnerRun) -> None:
    """As by pytest-asyncio before 1.0, which does not let its loop finalize asynchronous generators."""
    code = """
        import asyncio, gc

        import pytest

        @pytest.fixture
        def loop(flow_broker, storage_adapter):
            loop = asyncio.new_event_loop()
            yield loop
            loop.close()

        def test_it(loop, flow_broker, storage_adapter, make_storage_adapter):
            @flow_broker.task(task_name="slow")
            async def slow() -> None:
                await asyncio.sleep(0.01)
                await later.set("key", 1)

            later = make_storage_adapter()
            loop.run_until_complete(storage_adapter.set("key", 1))
            loop.run_until_complete(slow.kiq())

        def test_nothing_is_open():
            gc.collect()  # what is not closed says so, as an error
    """
    inner(code, "--storage-backends=fakes", "-pno:asyncio", asyncio_mode="").assert_outcomes(passed=4)
