"""Which URLs of databases can be used, and what they say."""

import re
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import URL, Dialect, exc, make_url

from taskiq_flow.exceptions import ConfigurationError, MissingDependencyError
from taskiq_flow.storage import rules
from taskiq_flow.storage.sql.drivers import for_driver

__all__ = ["Database", "dialect_of", "is_in_memory", "usable_url"]

_ASYNC_DRIVERS = {"sqlite": "aiosqlite", "postgresql": "asyncpg", "mysql": "asyncmy", "mariadb": "asyncmy"}
_SYNC_DRIVERS = {"sqlite": "pysqlite", "postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
_EXTRAS = {"asyncpg": "postgres", "asyncmy": "mysql"}
_OURS = ("max_connections", "pgbouncer")
"""Parameters that are for the adapter, and not for the driver."""


@dataclass(frozen=True)
class Database:
    """A database that an adapter may use."""

    url: URL
    """With a driver; as it was given."""
    driver_url: URL
    """As SQLAlchemy and the driver take it."""
    dialect: type[Dialect] = field(compare=False)
    arguments: dict[str, Any] = field(compare=False)
    """What the driver is told beside its URL."""
    max_connections: int | None
    """What the URL says; None for nothing."""
    is_behind_pgbouncer: bool
    """Whether the URL says so."""


def usable_url(db_url: str | URL, async_mode: bool) -> Database:
    """Return what a URL says, with a driver that fits the mode.

    :raises ConfigurationError: if there is no such database, the driver does not fit the mode, or a parameter cannot be
        meant.
    :raises MissingDependencyError: if the driver is not installed.
    """
    url = _parsed(db_url)
    database, _, driver = url.drivername.partition("+")
    drivers = _ASYNC_DRIVERS if async_mode else _SYNC_DRIVERS
    driver = driver or drivers.get(database, "")
    url = url.set(drivername=f"{database}+{driver}" if driver else database)
    dialect = _installed_dialect(url, async_mode)
    if dialect.is_async != async_mode:
        proposal = f"{database}+{drivers[database]}://" if database in drivers else "a driver of that kind"
        raise ConfigurationError(
            f"the driver {driver!r} of {url.drivername}:// does not fit async_mode={async_mode}: use {proposal}, "
            f"or async_mode={dialect.is_async}"
        )
    maximum: Any = url.query.get("max_connections")
    if maximum is not None:
        maximum = rules.checked_max_connections(int(maximum) if str(maximum).isdecimal() else maximum)
    pgbouncer = str(url.query.get("pgbouncer", "")).lower()
    if pgbouncer not in {"", "true", "false", "1", "0"}:
        raise ConfigurationError(f"the URL says pgbouncer={pgbouncer}, which must be true or false")
    driver_url, arguments = for_driver(url.difference_update_query(_OURS))
    return Database(url, driver_url, dialect, arguments, maximum, pgbouncer in {"true", "1"})


def dialect_of(db_url: str | URL) -> Dialect:
    """Return the dialect of a URL, whether or not its driver is installed.

    :raises ConfigurationError: if there is no such database.
    """
    url = _parsed(db_url)
    try:
        return url.set(drivername=url.get_backend_name()).get_dialect()()
    except exc.NoSuchModuleError:
        raise _unknown_dialect(url) from None


def is_in_memory(url: URL) -> bool:
    """Return whether an SQLite URL names a database in memory."""
    database = url.database or ""
    return database in {"", ":memory:"} or "mode=memory" in database or url.query.get("mode") == "memory"


def _installed_dialect(url: URL, async_mode: bool) -> type[Dialect]:
    try:
        dialect = url.get_dialect()
        if async_mode:  # some drivers, such as psycopg, are both
            dialect = dialect.get_async_dialect_cls(url)
        dialect.import_dbapi()
    except exc.NoSuchModuleError:
        raise _unknown_dialect(url) from None
    except ImportError as error:
        package = error.name or url.drivername.partition("+")[2]
        if package in _EXTRAS:
            raise MissingDependencyError.for_extra(f"{url.drivername}://", package, _EXTRAS[package]) from error
        message = f"{url.drivername}:// needs {package!r}, which is not installed: pip install {package}"
        raise MissingDependencyError(message) from error
    return dialect


def _parsed(db_url: str | URL) -> URL:
    """Return a URL whose parts can be what they are said to be.

    :raises ConfigurationError: if it is not a URL, or was taken apart in the middle of a password.
    """
    try:
        url = make_url(db_url.strip() if isinstance(db_url, str) else db_url)
    except (exc.ArgumentError, ValueError):
        raise ConfigurationError(
            "db_url is not an SQLAlchemy URL: write it like 'sqlite+aiosqlite:///file.db' or "
            "'postgresql+asyncpg://user:password@host/database'"
        ) from None
    if "@" in (url.host or "") or (isinstance(db_url, str) and _is_cut_in_a_value(db_url, url)):
        raise ConfigurationError(
            f"the URL '{url.drivername}://***' has an '@' too many: in a user, password or query value, any of "
            "/ ? # @ % : must be quoted (urllib.parse.quote)"
        )
    return url.set(drivername=re.sub(r"^postgres(?=\+|$)", "postgresql", url.drivername))


def _is_cut_in_a_value(db_url: str, url: URL) -> bool:
    """Return whether SQLAlchemy took an "@" in the query for the end of the password, or of the user's name."""
    credentials = db_url.partition("://")[2].rpartition("@")[0]
    if not credentials or credentials.startswith("/"):
        return False
    user = credentials.partition(":")[0]
    host_as_user = url.password is not None and "@" in user
    return host_as_user or "?" in user or bool(re.match(r"\d*/[^?]*\?[^?]*=", str(url.password or "")))


def _unknown_dialect(url: URL) -> ConfigurationError:
    known = ", ".join(_ASYNC_DRIVERS)
    return ConfigurationError(f"SQLAlchemy has no dialect for {url.drivername!r}; well known are: {known}")
