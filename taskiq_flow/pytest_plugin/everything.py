"""Freezing the time of all code, by freezegun, in step with the storage clock; and what has to see the real time."""

import datetime
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

from taskiq_flow.clock import FrozenClock

__all__ = ["freeze_everything", "import_unfrozen", "unfrozen"]

# These measure time-outs and pool ages; a clock that stands still makes them wait for ever.
_UNFROZEN = ["anyio", "asyncpg", "aiosqlite", "asyncmy", "fakeredis", "redis", "sqlalchemy", "taskiq.task"]

_BROKER = ("taskiq_flow.pytest_plugin.broker.clock_driver", "taskiq_flow.schedule_source", "taskiq_flow.pipeline")
_DRIVERS = {
    "fakeredis": ("taskiq_flow.storage.redis", "fakeredis"),
    "redis": ("taskiq_flow.storage.redis",),
    "valkey": ("taskiq_flow.storage.redis",),
    "sqlite": ("taskiq_flow.storage.sql", "aiosqlite", "sqlalchemy.dialects.sqlite.aiosqlite"),
    "postgres": ("taskiq_flow.storage.sql", "asyncpg", "sqlalchemy.dialects.postgresql.asyncpg"),
    "mysql": ("taskiq_flow.storage.sql", "asyncmy", "sqlalchemy.dialects.mysql.asyncmy"),
}
_NAMES = {
    datetime: "datetime date",
    time: "time monotonic perf_counter gmtime localtime strftime time_ns monotonic_ns perf_counter_ns",
}


@contextmanager
def freeze_everything(frozen: FrozenClock) -> Iterator[None]:
    """Freeze ``time.time()``, ``datetime.now()`` and the like at ``frozen``'s time, and follow its moves."""
    try:
        import freezegun
    except ImportError:
        raise RuntimeError(
            'freezing everything needs freezegun, which is not installed: pip install "taskiq-flow-kit[pytest]"'
        ) from None
    import_unfrozen()
    with freezegun.freeze_time(frozen.now(), real_asyncio=True, ignore=_UNFROZEN) as factory:
        frozen.follow(factory.move_to)
        yield


def import_unfrozen(backend: str | None = None, *, broker: bool = True) -> None:
    """Import what a test is going to need, before or while the time is frozen by whichever tool.

    What is imported under freezegun keeps its ``FakeDatetime`` in annotations, for the rest of the process: pydantic's
    models then refuse every ``datetime``.

    :param backend: a storage whose driver is needed.
    :param broker: whether brokers and schedules are needed; they are where the time is frozen already.
    """
    if (freezegun := sys.modules.get("freezegun")) is None:
        return
    names = _DRIVERS.get(backend or "", ())
    if broker or freezegun.api.freeze_factories:
        names += _BROKER
    with unfrozen(), suppress(ImportError):  # whoever needs what is missing will say so
        for name in names:
            import_module(name)


def _real_utcnow() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)


@contextmanager
def unfrozen() -> Iterator[None]:
    """Let all code see the real time within, where freezegun has frozen it: modules that are imported, startups."""
    api = sys.modules.get("freezegun.api")
    if api is None or not api.freeze_factories:
        yield
        return
    fakes = {(module, name): getattr(module, name) for module, names in _NAMES.items() for name in names.split()}
    # What freezegun has put into other modules asks the ends of these. An empty list of what is ignored means: all.
    stacks = {"freeze_factories": [_real_utcnow], "tz_offsets": [datetime.timedelta(0)], "ignore_lists": []}
    kept = {name: list(getattr(api, name)) for name in stacks}
    for module, name in fakes:
        setattr(module, name, getattr(api, f"real_{name}"))
    for name, content in stacks.items():
        getattr(api, name)[:] = content
    try:
        yield
    finally:
        for name, content in kept.items():
            getattr(api, name)[:] = content
        for (module, name), fake in fakes.items():
            setattr(module, name, fake)
