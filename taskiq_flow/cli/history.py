"""``taskiq-flow history``: shows the results of tasks that ``StorageMiddleware`` keeps."""

import argparse
import asyncio
import dataclasses
import re
import shutil
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from taskiq_flow import clock
from taskiq_flow.cli._storage import add_storage_arguments, shared_storage

if TYPE_CHECKING:
    from taskiq_flow.history import Findings

__all__ = ["add_parser"]

_HELP = """\
Show the results of tasks that StorageMiddleware keeps, the newest first.

  taskiq-flow history                             the last 20 results
  taskiq-flow history --task shop:charge -n 5     the last 5 of a task
  taskiq-flow history --run 3f2a74c0              a pipeline's run, in its order
  taskiq-flow history --failed --since 2h         what went wrong lately
  taskiq-flow history --failed --since 2h --json  the same, whole, for a program
"""
_EPILOG = """\
Without --url the storage is that of the settings: TASKIQ_FLOW_STORAGE_URL and
the other TASKIQ_FLOW_ variables; --namespace and --table take precedence.
Times are shown in UTC. Where the terminal is narrow, a result has two lines.

Entries among the results that cannot be read, because they are damaged or
another application's, are named on standard error.

Exit status: 0, also where nothing was found; 1 if the storage failed; 2 if
arguments or settings cannot be used.
"""
_LAST = 20
_WIDTH = 200
"""Of the table, where the output is not a terminal."""
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "history",
        help="show the results of tasks",
        description=_HELP,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(do=_show)
    which = parser.add_argument_group("which results")
    which.add_argument("--run", dest="pipeline_id", metavar="ID", help="those of a pipeline's run")
    which.add_argument("--task", dest="task_name", metavar="NAME", help="those of a task, by its name")
    which.add_argument("--failed", action="store_true", help="those that are an error")
    which.add_argument(
        "--since",
        type=_moment,
        metavar="WHEN",
        help="from then on: 2h, 30m, 7d ago, or 2025-01-31T08:00, with an offset or in local time",
    )
    which.add_argument(
        "-n",
        "--last",
        type=_count,
        metavar="N",
        help=f"the N newest ({_LAST}, unless --run or --since is given); 0 for all",
    )
    parser.add_argument("--json", action="store_true", help="all that is stored of them, as one JSON document")
    add_storage_arguments(parser.add_argument_group("where they are"))


def _show(chosen: argparse.Namespace) -> int:
    """Print what is found; return the exit status.

    :raises ConfigurationError: if no storage was named, or one that cannot be used.
    :raises StorageError: if the storage failed.
    """
    from taskiq_flow.cli._table import on_one_line, table
    from taskiq_flow.history import History

    storage = shared_storage(chosen)
    last = chosen.last
    if last is None and chosen.pipeline_id is None and chosen.since is None:
        last = _LAST
    wanted = {name: getattr(chosen, name) for name in ("pipeline_id", "task_name", "failed", "since")}

    async def find() -> "Findings":
        async with storage:
            return await History(storage).find(**wanted, last=last or None)

    findings = asyncio.run(find())
    if chosen.json:
        _print_json(findings)
    else:
        for line in table(findings.results, shutil.get_terminal_size((_WIDTH, 24)).columns):
            print(line)
    for each in findings.unreadable:
        print(f"taskiq-flow: not a result: {on_one_line(each.reason)}", file=sys.stderr)
    return 0


# --- what is printed --------------------------------------------------------------------------------------------------


def _print_json(findings: "Findings") -> None:
    """Print all that was found in the codec's form, in UTF-8 wherever it goes: a terminal's escapes are no JSON."""
    from taskiq_flow import serialization

    text = serialization.dumps(
        {
            "results": [each.to_data() for each in findings.results],
            "unreadable": [dataclasses.asdict(each) for each in findings.unreadable],
        }
    )
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(encoding="utf-8", errors="strict")
    print(text)


# --- arguments --------------------------------------------------------------------------------------------------------


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of results")
    return int(text)


def _moment(text: str) -> datetime:
    """Return a moment: that long ago, or a date and time; without an offset it is that of this machine."""
    if ago := re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text):
        try:
            return clock.now() - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        except OverflowError:
            raise argparse.ArgumentTypeError(f"{text!r} is longer ago than there are dates") from None
    try:
        return datetime.fromisoformat(text.upper()).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is neither like 90s, 30m, 2h, 7d nor a date and time") from None
