"""``taskiq-flow ddl``: prints the statement that creates the table, for databases where the application may not."""

import argparse
from typing import Any

from taskiq_flow.cli._storage import add_storage_arguments, settings

__all__ = ["add_parser"]

_HELP = """\
Print the SQL that creates the table of entries. Nothing is connected: a person
with the right to do so runs it, and the application's own role needs none.

  taskiq-flow ddl --url postgresql://host/db
  taskiq-flow ddl --url mysql://host/db --table tenant_a.results

For Alembic: from taskiq_flow.storage import metadata
"""
_EPILOG = """\
Without --url the database is that of the settings.

Exit status: 0; 2 if arguments or settings cannot be used.
"""


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "ddl",
        help="print the SQL that creates the table",
        description=_HELP,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_storage_arguments(parser.add_argument_group("which table"))
    parser.set_defaults(do=_print)


def _print(chosen: argparse.Namespace) -> int:
    """Print the statement; return the exit status.

    :raises ConfigurationError: if no database was named, or one that cannot be used.
    """
    from taskiq_flow.exceptions import ConfigurationError
    from taskiq_flow.storage import create_table_sql
    from taskiq_flow.storage.factory import DEFAULT_SQLITE_URL, named_url

    config = settings(chosen)
    url = named_url(config)
    if url is None and config.storage_type in {"sqlite", "sqlalchemy"}:
        url = DEFAULT_SQLITE_URL
    if url is None:
        raise ConfigurationError("no database is named: give --url, or set TASKIQ_FLOW_STORAGE_URL")
    print(create_table_sql(url, config.storage_table))
    return 0
