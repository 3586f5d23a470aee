"""How the suite moves the time by which an adapter judges expiry."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone

from taskiq_flow import clock
from taskiq_flow.clock import FrozenClock

__all__ = ["CLOCKS", "Timepiece", "timepiece"]

CLOCKS = ("storage", "wall", "server")

# The last second before Central Europe's clocks go forward, and no whole millisecond: naive local times, and times that
# are rounded up, come out wrong here.
_START = datetime(2026, 3, 29, 0, 59, 59, 987654, tzinfo=timezone.utc)


class Timepiece(ABC):
    """The time of one test."""

    life: float
    """How many seconds the suite gives an entry that is to expire during a test."""
    blink: float
    """The shortest span, in seconds, that this time can be moved by with a certain outcome."""

    @abstractmethod
    async def pass_by(self, seconds: float) -> None:
        """Let ``seconds`` pass."""

    @abstractmethod
    def now(self) -> datetime:
        """Return the present moment, an aware UTC datetime."""


class _Frozen(Timepiece):
    """Time that stands still until it is moved: exact to the millisecond."""

    life = 60.0
    blink = 0.001

    def __init__(self, frozen: FrozenClock) -> None:
        self._frozen = frozen

    async def pass_by(self, seconds: float) -> None:
        self._frozen.tick(seconds)

    def now(self) -> datetime:
        return self._frozen.now()


class _Real(Timepiece):
    """Time that nobody can move: the suite really waits, and can only look well before an end and after it."""

    def __init__(self, life: float) -> None:
        self.life = life
        self.blink = life / 2

    async def pass_by(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def now(self) -> datetime:
        return datetime.now(timezone.utc)


@contextmanager
def timepiece(kind: str, server_life: float) -> Iterator[Timepiece]:
    """Take hold of the time that adapters of this kind go by, for the length of a ``with`` block.

    :param kind: one of ``CLOCKS``.
    :param server_life: seconds that entries are given to live where the suite has to wait.
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
