"""``storage_faults``: a bad day, on every storage, for one test and nobody else."""

import asyncio
import math
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from taskiq_pipelines import Pipeline

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import SerializationError, StorageConnectionError
from taskiq_flow.pytest_plugin import StorageBackend
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.pytest_plugin.faults import OPERATIONS, Fault, StorageFaults
from taskiq_flow.result_backend import StorageResultBackend
from taskiq_flow.storage import BaseStorageAdapter, StorageAdapterFactory
from tests.inner import InnerRun, on

Make = Callable[..., BaseStorageAdapter]


async def test_the_next_call_fails(storage_adapter: BaseStorageAdapter, storage_faults: StorageFaults) -> None:
    await storage_adapter.set("key", "before")
    fault = storage_faults.fail("set")
    with pytest.raises(StorageConnectionError, match=r"set\('key'\) failed: storage_faults.fail\(\) was asked for"):
        await storage_adapter.set("key", "refused")
    assert await storage_adapter.get("key") == "before"
    await storage_adapter.set("key", "after")
    assert await storage_adapter.get("key") == "after"
    assert fault.happened == 1


async def test_calls_fail_as_told(
    storage_adapter: BaseStorageAdapter, make_storage_adapter: Make, storage_faults: StorageFaults
) -> None:
    fault = storage_faults.fail(times=None, error=PermissionError("no"))
    for call in (storage_adapter.get("key"), storage_adapter.keys(), make_storage_adapter().exists("key")):
        with pytest.raises(PermissionError, match=r"^no$"):
            await call
    with pytest.raises(PermissionError):
        await make_storage_adapter(namespace="beside").cleanup()
    fault.undo()
    assert await storage_adapter.keys() == []
    assert fault.happened == 4
    storage_faults.fail("get", times=2, error=SerializationError)
    for _ in range(2):
        with pytest.raises(SerializationError, match=r"get\('key'\) failed"):
            await storage_adapter.get("key")
    assert await storage_adapter.get("key") is None


async def test_calls_are_late(storage_adapter: BaseStorageAdapter, storage_faults: StorageFaults) -> None:
    late = storage_faults.delay(1.9, op="get")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(storage_adapter.get("key"), 0.05)
    late.undo()
    storage_faults.delay(0.01, op="get", times=1)
    assert await storage_adapter.get("key") is None


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskiq_flow.pytest_plugin.faults._TIMEOUT", 0.5)


@pytest.mark.usefixtures("short_timeout")
async def test_a_call_has_one_timeout_for_all_its_delays(
    storage_adapter: BaseStorageAdapter, storage_faults: StorageFaults
) -> None:
    late = [storage_faults.delay(0.4), storage_faults.delay(0.4)]
    with pytest.raises(StorageConnectionError, match=r"get\('key'\) failed: no answer within 0\.5 s"):
        await storage_adapter.get("key")
    late[1].undo()
    storage_faults.pause()
    with pytest.raises(StorageConnectionError, match=r"no answer within 0\.5 s"):
        await storage_adapter.get("key")


async def test_a_record_is_damaged(
    storage_adapter: BaseStorageAdapter, make_storage_adapter: Make, storage_faults: StorageFaults
) -> None:
    beside = make_storage_adapter(namespace="beside")
    for adapter in (storage_adapter, beside):
        await adapter.set("it's", 1)
        await adapter.set("other", 2)
    storage_faults.corrupt("it's")
    storage_faults.corrupt("other", namespace="beside")
    with pytest.raises(SerializationError, match="it's"):
        await storage_adapter.get("it's")
    with pytest.raises(SerializationError, match="other"):
        await beside.get("other")
    assert await storage_adapter.get("other") == 2
    assert await beside.get("it's") == 1
    with pytest.raises(LookupError, match="nothing is stored under 'nothing'"):
        storage_faults.corrupt("nothing")


@pytest.mark.storage_backends("all")
async def test_connections_are_lost(
    storage_adapter: BaseStorageAdapter,
    storage_config: TaskiqFlowConfig,
    storage_backend: StorageBackend,
    storage_faults: StorageFaults,
) -> None:
    assert storage_faults.disconnect() == 0
    async with (
        StorageAdapterFactory.create_storage_adapter(storage_config) as theirs,
        StorageAdapterFactory.create_storage_adapter(
            storage_config.model_copy(update={"storage_url": storage_backend.url})
        ) as somebody_elses,
    ):
        for adapter in (storage_adapter, theirs, somebody_elses):
            await adapter.set("key", 1)
        # That somebody else's is not cut is seen by its own connection below.
        assert storage_faults.disconnect() == (2 if storage_backend.is_real else 0)
        for adapter in (storage_adapter, theirs, somebody_elses):
            assert await adapter.get("key") == 1
        storage_faults.delay(1.0, op="set")
        late = asyncio.gather(storage_adapter.set("key", 2), theirs.set("key", 2), return_exceptions=True)
        await asyncio.sleep(0.05)
        storage_faults.disconnect()
        assert [type(outcome) for outcome in await late] == [StorageConnectionError] * 2
        assert await storage_adapter.get("key") == 1


@pytest.mark.storage_backends("redis", "postgres", "valkey")
def test_so_they_are_where_a_users_url_gives_them_a_name(inner: InnerRun, storage_backend: StorageBackend) -> None:
    code = """
        async def test_named(storage_adapter, storage_faults):
            await storage_adapter.set("key", 1)
            storage_faults.corrupt("key")
            await storage_adapter.set("key", 2)
            assert storage_faults.disconnect() == 1
            assert await storage_adapter.get("key") == 2
    """
    name = "application_name" if storage_backend.name == "postgres" else "client_name"
    url = storage_backend.url
    if f"{name}=" not in url:  # as this run's own may have
        url += f"{'&' if '?' in url else '?'}{name}=ci"
    inner(code, *on(storage_backend.name, url)).assert_outcomes(passed=1)


@pytest.mark.storage_backends("all")
async def test_calls_wait_while_the_storage_hangs(
    storage_adapter: BaseStorageAdapter, storage_faults: StorageFaults
) -> None:
    await storage_adapter.set("key", 1)
    with storage_faults.pause():
        waiting = asyncio.ensure_future(storage_adapter.get("key"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
    assert await waiting == 1


@pytest.mark.storage_backends("all")
@pytest.mark.usefixtures("short_timeout")
async def test_calls_fail_after_the_timeout_while_the_storage_hangs(
    storage_adapter: BaseStorageAdapter, storage_backend: StorageBackend, storage_faults: StorageFaults
) -> None:
    await storage_adapter.set("key", 1)
    storage_faults.pause()
    with pytest.raises(StorageConnectionError, match=r"no answer within 0\.5 s") as caught:
        await storage_adapter.get("key")
    if storage_backend.is_real:
        assert str(urlsplit(storage_backend.url).password) not in str(caught.value)
    storage_faults.resume()
    assert await storage_adapter.get("key") == 1


@pytest.mark.storage_backends("all")
@pytest.mark.usefixtures("short_timeout")
async def test_what_was_given_up_while_the_storage_hung_is_never_done(
    storage_adapter: BaseStorageAdapter, storage_faults: StorageFaults
) -> None:
    await storage_adapter.set("key", "old")
    with storage_faults.pause(), pytest.raises(StorageConnectionError):
        await storage_adapter.set("key", "new")
    await asyncio.sleep(0.3)  # real time, for the server of another process
    assert await storage_adapter.get("key") == "old"


@pytest.mark.storage_backends("all")
@pytest.mark.usefixtures("short_timeout")
async def test_nor_is_what_came_in_parts_or_was_given_up_by_its_caller(
    storage_adapter: BaseStorageAdapter, storage_faults: StorageFaults
) -> None:
    for key in ("long", "short"):
        await storage_adapter.set(key, "old")
    with storage_faults.pause():
        long = asyncio.ensure_future(storage_adapter.set("long", "new" * 2**20))
        short = asyncio.ensure_future(storage_adapter.set("short", "new"))
        await asyncio.sleep(0.05)
        short.cancel()
        outcomes = await asyncio.gather(long, short, return_exceptions=True)
    assert type(outcomes[0]) is StorageConnectionError
    assert type(outcomes[1]) is asyncio.CancelledError
    await asyncio.sleep(0.3)  # real time, as above
    assert [await storage_adapter.get(key) for key in ("long", "short")] == ["old", "old"]


@pytest.mark.storage_backends("all")
async def test_what_is_still_wanted_when_the_storage_has_hung_is_done(
    storage_adapter: BaseStorageAdapter, storage_faults: StorageFaults
) -> None:
    value = "new" * 2**20
    with storage_faults.pause():
        waiting = asyncio.ensure_future(storage_adapter.set("key", value))
        await asyncio.sleep(0.2)
    await waiting
    assert await storage_adapter.get("key") == value


@pytest.mark.storage_backends("memory")
@pytest.mark.parametrize(
    ("settings", "refused", "complaint"),
    [
        ({"op": "save"}, ValueError, f"no operation 'save'; known are: {', '.join(OPERATIONS)}"),
        ({"times": 0}, ValueError, "times must be a whole number above 0, or None for all calls, not 0"),
        ({"times": -1}, ValueError, "not -1$"),
        ({"times": True}, ValueError, "not True$"),
        ({"times": 1.5}, ValueError, r"not 1\.5$"),
        ({"error": "x"}, TypeError, "error must be an exception or a class of exceptions, not 'x'"),
        ({"error": int}, TypeError, "not <class 'int'>"),
        ({"error": UnicodeDecodeError}, TypeError, r"made of a message alone \(.+\): give error=UnicodeDecodeError\("),
        ({"seconds": 0}, ValueError, "seconds must be a number of seconds above 0, not 0"),
        ({"seconds": -1}, ValueError, "not -1$"),
        ({"seconds": math.nan}, ValueError, "not nan$"),
        ({"seconds": math.inf}, ValueError, "not inf$"),
        ({"seconds": True}, ValueError, "not True$"),
        ({"seconds": "1"}, ValueError, "not '1'$"),
        ({"seconds": 1, "op": "save"}, ValueError, "no operation 'save'"),
        ({"seconds": 1, "times": 0}, ValueError, "not 0$"),
    ],
)
async def test_what_is_illegal_is_refused_at_once(
    storage_adapter: BaseStorageAdapter,
    storage_faults: StorageFaults,
    settings: dict[str, Any],
    refused: type[Exception],
    complaint: str,
) -> None:
    ask = storage_faults.delay if "seconds" in settings else storage_faults.fail
    with pytest.raises(refused, match=complaint):
        ask(**settings)
    assert await storage_adapter.get("key") is None


@pytest.mark.usefixtures("short_timeout")
async def test_what_reaches_adapters_that_were_made_before_it(
    request: pytest.FixtureRequest, storage_adapter: BaseStorageAdapter, storage_backend: StorageBackend
) -> None:
    await storage_adapter.set("key", 1)
    storage_faults: StorageFaults = request.getfixturevalue("storage_faults")
    for fault in (storage_faults.fail(), storage_faults.delay(60, times=1)):
        with pytest.raises(StorageConnectionError):
            await storage_adapter.get("key")
        assert fault.happened == 1
    assert storage_faults.disconnect() == 0
    with storage_faults.pause():
        if storage_backend.is_real:
            assert await storage_adapter.get("key") == 1
        else:
            with pytest.raises(StorageConnectionError):
                await storage_adapter.get("key")
    storage_faults.corrupt("key")
    with pytest.raises(SerializationError):
        await storage_adapter.get("key")


def test_all_is_undone(inner: InnerRun) -> None:
    code = """
        import pytest

        @pytest.fixture
        async def seen_afterwards(storage_adapter):
            yield
            assert await storage_adapter.keys() == []

        async def test_leaves_all_behind(seen_afterwards, storage_adapter, storage_faults):
            storage_faults.fail(times=None)
            storage_faults.delay(60)
            storage_faults.pause()

        async def test_sees_nothing_of_it(storage_adapter):
            assert await storage_adapter.keys() == []
    """
    # The first test's own fixture, torn down before storage_faults, still meets the faults.
    inner(code, "--storage-backends=fakes").assert_outcomes(passed=6, errors=3)


def test_all_is_undone_where_a_loop_was_closed_with_a_call_waiting(inner: InnerRun, real_servers: list[str]) -> None:
    code = """
        import asyncio
        import socket
        from urllib.parse import urlsplit

        proxies, tasks = set(), []

        def test_leaves_a_call_waiting(storage_adapter, storage_backend, storage_config, storage_faults):
            if storage_backend.is_real:
                proxies.add(urlsplit(storage_config.storage_url).port)
            storage_faults.delay(1.5)
            loop = asyncio.new_event_loop()
            tasks.append(loop.create_task(storage_adapter.get("key")))
            loop.run_until_complete(asyncio.sleep(0.05))
            loop.close()
            assert storage_faults.disconnect() == 0

        def test_no_proxy_is_left():
            assert len(proxies) == 2
            for port in proxies:
                with socket.socket() as client:
                    assert client.connect_ex(("127.0.0.1", port)) != 0
    """
    inner(code, *real_servers).assert_outcomes(passed=6)


# --- faults that never happen -----------------------------------------------------------------------------------------

NEVER = """
    import pytest

    async def test_never(storage_adapter, storage_faults):
        storage_faults.fail("get")
        storage_faults.delay(0.01, "set")

    async def test_damage_that_nobody_reads(storage_adapter, storage_faults):
        await storage_adapter.set("key", 1)
        storage_faults.corrupt("key")
        await storage_adapter.set("key", 2)

    async def test_fails_anyway(storage_adapter, storage_faults):
        storage_faults.fail("get")
        assert False, "THE REASON"

    async def test_may_or_may_not(storage_adapter, storage_faults):
        await storage_adapter.set("key", 1)
        storage_faults.fail("get", optional=True)
        storage_faults.delay(0.01, optional=True)
        storage_faults.corrupt("key", optional=True)

    async def test_undone(storage_adapter, storage_faults):
        storage_faults.fail("get").undo()

    async def test_met_once_is_met(storage_adapter, storage_faults):
        storage_faults.fail("set", times=None)
        with pytest.raises(ConnectionError):
            await storage_adapter.set("key", 1)

    class TestElsewhere:
        @pytest.fixture
        def storage_config(self, storage_config):
            return storage_config.model_copy(update={"storage_namespace": "elsewhere"})

        async def test_another_storage(self, storage_adapter, storage_faults):
            storage_faults.fail("get")
            assert await storage_adapter.get("key") is None
"""


def test_a_fault_that_never_happened_fails_the_test(inner: InnerRun) -> None:
    result = inner(NEVER, "--storage-backends=memory")
    result.assert_outcomes(passed=6, failed=1, errors=3)
    text = result.stdout.str()
    assert "storage_faults.fail('get'), storage_faults.delay(0.01, 'set') never happened: nothing in this test" in text
    assert "storage_faults.corrupt('key') never happened" in text
    errors = [line for line in result.outlines if line.startswith("ERROR ")]
    assert sorted(line.split("::")[-1].partition("[")[0] for line in errors) == [
        "test_another_storage",
        "test_damage_that_nobody_reads",
        "test_never",
    ]
    assert "THE REASON" in text


# --- what it is for ---------------------------------------------------------------------------------------------------


async def test_a_pipeline_survives_a_lost_connection(
    flow_broker: FlowBroker, storage_adapter: BaseStorageAdapter, storage_faults: StorageFaults
) -> None:
    faults: list[Fault] = []

    @flow_broker.task(task_name="double")
    async def double(number: int) -> int:
        storage_faults.disconnect()
        faults.append(storage_faults.fail("set"))
        return 2 * number

    sent = await Pipeline(flow_broker, double).call_next(double).kiq(3)
    assert (await sent.wait_result(timeout=10)).return_value == 12
    assert [fault.happened for fault in faults] == [1, 1]


class TestAStorageThatIsGone:
    @pytest.fixture
    def flow_result_backend(self, storage_adapter: BaseStorageAdapter) -> StorageResultBackend[Any]:
        return StorageResultBackend(storage_adapter, retry_for=0.1)

    @pytest.mark.flow_broker(loses=r"storage_faults\.fail")
    async def test_a_pipeline_does_not_survive_it(
        self, flow_broker: FlowBroker, storage_adapter: BaseStorageAdapter, storage_faults: StorageFaults
    ) -> None:
        @flow_broker.task(task_name="double")
        async def double(number: int) -> int:
            storage_faults.fail("set", times=None)
            return 2 * number

        sent = await Pipeline(flow_broker, double).call_next(double).kiq(3)
        await flow_broker.drain(timeout=20)
        assert not await sent.is_ready()
