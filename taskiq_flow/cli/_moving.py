"""Reading every schedule of another library's source, and changing nothing there.

Two sources do not let themselves be read by their public methods alone:

- ``ListRedisScheduleSource`` of taskiq-redis returns what is due, not what is due later; its ``startup`` may move
  schedules from yet another source.
- Those of taskiq-postgres remove every schedule at ``startup``, to write those of the tasks' labels anew.
"""

import glob
import importlib
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

from taskiq import ScheduledTask, ScheduleSource
from taskiq.utils import maybe_awaitable

from taskiq_flow.exceptions import ConfigurationError

__all__ = ["every_schedule", "imported_source"]

_REPLACES_ALL = "_update_schedules_on_startup"
"""What the sources of taskiq-postgres remove every schedule with."""


def imported_source(spec: str) -> ScheduleSource:
    """Return the schedule source that ``package.module:variable`` names, as on taskiq's own command line.

    :raises ConfigurationError: if there is none.
    """
    module, colon, variable = spec.partition(":")
    if not (module and colon and variable):
        raise ConfigurationError(f"{spec!r} does not name a schedule source: write it like 'package.module:variable'")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), variable)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{spec!r} cannot be imported: {error}") from error
    if not isinstance(found, ScheduleSource):
        raise ConfigurationError(f"{spec!r} is not a schedule source, but {type(found).__name__}")
    return found


async def every_schedule(source: ScheduleSource) -> list[ScheduledTask]:
    """Return all schedules of a source, those that are due later included.

    :raises Exception: what the source raises.
    """
    its: Any = source  # its methods may be asynchronous or not
    try:
        if _is_list_of_redis(source):
            return await _of_list(source)
        if hasattr(source, _REPLACES_ALL):
            setattr(source, _REPLACES_ALL, _nothing)
        await maybe_awaitable(its.startup())
        return list(await maybe_awaitable(its.get_schedules()))
    finally:
        await maybe_awaitable(its.shutdown())


def _is_list_of_redis(source: ScheduleSource) -> bool:
    return any(
        base.__name__ == "ListRedisScheduleSource" and base.__module__.startswith("taskiq_redis")
        for base in type(source).__mro__
    )


async def _of_list(source: Any) -> list[ScheduledTask]:
    from redis.asyncio import Redis

    pool, prefix, serializer = (getattr(source, f"_{name}") for name in ("connection_pool", "prefix", "serializer"))
    async with aclosing(pool), Redis(connection_pool=pool) as redis:  # the source itself never closes it
        names = [name async for name in redis.scan_iter(f"{glob.escape(prefix)}:data:*")]
        texts = [await redis.get(name) for name in names]
    return [ScheduledTask.model_validate(serializer.loadb(text)) for text in texts if text is not None]


async def _nothing(*_: Any) -> None:
    """Write nothing."""
