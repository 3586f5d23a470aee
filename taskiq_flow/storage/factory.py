"""``StorageAdapterFactory``: the adapter that a configuration asks for.

A registry of URL schemes: each names a builder, and third parties add their own.
"""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict, get_args

from taskiq_flow.config import StorageType, TaskiqFlowConfig
from taskiq_flow.exceptions import ConfigurationError, TaskiqFlowError
from taskiq_flow.storage.backend import without_frames
from taskiq_flow.storage.base import BaseStorageAdapter
from taskiq_flow.storage.memory import InMemoryStorageAdapter, InMemoryStore
from taskiq_flow.storage.urls import masked

if TYPE_CHECKING:
    from taskiq_flow.cache import BaseCacheAdapter
    from taskiq_flow.middlewares import CacheMiddleware, StorageMiddleware
    from taskiq_flow.storage.redis import RedisStorageAdapter

__all__ = ["DEFAULT_SQLITE_URL", "AdapterBuilder", "DefaultMiddlewares", "StorageAdapterFactory"]

AdapterBuilder = Callable[[str, TaskiqFlowConfig], BaseStorageAdapter]
"""Makes an adapter from a URL and the settings, whose ``storage_ttl_seconds`` is the default time to live to use."""

_DEFAULT_REDIS_URL = "redis://localhost:6379"
DEFAULT_SQLITE_URL = "sqlite+aiosqlite:///taskiq-flow.db"


class DefaultMiddlewares(TypedDict):
    """What :meth:`StorageAdapterFactory.create_default_middlewares` returns."""

    storage: "StorageMiddleware"
    cache: "CacheMiddleware"


class StorageAdapterFactory:
    """Makes storage adapters from settings, broker and arguments; what is said nearest to the call takes precedence."""

    _builders: dict[str, AdapterBuilder] = {}  # noqa: RUF012 - a registry, changed by register_scheme

    @classmethod
    def create_storage_adapter(
        cls,
        config: TaskiqFlowConfig | None = None,
        broker: Any = None,
        redis_url: str | None = None,
        ttl_seconds: float | None = None,
        *,
        type: StorageType | None = None,  # noqa: A002 - the name that taskiq-flow gave it
    ) -> BaseStorageAdapter:
        """Return the adapter that the arguments and the settings ask for; nothing is connected yet.

        ``auto`` never guesses. In this order: ``redis_url``; ``config.storage_url``, by its scheme;
        ``config.storage_redis_url``; the server of a taskiq-redis ``broker``, with its database, credentials and TLS
        settings; else memory.

        :param config: settings; by default read from the environment.
        :param broker: a taskiq broker; one of taskiq-redis says where Redis is.
        :param redis_url: the Redis server to use.
        :param ttl_seconds: default time to live in seconds; takes precedence over ``config.storage_ttl_seconds``.
        :param type: one of ``auto``, ``memory``, ``redis``, ``sqlite``, ``sqlalchemy``; takes precedence over
            ``config.storage_type``.
        :raises ConfigurationError: if type or scheme are not known (the message lists those that are), or settings
            contradict each other.
        :raises MissingDependencyError: if a package is missing; the message names the extra that brings it.
        """
        config = TaskiqFlowConfig() if config is None else config
        try:
            return cls._create(config, broker, redis_url, ttl_seconds, type)
        except TaskiqFlowError as error:
            # A URL from the environment is an argument of the frames below, and test runners print those.
            raise without_frames(error) from error.__cause__

    @classmethod
    def _create(
        cls, config: TaskiqFlowConfig, broker: Any, redis_url: str | None, ttl_seconds: float | None, asked: str | None
    ) -> BaseStorageAdapter:
        if ttl_seconds is not None:
            config = config.model_copy(update={"storage_ttl_seconds": ttl_seconds})
        kind = config.storage_type if asked is None else asked
        if kind not in get_args(StorageType):
            raise ConfigurationError(f"unknown storage type {kind!r}; known types: {', '.join(get_args(StorageType))}")
        if redis_url is not None and kind not in {"auto", "redis"}:
            raise ConfigurationError(f"redis_url was given, but the storage type is {kind!r}")
        url = redis_url or _only_one(config, kind)
        if url is not None:
            cls._refuse_contradiction(kind, url)
            if url in {redis_url, config.storage_redis_url} and cls._builder_of(url) is not _build_redis:
                raise ConfigurationError(f"{masked(url)!r} was given as the URL of a Redis server, and is not one")
            return cls._by_scheme(url, config)
        if kind in {"sqlite", "sqlalchemy"}:
            return cls._by_scheme(DEFAULT_SQLITE_URL, config)
        if kind != "memory" and (adapter := _on_server_of(broker, config)) is not None:
            return adapter
        return cls._by_scheme(_DEFAULT_REDIS_URL if kind == "redis" else "memory://", config)

    @classmethod
    def create_cache_adapter(
        cls,
        config: TaskiqFlowConfig | None = None,
        redis_url: str | None = None,
        default_ttl: float | None = 3600,
        lock_timeout: float = 10,
        *,
        broker: Any = None,
    ) -> "BaseCacheAdapter":
        """Return a cache on the storage that :meth:`create_storage_adapter` would choose; nothing is connected yet.

        :param config: settings; by default read from the environment.
        :param redis_url: the Redis server to use.
        :param default_ttl: seconds that values live where nothing else is said; None for the storage's own default.
        :param lock_timeout: seconds after which a creator that is not heard of is taken for dead.
        :param broker: a taskiq broker; one of taskiq-redis says where Redis is.
        :raises ConfigurationError: as for :meth:`create_storage_adapter`, or if ``lock_timeout`` cannot be used.
        :raises MissingDependencyError: if a package is missing; the message names the extra that brings it.
        :raises InvalidTTLError: if ``default_ttl`` is not a legal time to live.
        """
        from taskiq_flow import cache

        storage: Any = cls.create_storage_adapter(config, broker, redis_url)
        match getattr(storage, "backend", ""):  # by name: to ask for its class is to import redis
            case "memory":
                return cache.InMemoryCacheAdapter(default_ttl, lock_timeout, storage=storage, owns_storage=True)
            case "Redis":
                return cache.RedisCacheAdapter(
                    default_ttl=default_ttl, lock_timeout=lock_timeout, storage=storage, owns_storage=True
                )
            case _:
                return cache.StorageCacheAdapter(storage, default_ttl, lock_timeout, owns_storage=True)

    @classmethod
    def create_default_middlewares(
        cls, config: TaskiqFlowConfig | None = None, broker: Any = None
    ) -> DefaultMiddlewares:
        """Return a ``StorageMiddleware`` and a ``CacheMiddleware`` on one storage, which is closed at shutdown.

        The storage is the one that :meth:`create_storage_adapter` would choose.

        :param config: settings; by default read from the environment.
        :param broker: a taskiq broker; one of taskiq-redis says where Redis is.
        :return: the middlewares, under ``"storage"`` and ``"cache"``.
        :raises ConfigurationError: as for :meth:`create_storage_adapter`.
        :raises MissingDependencyError: if a package is missing; the message names the extra that brings it.
        """
        from taskiq_flow.cache import StorageCacheAdapter
        from taskiq_flow.middlewares import CacheMiddleware, StorageMiddleware

        storage = cls.create_storage_adapter(config, broker)
        return {
            "storage": StorageMiddleware(storage, owns_storage=True),
            "cache": CacheMiddleware(StorageCacheAdapter(storage)),
        }

    @classmethod
    def register_scheme(cls, scheme: str, builder: AdapterBuilder) -> None:
        """Let ``builder`` make the adapter for URLs that begin with ``scheme://``.

        :raises ConfigurationError: if the scheme is taken by another builder, or is not a scheme.
        """
        if not scheme or not set(scheme) <= set("abcdefghijklmnopqrstuvwxyz0123456789+-."):
            raise ConfigurationError(f"{scheme!r} is not a URL scheme: use small letters, digits, '+', '-' and '.'")
        if cls._builders.setdefault(scheme, builder) is not builder:
            raise ConfigurationError(f"the scheme {scheme!r} is registered already, for {cls._builders[scheme]!r}")

    @classmethod
    def known_schemes(cls) -> list[str]:
        """Return the registered schemes, sorted; any other that SQLAlchemy has a dialect for works too."""
        return sorted(cls._builders)

    @classmethod
    def _by_scheme(cls, url: str, config: TaskiqFlowConfig) -> BaseStorageAdapter:
        builder = cls._builder_of(url)
        if builder is None:
            raise ConfigurationError(
                f"the storage URL {masked(url)!r} has an unknown scheme; known schemes: "
                f"{', '.join(f'{known}://' for known in cls.known_schemes())}, and any other of SQLAlchemy's"
            )
        return builder(url, config)

    @classmethod
    def _builder_of(cls, url: str) -> AdapterBuilder | None:
        """Return what makes the adapter for a URL; None where nobody knows its scheme."""
        scheme, separator, _ = url.partition("://")
        if not separator:
            return None
        builder = cls._builders.get(scheme) or cls._builders.get(scheme.partition("+")[0])
        return _build_sqlalchemy if builder is None and _is_sqlalchemy_dialect(scheme) else builder

    @classmethod
    def _refuse_contradiction(cls, kind: str, url: str) -> None:
        """Refuse a URL that another type of storage has than the one that was asked for."""
        if kind == "auto" or (builder := cls._builder_of(url)) is None:
            return
        expected = {"memory": _build_memory, "redis": _build_redis}.get(kind, _build_sqlalchemy)
        if builder is not expected or (kind == "sqlite" and not url.startswith("sqlite")):
            raise ConfigurationError(f"the storage type is {kind!r}, but the storage URL is {masked(url)!r}")


def _build_memory(url: str, config: TaskiqFlowConfig) -> BaseStorageAdapter:
    name = url.partition("://")[2]
    return InMemoryStorageAdapter(
        config.storage_ttl_seconds,
        namespace=config.storage_namespace,
        store=InMemoryStore.named(name) if name else None,
    )


def _build_redis(url: str, config: TaskiqFlowConfig) -> BaseStorageAdapter:
    return _redis_adapter_class()(url, **_redis_settings(config))


def _build_sqlalchemy(url: str, config: TaskiqFlowConfig) -> BaseStorageAdapter:
    from taskiq_flow.storage.sql import SQLAlchemyStorageAdapter

    return SQLAlchemyStorageAdapter(
        url,
        config.storage_async_mode,
        config.storage_ttl_seconds,
        namespace=config.storage_namespace,
        table=config.storage_table,
        connect_timeout=config.storage_connect_timeout,
        operation_timeout=config.storage_operation_timeout,
    )


for _scheme in ("redis", "rediss", "unix", "valkey", "valkeys", "redis+cluster", "rediss+cluster"):
    StorageAdapterFactory.register_scheme(_scheme, _build_redis)
for _scheme in ("sqlite", "postgresql", "postgres", "mysql", "mariadb"):
    StorageAdapterFactory.register_scheme(_scheme, _build_sqlalchemy)
StorageAdapterFactory.register_scheme("memory", _build_memory)


def _only_one(config: TaskiqFlowConfig, kind: str) -> str | None:
    """Return the URL that the settings name for this type of storage."""
    if config.storage_url and config.storage_redis_url and config.storage_url != config.storage_redis_url:
        raise ConfigurationError(
            f"storage_url ({masked(config.storage_url)}) and storage_redis_url ({masked(config.storage_redis_url)}) "
            "are both set and differ: set only one"
        )
    if config.storage_url:
        return config.storage_url
    return config.storage_redis_url if kind in {"auto", "redis"} else None


def _is_sqlalchemy_dialect(scheme: str) -> bool:
    from sqlalchemy.dialects import registry
    from sqlalchemy.exc import NoSuchModuleError

    try:
        registry.load(scheme.replace("+", "."))
    except (NoSuchModuleError, ImportError):
        return False
    return True


def _on_server_of(broker: Any, config: TaskiqFlowConfig) -> BaseStorageAdapter | None:
    """Return an adapter on the server of a taskiq-redis broker; None for any other broker."""
    if not any(base.__module__.partition(".")[0] == "taskiq_redis" for base in type(broker).__mro__):
        return None
    server = importlib.import_module("taskiq_flow.storage.redis.broker").server_of(
        broker, config.storage_connect_timeout
    )
    if server is None:
        return None
    return _redis_adapter_class()(client_factory=server.make_client, address=server.address, **_redis_settings(config))


def _redis_adapter_class() -> "type[RedisStorageAdapter]":
    from taskiq_flow.storage.redis import RedisStorageAdapter

    return RedisStorageAdapter


def _redis_settings(config: TaskiqFlowConfig) -> dict[str, Any]:
    return {
        "ttl_seconds": config.storage_ttl_seconds,
        "namespace": config.storage_namespace,
        "connect_timeout": config.storage_connect_timeout,
        "operation_timeout": config.storage_operation_timeout,
    }
