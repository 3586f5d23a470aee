"""``drain`` waits for all that runs and all that is left to run, and names what does not end."""

import asyncio
import re
from datetime import timedelta

import pytest

from taskiq_flow.clock import FrozenClock
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.pytest_plugin.broker import FlowBroker
from taskiq_flow.pytest_plugin.broker.deliveries import StuckTasksError


@pytest.mark.storage_backends("memory", "sqlite")
async def test_drain_waits_for_chains_and_maps(flow_broker: FlowBroker) -> None:
    done: list[int] = []

    @flow_broker.task(task_name="numbers")
    async def numbers(count: int) -> list[int]:
        return list(range(count))

    @flow_broker.task(task_name="note")
    async def note(number: int) -> int:
        await asyncio.sleep(0.01)
        done.append(number)
        return number

    await Pipeline(flow_broker, numbers).map(note, check_interval=0.001).kiq(3)
    await flow_broker.drain()
    assert sorted(done) == [0, 1, 2]


@pytest.mark.storage_backends("memory")
@pytest.mark.flow_broker(loses="still running at the end of the test")
async def test_drain_names_what_is_stuck_and_where(flow_broker: FlowBroker) -> None:
    async def deep_inside() -> None:
        await asyncio.Event().wait()

    @flow_broker.task(task_name="stuck")
    async def stuck() -> None:
        await deep_inside()

    task = await stuck.kiq()
    with pytest.raises(StuckTasksError) as caught:
        await flow_broker.drain(timeout=0.05)
    told = str(caught.value)
    assert told.startswith("after 0.05 s there still run\n")
    assert f"stuck ({task.task_id}) waits in deep_inside (" in told
    assert "test_drain.py:" in told
    assert told.endswith(": await asyncio.Event().wait()")
    flow_broker.shutdown_timeout = 0.05  # the end of the test waits for it as well


@pytest.mark.storage_backends("memory")
async def test_drain_names_what_waits_for_the_clock(flow_broker: FlowBroker, frozen_clock: FrozenClock) -> None:
    @flow_broker.task(task_name="later", delay=60)
    async def later() -> None: ...

    await later.kiq()
    await flow_broker.wait_all()
    due = (frozen_clock.now() + timedelta(seconds=60)).isoformat(timespec="milliseconds")[:23]
    with pytest.raises(StuckTasksError, match=rf"later \(.*\) waits for {re.escape(due)}.* on the frozen clock"):
        await flow_broker.drain()


@pytest.mark.storage_backends("memory")
@pytest.mark.flow_broker(loses="waits for its delay of 60 s")
async def test_drain_names_what_waits_for_a_real_delay(flow_broker: FlowBroker) -> None:
    @flow_broker.task(task_name="later", delay=60)
    async def later() -> None: ...

    await later.kiq()
    with pytest.raises(StuckTasksError, match=r"later \(.*\) waits for its delay of 60 s: .*frozen_clock"):
        await flow_broker.drain(timeout=0.05)
    flow_broker.shutdown_timeout = 0.05  # the end of the test waits for it as well


@pytest.mark.storage_backends("memory")
async def test_a_delay_without_a_frozen_clock_is_real(flow_broker: FlowBroker) -> None:
    done: list[int] = []

    @flow_broker.task(task_name="later")
    async def later(number: int) -> None:
        done.append(number)

    await later.kicker().with_labels(delay=0.05).kiq(2)
    await later.kicker().with_labels(delay="no number").kiq(1)
    await flow_broker.drain()
    assert done == [1, 2]
