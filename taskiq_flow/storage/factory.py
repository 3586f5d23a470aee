"""``StorageAdapterFactory``: the adapter that a configuration asks for.

A registry of URL schemes: each names a builder, and third parties add their own.
"""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict, get_args
from weakref import WeakSet

from taskiq_flow import _settings
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

__all__ = ["DEFAULT_SQLITE_URL", "AdapterBuilder", "DefaultMiddlewares", "StorageAdapterFactory", "named_url"]

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

        ``auto`` never guesses. In this order: ``redis_url``; the URL of the settings, by its scheme; the server of a
        taskiq-redis ``broker``, with its database, credentials and TLS settings; else memory, with a
        ``ConfigurationWarning`` where the broker sends to other processes, which do not see this one's memory.

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
        given = {"redis_url": redis_url} if redis_url else _urls_for(kind, config)
        if len(set(given.values())) > 1:
            told = " and ".join(f"{name} ({masked(url)})" for name, url in given.items())
            raise ConfigurationError(f"{told} are both set and differ: set only one, or say which by storage_type")
        for name, url in given.items():  # one, or several names of one
            if kind != "auto" and cls._builder_of(url) is not None and not cls._fits(kind, url):
                raise ConfigurationError(f"the storage type is {kind!r}, but {name} is {masked(url)!r}")
            if name in _KINDS_BY_NAME and not cls._fits(its := _KINDS_BY_NAME[name], url):
                raise ConfigurationError(f"{name} is {masked(url)!r}, which is not the URL of {_CALLED[its]}")
            return cls._by_scheme(url, config)
        if kind in {"sqlite", "sqlalchemy"}:
            return cls._by_scheme(DEFAULT_SQLITE_URL, config)
        if kind != "memory" and (adapter := _on_server_of(broker, config)) is not None:
            return adapter
        if kind == "auto":
            _warn_of_memory(broker)
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
        """Return a cache on the storage that the settings name for caches; nothing is connected yet.

        Where ``cache_type``, ``cache_url`` and ``cache_redis_url`` are not set, that is the one which
        :meth:`create_storage_adapter` would choose.

        :param config: settings; by default read from the environment.
        :param redis_url: the Redis server to use.
        :param default_ttl: seconds that values live where nothing else is said; None for the storage's own default.
            Where it is left at an hour, ``config.cache_default_ttl`` decides.
        :param lock_timeout: seconds after which a creator that is not heard of is taken for dead. Where it is left at
            10 s, ``config.cache_lock_timeout`` decides.
        :param broker: a taskiq broker; one of taskiq-redis says where Redis is.
        :raises ConfigurationError: as for :meth:`create_storage_adapter`, or if ``lock_timeout`` cannot be used.
        :raises MissingDependencyError: if a package is missing; the message names the extra that brings it.
        :raises InvalidTTLError: if ``default_ttl`` is not a legal time to live.
        """
        from taskiq_flow import cache
        from taskiq_flow.cache.storage import DEFAULT_LOCK_TIMEOUT, DEFAULT_TTL

        config = TaskiqFlowConfig() if config is None else config
        if default_ttl == DEFAULT_TTL:
            default_ttl = config.cache_default_ttl
        if lock_timeout == DEFAULT_LOCK_TIMEOUT and config.cache_lock_timeout is not None:
            lock_timeout = config.cache_lock_timeout
        storage: Any = cls.create_storage_adapter(_for_caches(config), broker, redis_url)
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
        """Return a ``StorageMiddleware`` and a ``CacheMiddleware``, which close their storage at shutdown.

        It is the one that :meth:`create_storage_adapter` would choose, for both; where the settings name another for
        caches, the cache is on that. ``config.storage_enabled`` and ``config.cache_enabled`` switch the one and the
        other off.

        :param config: settings; by default read from the environment.
        :param broker: a taskiq broker; one of taskiq-redis says where Redis is.
        :return: the middlewares, under ``"storage"`` and ``"cache"``.
        :raises ConfigurationError: as for :meth:`create_storage_adapter`.
        :raises MissingDependencyError: if a package is missing; the message names the extra that brings it.
        """
        from taskiq_flow.cache.storage import DEFAULT_LOCK_TIMEOUT, StorageCacheAdapter
        from taskiq_flow.middlewares import CacheMiddleware, StorageMiddleware

        config = TaskiqFlowConfig() if config is None else config
        storage = cls.create_storage_adapter(config, broker)
        lock_timeout = DEFAULT_LOCK_TIMEOUT if config.cache_lock_timeout is None else config.cache_lock_timeout
        own = _for_caches(config)
        cache: BaseCacheAdapter
        if own is config:
            cache = StorageCacheAdapter(storage, config.cache_default_ttl, lock_timeout)
        else:
            cache = cls.create_cache_adapter(config, lock_timeout=lock_timeout, broker=broker)
        return {
            "storage": StorageMiddleware(storage, config.storage_enabled, owns_storage=True),
            "cache": CacheMiddleware(cache, config.cache_enabled, owns_cache=own is not config),
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
    def _fits(cls, kind: str, url: str) -> bool:
        """Return whether a URL is that of a type of storage."""
        expected = {"memory": _build_memory, "redis": _build_redis}.get(kind, _build_sqlalchemy)
        return cls._builder_of(url) is expected and (kind != "sqlite" or url.startswith("sqlite"))


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
        max_connections=config.storage_max_connections,
        cleanup_interval=config.storage_cleanup_interval,
        connect_timeout=config.storage_connect_timeout,
        operation_timeout=config.storage_operation_timeout,
    )


for _scheme in ("redis", "rediss", "unix", "valkey", "valkeys", "redis+cluster", "rediss+cluster"):
    StorageAdapterFactory.register_scheme(_scheme, _build_redis)
for _scheme in ("sqlite", "postgresql", "postgres", "mysql", "mariadb"):
    StorageAdapterFactory.register_scheme(_scheme, _build_sqlalchemy)
StorageAdapterFactory.register_scheme("memory", _build_memory)


_KINDS_BY_NAME = {
    "redis_url": "redis",
    "storage_redis_url": "redis",
    "storage_sqlite_url": "sqlite",
    "storage_sqlalchemy_url": "sqlalchemy",
}
"""Which type of storage a URL must have under a name that says it."""
_CALLED = {"redis": "a Redis server", "sqlite": "an SQLite database", "sqlalchemy": "an SQL database"}


def named_url(config: TaskiqFlowConfig) -> str | None:
    """Return the URL that settings hold for storages of their type; None where they hold none."""
    return next(iter(_urls_for(config.storage_type, config).values()), None)


def _urls_for(kind: str, config: TaskiqFlowConfig) -> dict[str, str]:
    """Return the URLs that the settings hold for this type of storage, by the names of the settings."""
    names = ("storage_url", *(name for name, its in _KINDS_BY_NAME.items() if kind in {"auto", its}))
    return {name: url for name in names if (url := getattr(config, name, None))}


def _for_caches(config: TaskiqFlowConfig) -> TaskiqFlowConfig:
    """Return the settings with those for caches in place of those for storages; unchanged where there are none."""
    if config.cache_type == "auto" and not config.cache_url and not config.cache_redis_url:
        return config
    kind = config.cache_type
    if config.cache_url or config.cache_redis_url:
        urls = {"storage_url": config.cache_url, "storage_redis_url": config.cache_redis_url}
    else:
        urls = {name: url for name, url in _urls_for(kind, config).items() if StorageAdapterFactory._fits(kind, url)}
    nothing = dict.fromkeys(("storage_url", *_KINDS_BY_NAME))
    return config.model_copy(update={**nothing, **urls, "storage_type": kind})


_WARNED_OF: "WeakSet[Any]" = WeakSet()
"""The brokers for which a storage in memory has been warned of."""


def _warn_of_memory(broker: Any) -> None:
    """Warn, once for each broker, that what it sends elsewhere is not seen from here."""
    bases = {(base.__module__.partition(".")[0], base.__name__) for base in type(broker).__mro__}
    if ("taskiq", "AsyncBroker") not in bases or ("taskiq", "InMemoryBroker") in bases or broker in _WARNED_OF:
        return
    _WARNED_OF.add(broker)
    _settings.warn(
        f"no storage is configured, so entries are kept in this process's memory, but {type(broker).__name__} sends "
        "tasks to other processes, which do not see them: set TASKIQ_FLOW_STORAGE_URL to a storage that they share, "
        "or TASKIQ_FLOW_STORAGE_TYPE=memory if that is meant"
    )


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
        **({} if config.storage_max_connections is None else {"max_connections": config.storage_max_connections}),
        "connect_timeout": config.storage_connect_timeout,
        "operation_timeout": config.storage_operation_timeout,
    }
