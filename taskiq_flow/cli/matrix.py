"""``taskiq-flow matrix``: merges the reports of several test runs, as of the jobs of a CI."""

import argparse
import sys
from pathlib import Path
from typing import Any

__all__ = ["add_parser"]

_HELP = """\
Merges reports that pytest --storage-report=….json wrote, as in the jobs of a
CI, and shows where storages differ. Where two ran a test on one storage, the
worse outcome counts.

  taskiq-flow matrix redis.json postgres.json                 in the terminal
  taskiq-flow matrix redis.json postgres.json -o matrix.html  as one page
"""
_EPILOG = """\
Exit status: 0; 1 if a report cannot be read, or a file not be written; 2 if
arguments cannot be used.
"""


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "matrix",
        help="merge reports of pytest --storage-report=….json",
        description=_HELP,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("reports", nargs="+", type=Path, metavar="REPORT", help="reports in JSON")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="write .html, .md or .json instead of the terminal; repeatable",
    )
    parser.set_defaults(do=_merge)


def _merge(chosen: argparse.Namespace) -> int:
    """Merge the reports and print or write them; return the exit status.

    :raises MissingDependencyError: if the plugin's own package, pytest, is not installed.
    """
    try:
        from taskiq_flow.pytest_plugin.options import REPORT_FORMS
        from taskiq_flow.pytest_plugin.report import text, write
        from taskiq_flow.pytest_plugin.report.matrix import Matrix, UnreadableReport
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("taskiq_flow"):
            raise
        from taskiq_flow.exceptions import MissingDependencyError

        raise MissingDependencyError.for_extra("taskiq-flow matrix", error.name, "pytest") from None

    for file in chosen.output:
        if file.suffix not in REPORT_FORMS:
            print(f"taskiq-flow: {str(file)!r} must end in one of {', '.join(REPORT_FORMS)}", file=sys.stderr)
            return 2
    merged = Matrix()
    try:
        for report in chosen.reports:
            merged.merge(Matrix.read(report))
        for file in chosen.output:
            write(merged, file)
    except (OSError, UnreadableReport) as error:
        print(f"taskiq-flow: {error}", file=sys.stderr)
        return 1
    if not chosen.output:
        divergences = list(text.divergences(merged)) or ["no test diverges"]
        print("\n".join([*text.table(merged), "", *divergences]))
    return 0
