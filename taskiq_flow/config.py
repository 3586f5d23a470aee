"""``TaskiqFlowConfig``: settings from the environment (``TASKIQ_FLOW_…``) or the constructor."""

from collections.abc import Iterator
from typing import Any

from pydantic_settings import BaseSettings, SettingsConfigDict

from taskiq_flow.storage.backend import DEFAULT_TIMEOUT
from taskiq_flow.storage.rules import DEFAULT_NAMESPACE, DEFAULT_TABLE
from taskiq_flow.storage.urls import masked

__all__ = ["TaskiqFlowConfig"]


class TaskiqFlowConfig(BaseSettings):
    """Where and how an application stores what its tasks leave behind.

    Every setting may come from the environment as ``TASKIQ_FLOW_`` and its name in capitals; an empty variable counts
    as not set. Passwords in URLs are hidden in ``repr``.
    """

    model_config = SettingsConfigDict(env_prefix="TASKIQ_FLOW_", env_ignore_empty=True, hide_input_in_errors=True)

    storage_type: str = "auto"
    """``auto``, ``memory``, ``redis``, ``sqlite`` or ``sqlalchemy``."""
    storage_url: str | None = None
    """One URL that chooses the backend by its scheme: ``memory://``, ``redis://…``, ``rediss://…``, any SQLAlchemy URL,
    or a scheme that was registered with ``StorageAdapterFactory.register_scheme``."""
    storage_redis_url: str | None = None
    """The Redis server to use where ``storage_type`` is ``redis`` or ``auto``."""
    storage_async_mode: bool = True
    """For SQLAlchemy URLs: whether the driver is asynchronous."""
    storage_ttl_seconds: float | None = None
    """Default time to live of entries, in seconds, the same on every backend; None for ever."""
    storage_namespace: str = DEFAULT_NAMESPACE
    """Entries of different namespaces on one server never see each other."""
    storage_table: str = DEFAULT_TABLE
    """For SQLAlchemy URLs: the table that holds the entries."""
    storage_connect_timeout: float = 5.0
    """Seconds to wait for a connection."""
    storage_operation_timeout: float = DEFAULT_TIMEOUT
    """Seconds that one storage operation may take in all."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Show the settings with passwords masked."""
        for name, value in super().__repr_args__():
            is_url = isinstance(value, str) and name is not None and name.endswith("_url")
            yield name, masked(value) if is_url else value
