"""The clock: exact, frozen for this package alone, and obedient to whoever replaces ``time.time``."""

import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import freezegun
import pytest

from taskiq_flow import clock

NEW_YEAR = datetime(2030, 1, 1, tzinfo=timezone.utc)


def test_follows_the_system() -> None:
    before = time.time_ns() // 1_000_000
    assert before - 1 <= clock.now_ms() <= time.time_ns() // 1_000_000 + 1
    assert clock.now().tzinfo is timezone.utc
    assert not clock.is_frozen()


@pytest.mark.parametrize("milliseconds", [0, 1, 122, 123, 999, 1_700_000_000_123, 4_102_444_800_999])
def test_milliseconds_and_datetimes_are_exact(milliseconds: int) -> None:
    moment = clock.from_ms(milliseconds)
    assert clock.to_ms(moment) == milliseconds
    assert clock.to_ms(moment + timedelta(microseconds=999)) == milliseconds, "rounded down"
    with freezegun.freeze_time(moment):
        assert clock.now_ms() == milliseconds, "a float that stands for it must not read a millisecond less"


def test_other_zones_mean_the_same_moment() -> None:
    assert clock.to_ms(datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))) == clock.to_ms(NEW_YEAR)


def test_naive_datetimes_are_refused() -> None:
    for refuses in (clock.to_ms, lambda moment: clock.freeze(moment).__enter__()):
        with pytest.raises(ValueError, match="has no time zone"):
            refuses(datetime(2030, 1, 1))


def test_frozen_time_moves_only_when_told() -> None:
    with clock.freeze(NEW_YEAR) as frozen:
        assert clock.is_frozen()
        assert clock.now() == frozen.now() == NEW_YEAR
        frozen.tick()
        frozen.tick(0.001)
        frozen.tick(timedelta(minutes=1))
        assert clock.now() == NEW_YEAR + timedelta(seconds=61, milliseconds=1)
        frozen.move_to("2030-01-01T00:00:00.500Z")
        assert clock.now() == NEW_YEAR + timedelta(milliseconds=500)
        frozen.move_to(NEW_YEAR - timedelta(days=1))
        assert clock.now() < NEW_YEAR
        assert repr(frozen) == "<FrozenClock 2029-12-31T00:00:00+00:00>"
    assert not clock.is_frozen()


def test_far_from_now_every_microsecond_counts() -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc)  # more than a float can tell apart
    with clock.freeze(last) as frozen:
        assert frozen.now() == last
        assert frozen.move_to(last - timedelta(days=9, microseconds=1)) == frozen.now()
        assert frozen.now() == last - timedelta(days=9, microseconds=1)
        assert frozen.tick(timedelta(days=9, microseconds=1)) == last
        assert (clock.now_ms(), type(clock.now_ms())) == (253_402_300_799_999, int)


@pytest.mark.parametrize("zone", ["Z", "z", "+00:00"])
def test_utc_in_iso_8601(zone: str) -> None:
    with clock.freeze(f"2030-01-01T00:00:00.123456{zone}") as frozen:
        assert frozen.now() == NEW_YEAR + timedelta(microseconds=123_456)


def test_small_steps_add_up() -> None:
    with clock.freeze(NEW_YEAR) as frozen:
        for _ in range(1000):
            frozen.tick(0.000_1)
        assert clock.now() - NEW_YEAR == timedelta(milliseconds=100)


def test_it_does_not_tick_backwards() -> None:
    with clock.freeze() as frozen, pytest.raises(ValueError, match="move_to"):
        frozen.tick(-1)


def test_freezes_nest() -> None:
    with clock.freeze(NEW_YEAR) as outer:
        with clock.freeze("2031-01-01T00:00:00+00:00"):
            assert clock.now().year == 2031
        assert clock.now() == NEW_YEAR
        outer.tick(1)
        assert clock.now().second == 1


def test_it_thaws_after_an_error() -> None:
    with pytest.raises(KeyError), clock.freeze():
        raise KeyError
    assert not clock.is_frozen()


def test_followers_are_told_of_every_move() -> None:
    seen: list[datetime] = []
    with clock.freeze(NEW_YEAR) as frozen:
        frozen.follow(seen.append)
        frozen.tick(1)
        frozen.move_to(NEW_YEAR)
    assert seen == [NEW_YEAR + timedelta(seconds=1), NEW_YEAR]


def test_replaced_time_counts_as_frozen() -> None:
    with freezegun.freeze_time(NEW_YEAR) as frozen:
        assert clock.is_frozen()
        frozen.tick(1.5)
        assert clock.now() == NEW_YEAR + timedelta(seconds=1.5)
    assert not clock.is_frozen()


def test_time_machine_counts_as_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    # It changes what the C function time.time does: only the package itself can tell.
    hatch = SimpleNamespace(is_travelling=lambda: True)
    monkeypatch.setitem(sys.modules, "time_machine", SimpleNamespace(escape_hatch=hatch))
    assert clock.is_frozen()
    hatch.is_travelling = lambda: False
    assert not clock.is_frozen()


@pytest.mark.parametrize("seconds", [1_700_000_000.122999, 1_700_000_000.123, 0.0, 4_102_444_800.9989999, -1.0005])
def test_a_replaced_time_is_read_in_whole_milliseconds(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: seconds)
    assert clock.is_frozen()
    assert clock.now_ms() == round(seconds * 1_000_000) // 1000


@pytest.mark.parametrize(
    "move",
    [
        lambda frozen: frozen.tick(timedelta.max),
        lambda frozen: frozen.tick(float("inf")),
        lambda frozen: frozen.tick(float("nan")),
        lambda frozen: frozen.tick(-1),
        lambda frozen: frozen.move_to("yesterday"),
        lambda frozen: frozen.move_to("2030-01-01"),
        lambda frozen: frozen.move_to(datetime(2030, 1, 1)),
    ],
)
def test_a_move_that_cannot_be_leaves_the_time_as_it_was(move: Callable[[clock.FrozenClock], object]) -> None:
    seen: list[datetime] = []
    with clock.freeze(NEW_YEAR) as frozen:
        frozen.follow(seen.append)
        with pytest.raises((ValueError, OverflowError)):
            move(frozen)
        assert frozen.now() == clock.now() == NEW_YEAR
    assert seen == []


def test_one_clock_for_all_threads() -> None:
    def move() -> None:
        for _ in range(500):
            frozen.tick(0.001)

    with clock.freeze(NEW_YEAR) as frozen:
        threads = [threading.Thread(target=move) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert clock.now() == NEW_YEAR + timedelta(seconds=2), "no step is lost"


class Driver:
    """Notes what is asked of it, and when; what falls due does so at given seconds after the new year."""

    def __init__(self, name: str, frozen: clock.FrozenClock, noted: list[tuple[str, str, float]], *due: float) -> None:
        self._name, self._frozen, self._noted = name, frozen, noted
        self._due = [NEW_YEAR + timedelta(seconds=seconds) for seconds in due]

    async def settle(self) -> None:
        self._note("settles")

    async def next_due(self, now: datetime, until: datetime) -> datetime | None:
        return min((instant for instant in self._due if instant <= until), default=None)

    async def fire(self, now: datetime) -> None:
        if fired := [instant for instant in self._due if instant <= self._frozen.now()]:
            self._due = [instant for instant in self._due if instant not in fired]
            self._note("fires")

    def _note(self, what: str) -> None:
        self._noted.append((self._name, what, (self._frozen.now() - NEW_YEAR).total_seconds()))


async def test_time_goes_through_what_is_due() -> None:
    noted: list[tuple[str, str, float]] = []
    with clock.freeze(NEW_YEAR) as frozen:
        frozen.drive(Driver("a", frozen, noted, 20, 5, 100))
        frozen.drive(Driver("b", frozen, noted, -3, 5, 60, 61))
        assert await frozen.advance(60) == frozen.now() == NEW_YEAR + timedelta(seconds=60)
        assert noted == [
            ("a", "settles", 0),
            ("b", "settles", 0),
            ("b", "fires", 0),  # overdue: at once
            ("a", "fires", 5),
            ("b", "fires", 5),
            ("a", "fires", 20),
            ("b", "fires", 60),
            ("a", "settles", 60),
            ("b", "settles", 60),
        ]
        noted.clear()
        await frozen.advance(timedelta(seconds=0.5))
        assert [step for step in noted if step[1] == "fires"] == []
        with pytest.raises(ValueError, match="-1"):
            await frozen.advance(-1)
        assert frozen.now() == NEW_YEAR + timedelta(seconds=60.5)


async def test_where_nothing_is_driven_to_advance_is_to_tick() -> None:
    with clock.freeze(NEW_YEAR) as frozen:
        assert await frozen.advance(1.5) == frozen.now() == NEW_YEAR + timedelta(seconds=1.5)
