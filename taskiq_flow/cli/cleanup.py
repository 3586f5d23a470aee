"""``taskiq-flow cleanup``: removes what has expired, as from cron."""

import argparse
import asyncio
import sys
import time
from typing import Any

from taskiq_flow.cli._storage import add_storage_arguments, shared_storage

__all__ = ["add_parser"]

_HELP = """\
Remove the expired entries of a storage: results, schedules' claims, cached
values. Entries that have not expired, or never do, stay.

  taskiq-flow cleanup                                   of the settings' storage
  taskiq-flow cleanup --url postgresql://…              of another one
  0 * * * *  taskiq-flow cleanup --quiet                once an hour, from cron

A worker removes them too, every TASKIQ_FLOW_STORAGE_CLEANUP_INTERVAL seconds;
Redis removes them by itself.
"""
_EPILOG = """\
Long work is done in pieces, with a bar on a terminal, and may be interrupted:
what has been removed before is gone.

Exit status: 0; 1 if the storage failed; 2 if arguments or settings cannot be
used.
"""
_TIMEOUT = 300.0
"""Seconds that one call to the server may take: nothing else waits for this process."""
_SHOWN_AFTER = 1.0
"""Seconds after which work is long."""
_WIDTH = 30
"""Of the bar, in columns."""


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "cleanup",
        help="remove expired entries",
        description=_HELP,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    add_storage_arguments(parser.add_argument_group("which storage"))
    parser.set_defaults(do=_clean)


def _clean(chosen: argparse.Namespace) -> int:
    """Remove what has expired; return the exit status.

    :raises ConfigurationError: if no storage was named, or one that cannot be used.
    :raises StorageError: if the storage failed.
    """
    from taskiq_flow.storage.backend import BackendAdapter

    storage = shared_storage(chosen, storage_operation_timeout=_TIMEOUT)
    bar = _Bar(is_shown=not chosen.quiet and sys.stderr.isatty())

    async def clean() -> int:
        async with storage:
            if not isinstance(storage, BackendAdapter):
                return await storage.cleanup()
            total = await storage.count_entries() if bar.is_shown else None
            removed = seen = 0
            async for piece in storage.cleanup_pieces():
                removed, seen = removed + piece.removed, seen + piece.seen
                bar.show(seen, total, removed)
            return removed

    try:
        removed = asyncio.run(clean())
    finally:
        bar.clear()
    if not chosen.quiet:
        print(f"removed {removed:,} expired {'entry' if removed == 1 else 'entries'}")
    return 0


class _Bar:
    """A progress bar on a terminal, of work that is long."""

    def __init__(self, *, is_shown: bool) -> None:
        self.is_shown = is_shown
        self._began = time.monotonic()
        self._length = 0

    def show(self, seen: int, total: int | None, removed: int) -> None:
        """Draw the bar: how many entries of how many were looked at, and how many of them removed."""
        if not self.is_shown or time.monotonic() - self._began < _SHOWN_AFTER:
            return
        text = f"{seen:,} entries, {removed:,} removed"
        if total:
            part = min(1.0, seen / total)
            text = f"[{'#' * round(part * _WIDTH):<{_WIDTH}}] {part:4.0%}  {text}"
        self._write(text)

    def clear(self) -> None:
        """Remove the bar."""
        if self._length:
            self._write("")

    def _write(self, text: str) -> None:
        print(f"\r{text.ljust(self._length)}", end="" if text else "\r", file=sys.stderr, flush=True)
        self._length = len(text)
