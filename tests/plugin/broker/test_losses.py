"""What ``flow_broker`` loses fails the test, and says what to do."""

from tests.inner import InnerRun

LOSSES = """
import asyncio
import pytest
from taskiq import Context, NoResultError, TaskiqDepends, TaskiqMiddleware
from taskiq_flow.exceptions import StorageConnectionError

def failing(*_, **__):
    raise StorageConnectionError("the server is gone")

async def run(broker, function, *arguments):
    task = broker.task(task_name=function.__name__.partition("__")[0])(function)
    await task.kiq(*arguments)
    await broker.drain()

async def unstorable():
    return object()

async def fine():
    return 1

async def without_result():
    raise NoResultError

async def test_unstorable(flow_broker):
    await run(flow_broker, unstorable)

@pytest.mark.flow_broker(loses="cannot be stored without loss")
async def test_unstorable_is_expected(flow_broker):
    await run(flow_broker, unstorable)

@pytest.mark.flow_broker(loses="the moon")
async def test_another_loss_is_expected(flow_broker):
    await run(flow_broker, unstorable)

@pytest.mark.flow_broker(loses=".")
async def test_a_loss_is_expected_and_does_not_happen(flow_broker):
    await run(flow_broker, fine)

async def test_fine(flow_broker):
    await run(flow_broker, fine)

async def test_without_result_on_purpose(flow_broker):
    await run(flow_broker, without_result)

async def test_result_backend_fails(flow_broker, monkeypatch):
    monkeypatch.setattr(flow_broker.result_backend.storage, "set", failing)
    await run(flow_broker, fine)

async def test_storage_fails(flow_broker, monkeypatch):
    monkeypatch.setattr(flow_broker.storage_middleware.storage, "set_entry", failing)
    await run(flow_broker, fine)

async def test_a_middleware_fails(flow_broker):
    class Broken(TaskiqMiddleware):
        def pre_execute(self, message):
            raise ZeroDivisionError("in a middleware")

    flow_broker.add_middlewares(Broken())
    await run(flow_broker, fine)

@pytest.mark.flow_broker(losses="typing error")
async def test_unknown_argument(flow_broker):
    pass
"""


def test_what_is_lost_fails_the_test(inner: InnerRun) -> None:
    result = inner(LOSSES, "--storage-backends=memory", "-p", "no:logging")
    result.assert_outcomes(passed=9, errors=7)
    told = {
        "test_unstorable": "  unstorable (*): its result was not stored: *cannot be stored without loss*",
        "test_another_loss_is_expected": "  unstorable (*): its result was not stored: *",
        "test_a_loss_is_expected_and_does_not_happen": "*was expected to lose results (loses='.'), and has lost none",
        "test_result_backend_fails": "  fine (*): ended without its result being saved: StorageConnectionError: *gone",
        "test_storage_fails": "  fine (*): its result was not stored: the server is gone",
        "test_a_middleware_fails": "  fine (*): ended without its result being saved: ZeroDivisionError: in a middle*",
        "test_unknown_argument": "*marker flow_broker has no argument 'losses'; known: loses",
    }
    for test, line in told.items():
        result.stdout.fnmatch_lines([f"*ERROR at * of {test}[[]memory] *", line])


def test_what_is_sent_while_the_broker_shuts_down(inner: InnerRun) -> None:
    code = """
        from taskiq import TaskiqEvents

        async def test_it(flow_broker):
            @flow_broker.task(task_name="task")
            async def task(): ...

            @flow_broker.task(task_name="farewell")
            async def farewell(): ...

            @flow_broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
            async def ending(state):
                await farewell.kiq()

            await task.kiq()
    """
    result = inner(code, "--storage-backends=memory")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["  farewell (*): was sent after the end of the test, when nothing is run any more"])


HINTS = """
import asyncio, pytest

async def test_is_stuck(flow_broker):
    flow_broker.shutdown_timeout = 0.01

    @flow_broker.task(task_name="slow")
    async def slow():
        await asyncio.sleep(60)

    await slow.kiq()

def test_is_stuck_in_a_plain_test(flow_broker):
    flow_broker.shutdown_timeout = 0.01

    @flow_broker.task(task_name="slow")
    async def slow():
        await asyncio.sleep(60)

    asyncio.run(slow.kiq())

async def test_is_no_data(flow_broker):
    @flow_broker.task(task_name="unstorable")
    async def unstorable():
        return object()

    await unstorable.kiq()
    await flow_broker.drain()
"""


def test_what_to_do_is_said(inner: InnerRun) -> None:
    result = inner(HINTS, "--storage-backends=memory")
    result.assert_outcomes(passed=3, errors=3)
    wait = "what still runs is waited for by `await flow_broker.drain()`, or `flow_broker.drain_sync()`, in the test"
    meant = 'a loss that is meant is declared by @pytest.mark.flow_broker(loses="*'
    told = ["  slow (*): was still running *", wait, meant]
    told += ["  slow (*): was still running *", wait, meant]
    told += ["  unstorable (*): its result was not stored: *", meant]
    result.stdout.fnmatch_lines(told, consecutive=False)
    result.stdout.no_fnmatch_line("*CancelledError*")  # where a driver stood when its task was cancelled says nothing
