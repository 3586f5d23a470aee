"""The storage that a subcommand works on: arguments, settings, and what cannot be reached from another process."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskiq_flow.config import TaskiqFlowConfig
    from taskiq_flow.storage.base import BaseStorageAdapter

__all__ = ["add_storage_arguments", "given", "settings", "shared_storage"]

_OTHER_URLS = ("storage_redis_url", "storage_sqlite_url", "storage_sqlalchemy_url")
"""Which of the environment's settings ``--url`` replaces."""


def add_storage_arguments(parser: "argparse._ArgumentGroup") -> None:
    """Declare ``--url``, ``--namespace``, ``--table`` and ``--env-file``."""
    parser.add_argument("--url", help="the storage: redis://…, postgresql://…, sqlite:///file.db, …")
    parser.add_argument("--namespace", metavar="NAME", help="the storage's namespace, if not the usual one")
    parser.add_argument(
        "--table", metavar="NAME", help="the table of an SQL database, if not the usual one; made, if it is not there"
    )
    parser.add_argument("--env-file", metavar="FILE", type=Path, help="read settings from this file too, as from .env")


def settings(chosen: argparse.Namespace, **more: Any) -> "TaskiqFlowConfig":
    """Return the settings that arguments, environment and file say.

    :param more: settings that take precedence.
    :raises ConfigurationError: if one cannot be used, or the file does not exist.
    """
    from taskiq_flow.config import TaskiqFlowConfig
    from taskiq_flow.exceptions import ConfigurationError

    if chosen.env_file is not None and not chosen.env_file.is_file():
        raise ConfigurationError(f"there is no file {str(chosen.env_file)!r}")
    return TaskiqFlowConfig(_env_file=chosen.env_file, **given(chosen), **more)


def given(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that are among the arguments."""
    found = {"storage_namespace": chosen.namespace, "storage_table": chosen.table, "storage_url": chosen.url}
    if chosen.url is not None:
        found["storage_type"] = "auto"
    said = {name: value for name, value in found.items() if value is not None}
    return said if chosen.url is None else {**dict.fromkeys(_OTHER_URLS), **said}


def shared_storage(chosen: argparse.Namespace, **more: Any) -> "BaseStorageAdapter":
    """Return an adapter on the storage that arguments and settings name.

    :param more: settings that take precedence.
    :raises ConfigurationError: if they name none, or one that only its own process can reach, or a file of SQLite's
        that does not exist.
    """
    from taskiq_flow.exceptions import ConfigurationError
    from taskiq_flow.storage.factory import DEFAULT_SQLITE_URL, StorageAdapterFactory, named_url

    config = settings(chosen, **more)
    storage = StorageAdapterFactory.create_storage_adapter(config)
    url = named_url(config)
    if getattr(storage, "backend", "") == "memory" and url in {None, "memory://"}:
        if url is None and config.storage_type == "auto":
            raise ConfigurationError("no storage is named: give --url, or set TASKIQ_FLOW_STORAGE_URL")
        raise ConfigurationError(
            "a memory storage cannot be looked into from outside: each process has its own, and this one's is empty; "
            "give --url, or set TASKIQ_FLOW_STORAGE_URL, to one that processes share"
        )
    if url is None and config.storage_type in {"sqlite", "sqlalchemy"}:
        url = DEFAULT_SQLITE_URL
    if url is not None and url.startswith("sqlite"):
        _refuse_new_file(url)
    return storage


def _refuse_new_file(url: str) -> None:
    """Refuse a file that does not exist: SQLite would create it, and hide a mistyped name."""
    from sqlalchemy import make_url

    from taskiq_flow.exceptions import ConfigurationError

    file = make_url(url).database
    if file and file != ":memory:" and not file.startswith("file:") and not Path(file).exists():
        raise ConfigurationError(f"there is no database file {file!r}")
