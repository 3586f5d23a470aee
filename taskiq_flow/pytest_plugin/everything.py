"""Freezing the time of all code, by freezegun, in step with the storage clock: for those who ask for it."""

from collections.abc import Iterator
from contextlib import contextmanager

from taskiq_flow.clock import FrozenClock

__all__ = ["freeze_everything"]

# These measure time-outs and pool ages; a clock that stands still makes them wait for ever.
_UNFROZEN = ["anyio", "asyncpg", "aiosqlite", "asyncmy", "fakeredis", "redis", "sqlalchemy", "taskiq.task"]


@contextmanager
def freeze_everything(frozen: FrozenClock) -> Iterator[None]:
    """Freeze ``time.time()``, ``datetime.now()`` and the like at ``frozen``'s time, and follow its moves."""
    try:
        import freezegun
    except ImportError:
        raise RuntimeError(
            'freezing everything needs freezegun, which is not installed: pip install "taskiq-flow-kit[pytest]"'
        ) from None
    with freezegun.freeze_time(frozen.now(), real_asyncio=True, ignore=_UNFROZEN) as factory:
        frozen.follow(factory.move_to)
        yield
