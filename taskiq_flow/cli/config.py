"""``taskiq-flow config``: shows the settings, where each comes from, and the storages that they lead to."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from taskiq_flow.cli._storage import add_storage_arguments, given, settings

if TYPE_CHECKING:
    from taskiq_flow.config import TaskiqFlowConfig

__all__ = ["add_parser"]

_HELP = """\
Show the settings that were understood and where each comes from, passwords
masked, and the storage and cache that they lead to. No server is asked.

  taskiq-flow config                  what the environment says
  taskiq-flow config --env-file .env  the same, and the file
"""
_EPILOG = """\
Variables that begin with TASKIQ_FLOW_ and are not settings are named on
standard error. A broker's own server is not known here.

Exit status: 0; 2 if settings cannot be used.
"""


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "config",
        help="show the settings, and where they come from",
        description=_HELP,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_storage_arguments(parser.add_argument_group("settings"))
    parser.set_defaults(do=_show)


def _show(chosen: argparse.Namespace) -> int:
    """Print the settings; return the exit status.

    :raises ConfigurationError: if one cannot be used, or they contradict each other.
    """
    from taskiq_flow.storage.factory import StorageAdapterFactory

    config = settings(chosen)
    rows = [("setting", "value", "from"), *_rows(config, _origins(chosen))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()
    print(f"storage  {StorageAdapterFactory.create_storage_adapter(config)!r}")
    print(f"cache    {StorageAdapterFactory.create_cache_adapter(config)!r}")
    return 0


def _rows(config: "TaskiqFlowConfig", origins: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    for name, value in config.__repr_args__():
        if name is not None:
            yield name, "" if value is None else str(value), origins.get(name, "default")


def _origins(chosen: argparse.Namespace) -> dict[str, str]:
    """Return where the settings come from that are not defaults."""
    from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

    from taskiq_flow.config import TaskiqFlowConfig

    file = EnvSettingsSource.__call__(DotEnvSettingsSource(TaskiqFlowConfig, env_file=chosen.env_file))
    environment = EnvSettingsSource(TaskiqFlowConfig)()
    return {
        **dict.fromkeys(file, str(chosen.env_file)),
        **{name: f"TASKIQ_FLOW_{name.upper()}" for name in environment},
        **dict.fromkeys(given(chosen), "arguments"),
    }
