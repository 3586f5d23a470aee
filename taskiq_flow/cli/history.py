"""``taskiq-flow history``: shows the results of tasks that ``StorageMiddleware`` keeps."""

import argparse
import asyncio
import dataclasses
import re
import shutil
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskiq_flow import clock

if TYPE_CHECKING:
    from taskiq_flow.history import Findings
    from taskiq_flow.storage.base import BaseStorageAdapter

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
Without --url the storage is that of the environment: TASKIQ_FLOW_STORAGE_URL
and the other TASKIQ_FLOW_ settings; --namespace and --table take precedence.
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
    storage = parser.add_argument_group("where they are")
    storage.add_argument("--url", help="the storage: redis://…, postgresql://…, sqlite:///file.db, …")
    storage.add_argument("--namespace", metavar="NAME", help="the storage's namespace, if not the usual one")
    storage.add_argument(
        "--table", metavar="NAME", help="the table of an SQL database, if not the usual one; made, if it is not there"
    )


def _show(chosen: argparse.Namespace) -> int:
    """Print what is found; return the exit status.

    :raises ConfigurationError: if no storage was named, or one that cannot be used.
    :raises StorageError: if the storage failed.
    """
    from taskiq_flow.cli._table import on_one_line, table
    from taskiq_flow.history import History

    storage = _storage(chosen)
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


# --- the storage ------------------------------------------------------------------------------------------------------


def _storage(chosen: argparse.Namespace) -> "BaseStorageAdapter":
    """Return the adapter that arguments and environment name."""
    from taskiq_flow.config import TaskiqFlowConfig
    from taskiq_flow.exceptions import ConfigurationError
    from taskiq_flow.storage.factory import DEFAULT_SQLITE_URL, StorageAdapterFactory

    asked = {"storage_namespace": chosen.namespace, "storage_table": chosen.table}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if chosen.url is not None:
        given |= {"storage_type": "auto", "storage_url": chosen.url, "storage_redis_url": None}
    config = TaskiqFlowConfig(**given)
    storage = StorageAdapterFactory.create_storage_adapter(config)
    if getattr(storage, "backend", "") == "memory" and config.storage_url in {None, "memory://"}:
        if config.storage_url is None and config.storage_type == "auto":
            raise ConfigurationError("no storage is named: give --url, or set TASKIQ_FLOW_STORAGE_URL")
        raise ConfigurationError(
            "a memory storage cannot be looked into from outside: each process has its own, and this one's is empty; "
            "give --url, or set TASKIQ_FLOW_STORAGE_URL, to one that processes share"
        )
    url = config.storage_url or DEFAULT_SQLITE_URL
    if url.startswith("sqlite") and (config.storage_url or config.storage_type in {"sqlite", "sqlalchemy"}):
        _refuse_new_file(url)
    return storage


def _refuse_new_file(url: str) -> None:
    """Refuse a file that does not exist: SQLite would create it, and hide a mistyped name."""
    from sqlalchemy import make_url

    from taskiq_flow.exceptions import ConfigurationError

    file = make_url(url).database
    if file and file != ":memory:" and not file.startswith("file:") and not Path(file).exists():
        raise ConfigurationError(f"there is no database file {file!r}")


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
