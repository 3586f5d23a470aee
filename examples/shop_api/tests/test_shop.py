"""What the shop promises; each test runs on every storage."""

from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient
from shop.app import app
from shop.brokers import mails, orders, outbox, reminders, results
from shop.payments import PaymentsUnavailableError
from shop.tasks import charge, counted
from taskiq_redis import ListQueueBroker, ListRedisScheduleSource, RedisAsyncResultBackend

from taskiq_flow.pytest_plugin import FlowBroker, FrozenClock, StorageFaults

ORDER = {"id": "o-1", "customer": "ann@example.com", "cents": 1290}
CONFIRMED = ("mail:confirm", "ann@example.com")
ASKED = ("mail:review", "ann@example.com")


def test_an_order_is_charged_and_confirmed(client: TestClient, shop: FlowBroker) -> None:
    placed = client.post("/orders", json=ORDER)
    assert placed.status_code == 202
    shop.drain_sync()
    assert client.get(placed.json()["status"]).json() == {"order": "o-1", "paid": 1290}
    assert app.state.payments.taken == {"o-1": 1290}
    assert outbox.mailed == [CONFIRMED]


def test_nothing_is_known_of_an_order_that_was_not_placed(client: TestClient) -> None:
    assert client.get("/orders/no-such-task").status_code == 404


async def test_a_charge_is_tried_again_with_a_longer_pause_each_time(
    shop: FlowBroker, frozen_clock: FrozenClock, outages: list[PaymentsUnavailableError]
) -> None:
    outages += [PaymentsUnavailableError("busy"), PaymentsUnavailableError("still busy")]
    task = await charge.kiq("o-1", "ann@example.com", 1290)
    await frozen_clock.advance(9)
    assert len(outages) == 1, "the second attempt comes after 10 seconds"
    await frozen_clock.advance(11 + 20)
    assert (await task.get_result()).return_value == {"order": "o-1", "paid": 1290}
    assert outbox.mailed == [CONFIRMED]


async def test_a_service_that_stays_away_fails_the_order(
    shop: FlowBroker, frozen_clock: FrozenClock, outages: list[PaymentsUnavailableError]
) -> None:
    outages += [PaymentsUnavailableError("closed")] * 10
    task = await charge.kiq("o-1", "ann@example.com", 1290)
    await frozen_clock.advance(timedelta(hours=1))
    assert len(outages) == 6, "four attempts"
    assert isinstance((await task.get_result()).error, PaymentsUnavailableError)
    assert outbox.mailed == []


# The application asks datetime.now(): where that is to agree with the schedules, everything is frozen.
@pytest.mark.frozen_clock(at="2026-03-01T12:00:00Z", everything=True)
async def test_customers_are_asked_for_a_review_after_three_days(shop: FlowBroker, frozen_clock: FrozenClock) -> None:
    await charge.kiq("o-1", "ann@example.com", 1290)
    await frozen_clock.advance(timedelta(days=3) - timedelta(seconds=1))
    assert outbox.mailed == [CONFIRMED]
    (reminder,) = await reminders.get_schedules()
    assert reminder.time == datetime(2026, 3, 4, 12, tzinfo=UTC)
    await frozen_clock.advance(1)
    assert outbox.mailed == [CONFIRMED, ASKED]
    assert await reminders.get_schedules() == []


@pytest.mark.frozen_clock(at="2026-03-01T12:00:00Z", everything=True)
async def test_the_stock_is_counted_each_night(shop: FlowBroker, frozen_clock: FrozenClock) -> None:
    await frozen_clock.advance(timedelta(days=2))
    assert counted == [datetime(2026, 3, day, 3, tzinfo=UTC) for day in (2, 3)]


async def test_the_status_of_an_order_is_known_for_an_hour(
    client: TestClient, shop: FlowBroker, frozen_clock: FrozenClock
) -> None:
    placed = client.post("/orders", json=ORDER)
    await shop.drain()
    frozen_clock.tick(timedelta(hours=1) - timedelta(milliseconds=1))
    assert client.get(placed.json()["status"]).status_code == 200
    frozen_clock.tick(0.001)
    assert client.get(placed.json()["status"]).status_code == 404


async def test_the_result_of_a_charge_survives_a_bad_moment(shop: FlowBroker, storage_faults: StorageFaults) -> None:
    storage_faults.fail("set")
    task = await charge.kiq("o-1", "ann@example.com", 1290)
    await shop.drain()
    assert (await task.get_result()).return_value == {"order": "o-1", "paid": 1290}


def test_afterwards_the_application_is_as_it_was(shop: FlowBroker, client: TestClient) -> None:
    client.post("/orders", json=ORDER)
    shop.close_from_outside()
    kinds = [type(part) for part in (orders, mails, results, reminders)]
    assert kinds == [ListQueueBroker, ListQueueBroker, RedisAsyncResultBackend, ListRedisScheduleSource]
    assert [broker.is_worker_process for broker in (orders, mails)] == [False, False]
    assert not orders.dependency_overrides
