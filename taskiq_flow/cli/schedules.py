"""``taskiq-flow schedules``: moves schedules over from another source."""

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING, Any

from taskiq_flow.cli._storage import add_storage_arguments, shared_storage

if TYPE_CHECKING:
    from taskiq import ScheduledTask

__all__ = ["add_parser"]

_HELP = """\
Copy every schedule of another source, those of taskiq-redis and
taskiq-postgres for example, to a StorageScheduleSource. The other source stays
as it is.

  taskiq-flow schedules copy shop.tkq:source --url postgresql://…
  taskiq-flow schedules copy shop.tkq:source --dry-run

Stop the old scheduler first: what it sends meanwhile would be sent again. A
schedule that is there already, by its id, is written over. Schedules that the
source has made from tasks' labels are copied, too.
"""
_EPILOG = """\
Exit status: 0; 1 if the source or the storage failed, or a schedule cannot be
stored, which is named; 2 if arguments or settings cannot be used.
"""


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser("schedules", help="copy schedules from another source")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    copy = commands.add_parser(
        "copy",
        help="copy every schedule of another source",
        description=_HELP,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    copy.add_argument("source", metavar="MODULE:VARIABLE", help="the source to copy from")
    copy.add_argument("--dry-run", action="store_true", help="list the schedules, and store none")
    where = copy.add_argument_group("where to")
    where.add_argument("--prefix", default="schedule", help="the prefix of the StorageScheduleSource (schedule)")
    add_storage_arguments(where)
    copy.set_defaults(do=_copy)


def _copy(chosen: argparse.Namespace) -> int:
    """Copy the schedules; return the exit status.

    :raises ConfigurationError: if the source or the storage cannot be used.
    :raises StorageError: if the storage failed.
    """
    from taskiq_flow.cli._moving import every_schedule, imported_source

    source = imported_source(chosen.source)

    async def copy() -> int:
        try:
            schedules = await every_schedule(source)
        except Exception as error:  # noqa: BLE001 - of anybody's source
            print(f"taskiq-flow: {chosen.source} cannot be read: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
        if chosen.dry_run:
            for schedule in schedules:
                print(f"{schedule.schedule_id}  {schedule.task_name}  {_when(schedule)}")
            return 0
        return await _store(schedules, chosen)

    return asyncio.run(copy())


async def _store(schedules: "list[ScheduledTask]", chosen: argparse.Namespace) -> int:
    from taskiq_flow.exceptions import SerializationError
    from taskiq_flow.schedule_source import StorageScheduleSource

    refused = 0
    async with shared_storage(chosen) as storage:
        target = StorageScheduleSource(storage, prefix=chosen.prefix)
        for schedule in schedules:
            try:
                await target.add_schedule(schedule)
            except SerializationError as error:
                refused += 1
                name = f"{schedule.schedule_id} of {schedule.task_name}"
                print(f"taskiq-flow: schedule {name} cannot be stored: {error}", file=sys.stderr)
    copied = len(schedules) - refused
    print(f"copied {copied} schedule{'' if copied == 1 else 's'}")
    return 1 if refused else 0


def _when(schedule: "ScheduledTask") -> str:
    parts = {"cron": schedule.cron, "every": getattr(schedule, "interval", None), "at": schedule.time}
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)
