"""The change of taskiq's ``Receiver``: when it is there, and who it concerns."""

import importlib.util
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from taskiq import InMemoryBroker

from taskiq_flow.cache import InMemoryCacheAdapter
from taskiq_flow.middlewares import CacheMiddleware, _receiver


def counting_broker(*middlewares: CacheMiddleware) -> tuple[InMemoryBroker, Any, list[int]]:
    """Return a broker, a cached task, and what counts its runs."""
    broker, runs = InMemoryBroker(await_inplace=True), list[int]()
    broker.add_middlewares(*middlewares)

    @broker.task(task_name="work", cache=True)
    async def work() -> int:
        runs.append(0)
        return len(runs)

    return broker, work, runs


async def test_of_two_on_one_broker_a_disabled_one_leaves_the_other_alone() -> None:
    for enabled in ((False, True), (True, False), (True, True)):
        middlewares = [CacheMiddleware(enabled=each) for each in enabled]
        _, work, runs = counting_broker(*middlewares)
        results = [await (await work.kiq()).get_result() for _ in range(3)]
        assert [result.return_value for result in results] == [1, 1, 1]
        assert len(runs) == 1
        assert [each.cache.get_stats().created for each in middlewares] == [int(each) for each in enabled]


async def test_of_two_on_one_broker_the_second_answers_where_the_first_has_forgotten() -> None:
    first, second = CacheMiddleware(), CacheMiddleware()
    _, work, runs = counting_broker(first, second)
    await work.kiq()
    await first.cache.clear()
    result = await (await work.kiq()).get_result()
    assert (result.return_value, len(runs)) == (1, 1)
    assert first.cache.get_stats().created == 2


async def test_a_broker_that_is_used_again_after_its_shutdown_has_its_cache() -> None:
    middleware = CacheMiddleware(InMemoryCacheAdapter())
    broker, work, runs = counting_broker(middleware)
    for is_started in (True, True, False):  # an in-memory broker runs tasks without a startup, too
        if is_started:
            await broker.startup()
        for _ in range(2):
            await work.kiq()
        await broker.shutdown()
        await middleware.shutdown()  # taskiq's in-memory broker does so from 0.13 on
    assert len(runs) == 1


def in_a_process(code: str) -> None:
    """Run ``code`` where nobody else has a ``CacheMiddleware``."""
    before = """
    import asyncio, gc
    from taskiq import InMemoryBroker, TaskiqMessage
    from taskiq.receiver import Receiver
    own = Receiver.run_task
    from taskiq_flow.middlewares import CacheMiddleware
    """
    script = textwrap.dedent(before) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_receiver_is_as_it_was_when_the_last_middleware_is_gone() -> None:
    in_a_process("""
    one, another = CacheMiddleware(), CacheMiddleware()
    assert Receiver.run_task is own, "nobody has a broker"
    InMemoryBroker().add_middlewares(one)
    wrapped = Receiver.run_task
    assert wrapped is not own
    InMemoryBroker().add_middlewares(another)
    assert Receiver.run_task is wrapped, "once is enough"
    asyncio.run(one.shutdown())
    asyncio.run(one.shutdown())
    assert Receiver.run_task is wrapped, "the other one needs it"
    asyncio.run(another.shutdown())
    assert Receiver.run_task is own
    one.pre_execute(TaskiqMessage(task_id="1", task_name="work", labels={}, args=[], kwargs={}))
    assert Receiver.run_task is not own, "its broker is used again"
    del one
    gc.collect()
    assert Receiver.run_task is own
    """)


def test_what_somebody_else_puts_over_it_stays() -> None:
    in_a_process("""
    import functools
    from taskiq_flow.middlewares import _receiver

    first, second = CacheMiddleware(), CacheMiddleware()
    _receiver.take_part(first)
    ours = Receiver.run_task

    @functools.wraps(ours)
    async def theirs(*arguments, **named):
        return await ours(*arguments, **named)

    Receiver.run_task = theirs
    _receiver.give_up(first)
    assert Receiver.run_task is theirs
    _receiver.take_part(second)
    assert Receiver.run_task is theirs, "ours is still below it"
    Receiver.run_task = own
    _receiver.take_part(second)
    _receiver.take_part(first)
    assert Receiver.run_task is not own, "they have thrown ours away"
    """)


@pytest.mark.parametrize("version", ["0.13rc1", "0.14.0.dev3+local", "1", "unknown"])
def test_the_import_does_not_depend_on_how_taskiqs_version_is_written(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    spec = importlib.util.find_spec(_receiver.__name__)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
