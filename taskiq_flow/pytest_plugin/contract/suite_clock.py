"""How the suite moves the clock by which an adapter judges expiry."""

from abc import ABC, abstractmethod
from asyncio import sleep
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone

from taskiq_flow import clock
from taskiq_flow.clock import FrozenClock

__all__ = ["CLOCKS", "SuiteClock", "suite_clock"]

CLOCKS = ("storage", "wall", "server")

# The last second before Central Europe's clocks go forward, and no whole millisecond: naive local times, and times that
# are rounded up, come out wrong here.
_START = datetime(2026, 3, 29, 0, 59, 59, 987654, tzinfo=timezone.utc)


class SuiteClock(ABC):
    """The clock of one test."""

    ttl: float
    """The time to live, in seconds, of an entry that is to expire during a test."""
    step: float
    """The shortest time, in seconds, by which this clock can be moved with a certain outcome."""

    @abstractmethod
    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass."""

    @abstractmethod
    def now(self) -> datetime:
        """Return the present moment, an aware UTC datetime."""


class _Frozen(SuiteClock):
    """A clock that stands still until it is moved: exact to the millisecond."""

    ttl = 60.0
    step = 0.001

    def __init__(self, frozen: FrozenClock) -> None:
        self._frozen = frozen

    async def advance(self, seconds: float) -> None:
        self._frozen.tick(seconds)

    def now(self) -> datetime:
        return self._frozen.now()


class _Real(SuiteClock):
    """A clock that cannot be moved: the suite really waits, and can only look well before an expiry and after it."""

    def __init__(self, ttl: float) -> None:
        self.ttl = ttl
        self.step = ttl / 2

    async def advance(self, seconds: float) -> None:
        await sleep(seconds)

    def now(self) -> datetime:
        return datetime.now(timezone.utc)


@contextmanager
def suite_clock(kind: str, server_life: float) -> Iterator[SuiteClock]:
    """Control the clock that adapters of this kind go by, for the length of a ``with`` block.

    :param kind: one of ``CLOCKS``.
    :param server_life: the time to live, in seconds, of entries where the suite has to wait.
    """
    with ExitStack() as stack:
        if kind == "server":
            yield _Real(server_life)
            return
        frozen = stack.enter_context(clock.freeze(_START))
        if kind == "wall":
            from taskiq_flow.pytest_plugin.everything import freeze_everything

            stack.enter_context(freeze_everything(frozen))
        yield _Frozen(frozen)
