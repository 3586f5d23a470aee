"""``TaskiqFlowConfig``: settings from the environment (``TASKIQ_FLOW_…``), a ``.env`` file or the constructor."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from taskiq_flow._settings import Variables
from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.storage.backend import DEFAULT_TIMEOUT
from taskiq_flow.storage.expiry import DEFAULT_INTERVAL
from taskiq_flow.storage.rules import DEFAULT_NAMESPACE, DEFAULT_TABLE
from taskiq_flow.storage.urls import masked

__all__ = ["StorageType", "TaskiqFlowConfig"]

StorageType = Literal["auto", "memory", "redis", "sqlite", "sqlalchemy"]
"""What may be asked for; ``auto`` takes what URLs and broker say."""

_PREFIX = "TASKIQ_FLOW_"
_Url: TypeAlias = Annotated[str, StringConstraints(strip_whitespace=True)]
"""Without blanks and line ends around it, which a secret from a file has."""


_Never: TypeAlias = Annotated[float | None, BeforeValidator(lambda value: None if value in _NEVER else value)]
_NEVER = ("none", "None", "never")


class TaskiqFlowConfig(BaseSettings):
    """Where and how an application stores what its tasks leave behind.

    Every setting may come from the environment as ``TASKIQ_FLOW_`` and its name in capitals, or from a ``.env`` file
    (``TaskiqFlowConfig(_env_file=".env")``), which may hold an application's other variables too; an empty variable
    counts as not set. A variable that begins with ``TASKIQ_FLOW_`` and is not a setting is warned of, with a
    ``ConfigurationWarning`` that names the nearest one. Passwords in URLs are hidden in ``repr``.

    :raises ConfigurationError: if an argument is not a setting, or a value cannot be used; the message names the
        setting, and shows the value only where that cannot be a secret.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_ignore_empty=True, hide_input_in_errors=True)

    storage_enabled: bool = True
    """Whether the ``StorageMiddleware`` of ``create_default_middlewares`` keeps results."""
    storage_type: StorageType = "auto"
    storage_url: _Url | None = None
    """One URL that chooses the backend by its scheme: ``memory://``, ``redis://…``, ``rediss://…``, any SQLAlchemy URL,
    or a scheme that was registered with ``StorageAdapterFactory.register_scheme``."""
    storage_redis_url: _Url | None = None
    """The Redis server to use where ``storage_type`` is ``redis`` or ``auto``."""
    storage_sqlite_url: _Url | None = None
    """``storage_url`` in taskiq-flow 1.2.2, for the types ``sqlite`` and ``auto``."""
    storage_sqlalchemy_url: _Url | None = None
    """``storage_url`` in taskiq-flow 1.2.2, for the types ``sqlalchemy`` and ``auto``."""
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
    storage_max_connections: int | None = None
    """How many connections each event loop may have open; None for the adapter's default."""
    storage_cleanup_interval: _Never = DEFAULT_INTERVAL
    """For SQLAlchemy URLs: seconds after which what has expired is removed, time and again; None (``none`` in a
    variable) for never."""

    cache_enabled: bool = True
    """Whether the ``CacheMiddleware`` of ``create_default_middlewares`` caches."""
    cache_type: StorageType = "auto"
    """As ``storage_type``, for caches; ``auto`` takes what the cache's URLs say, and else is where results are."""
    cache_url: _Url | None = None
    """As ``storage_url``, for caches."""
    cache_redis_url: _Url | None = None
    """As ``storage_redis_url``, for caches."""
    cache_default_ttl: float | None = 3600
    """Seconds that cached values live where nothing else is said; None for ``storage_ttl_seconds``."""
    cache_lock_timeout: float | None = None
    """Seconds after which a creator that is not heard of is taken for dead; None for the cache's own default."""

    if not TYPE_CHECKING:  # type checkers know the settings' types only where there is no `__init__`

        def __init__(self, **given: Any) -> None:
            try:
                super().__init__(**given)
            except ValidationError as error:
                raise _unusable(error) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where settings come from, in the order of their precedence."""
        variables = (
            Variables(settings_cls, source) if isinstance(source, EnvSettingsSource) else source
            for source in (env_settings, dotenv_settings)
        )
        return init_settings, *variables, file_secret_settings

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Show the settings with passwords masked."""
        for name, value in super().__repr_args__():
            is_url = isinstance(value, str) and name is not None and name.endswith("_url")
            yield name, masked(value) if is_url else value


def _unusable(error: ValidationError) -> ConfigurationError:
    """Return our error for pydantic's, whose class and words are pydantic's own."""
    first = error.errors(include_url=False)[0]
    name = "_".join(map(str, first["loc"])).lower().removeprefix(_PREFIX.lower())
    match first["type"]:
        case "extra_forbidden":
            return ConfigurationError(f"there is no setting {name!r}")
        case "literal_error":  # one of a few words, never a secret
            return ConfigurationError(
                f"the setting {name!r} ({_PREFIX}{name.upper()}) cannot be {first['input']!r}: "
                f"use one of {first['ctx']['expected']}"
            )
        case _:
            return ConfigurationError(f"the setting {name!r} ({_PREFIX}{name.upper()}) cannot be used: {first['msg']}")
