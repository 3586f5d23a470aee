"""What the parameters of a URL mean, told to the URL's driver.

PostgreSQL: libpq's, https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS. psycopg is libpq;
asyncpg has another form for some. MySQL: those of its own clients, https://dev.mysql.com/doc/refman/8.4/en/connection-options.html.
What a driver cannot do, or nobody knows, is a ``ConfigurationError`` that names the parameter.
"""

import inspect
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from taskiq_flow.exceptions import ConfigurationError

__all__ = ["for_driver"]

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_CHOICES = {
    "sslmode": _SSL_MODES,
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "sslnegotiation": ("postgres", "direct"),
}
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_MYSQL_MODES = ("disabled", "preferred", "required", "verify_ca", "verify_identity")


def for_driver(url: URL) -> tuple[URL, dict[str, Any]]:
    """Return the URL as SQLAlchemy and its driver take it, and the arguments that the driver is told beside it.

    :raises ConfigurationError: if the driver cannot do what a parameter says, or nobody knows it.
    """
    database, driver = url.get_backend_name(), url.get_driver_name()
    if database == "postgresql":
        _check_libpq(url)
        if driver == "asyncpg":
            return _for_asyncpg(url)
        if driver == "psycopg":
            return _for_psycopg(url)
    if database in {"mysql", "mariadb"} and driver in {"asyncmy", "pymysql"}:
        return _for_mysql(url, driver)
    return url, {}


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def _check_libpq(url: URL) -> None:
    for name, choices in _CHOICES.items():
        if (value := url.query.get(name)) is not None and value not in choices:
            raise ConfigurationError(f"the URL says {name}={value}, which must be one of {', '.join(choices)}")
    for name in _FILES:
        value = str(url.query.get(name, ""))
        if value and value != "system" and not Path(value).exists():
            raise ConfigurationError(f"the URL says {name}={value}, and there is no such file")
    mode, default = url.query.get("sslmode"), Path.home() / ".postgresql" / "root.crt"
    is_named = "sslrootcert" in url.query or "PGSSLROOTCERT" in os.environ
    if mode in {"verify-ca", "verify-full"} and not is_named and not default.exists():
        raise ConfigurationError(
            f"the URL says sslmode={mode} without sslrootcert, and there is no {default}: name a file of certificates, "
            "or sslrootcert=system"
        )
    if "connect_timeout" in url.query:
        _number(url, "connect_timeout")


@dataclass
class _Told:
    """What asyncpg is told."""

    arguments: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    """Of the session, on the server."""
    dsn: dict[str, str] = field(default_factory=dict)
    """What asyncpg has no arguments for: only a URL of its own may say it."""
    socket: dict[str, int] = field(default_factory=dict)


def _for_asyncpg(url: URL) -> tuple[URL, dict[str, Any]]:
    import asyncpg

    query, told = dict(url.query), _Told()
    for name in [name for name in query if name in _ASYNCPG]:
        _ASYNCPG[name](told, name, str(query.pop(name)))
    for name in _ASYNCPG_NUMBERS.keys() & query.keys():
        told.arguments[name] = _ASYNCPG_NUMBERS[name](_number(url, name))
        del query[name]
    known = {*inspect.signature(asyncpg.connect).parameters, "port", "prepared_statement_cache_size"}
    _refuse_unknown(query, known, "asyncpg")
    _settle_tls(told)
    arguments = told.arguments
    if told.dsn:
        arguments["dsn"] = str(URL.create("postgresql", query=told.dsn))
    if told.settings:
        arguments["server_settings"] = told.settings
    if told.socket:
        arguments["connection_class"] = _connection_with(told.socket)
    return url.set(query=query), arguments


def _settle_tls(told: _Told) -> None:
    """Let certificates be checked as libpq would."""
    mode, authorities = told.dsn.get("sslmode"), told.dsn.get("sslrootcert")
    if authorities == "system":
        if mode not in {None, "verify-full"}:
            raise ConfigurationError(f"the URL says sslrootcert=system, which needs sslmode=verify-full, not {mode}")
        told.arguments["ssl"] = _context(told.dsn.get("sslcert"), told.dsn.get("sslkey"))
        told.dsn = {name: value for name, value in told.dsn.items() if not name.startswith("ssl")}
    elif authorities and mode == "require":
        told.dsn["sslmode"] = "verify-ca"


def _for_psycopg(url: URL) -> tuple[URL, dict[str, Any]]:
    import psycopg

    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    _refuse_unknown(url.query, known | {"autocommit", "prepare_threshold"}, "psycopg (libpq)")
    if (threshold := url.query.get("prepare_threshold")) is None:
        return url, {}
    value = None if threshold in {"", "None"} else int(_number(url, "prepare_threshold"))
    return url.difference_update_query(["prepare_threshold"]), {"prepare_threshold": value}


def _setting(told: _Told, name: str, value: str) -> None:
    told.settings[name] = value


def _default_name(told: _Told, _name: str, value: str) -> None:
    told.settings.setdefault("application_name", value)


def _dsn(told: _Told, name: str, value: str) -> None:
    told.dsn[name] = value


def _argument(told: _Told, name: str, value: str) -> None:
    told.arguments["database" if name == "dbname" else name] = value


def _timeout(told: _Told, _name: str, value: str) -> None:
    if float(value) > 0:  # else libpq waits without end, and we do not
        told.arguments["timeout"] = float(value)


def _direct(told: _Told, _name: str, value: str) -> None:
    if value == "direct":
        told.arguments["direct_tls"] = True


def _keepalive(told: _Told, name: str, value: str) -> None:
    try:
        told.socket[name] = int(value)
    except ValueError:
        raise ConfigurationError(f"the URL says {name}={value}, which must be a number") from None


def _not_required(told: _Told, name: str, value: str) -> None:
    if value == "require":
        _cannot(told, name, value)


def _cannot(_told: _Told, name: str, value: str) -> None:
    raise ConfigurationError(f"the URL says {name}={value}, which asyncpg cannot do: use postgresql+psycopg://")


def _ignored(_told: _Told, _name: str, _value: str) -> None:
    """Say nothing: it means nothing any more, or is what the driver does anyway."""


_ASYNCPG: dict[str, Callable[[_Told, str, str], None]] = {
    **dict.fromkeys(("sslmode", *_FILES, "sslpassword", "ssl_min_protocol_version", "ssl_max_protocol_version"), _dsn),
    **dict.fromkeys(("application_name", "options", "client_encoding"), _setting),
    **dict.fromkeys(("user", "password", "dbname", "passfile", "krbsrvname", "target_session_attrs"), _argument),
    **dict.fromkeys(("channel_binding", "gssencmode"), _not_required),
    **dict.fromkeys(
        ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"), _keepalive
    ),
    **dict.fromkeys(("sslcompression", "sslsni", "gssdelegation"), _ignored),
    **dict.fromkeys(
        (
            *("hostaddr", "service", "servicefile", "require_auth", "requirepeer", "sslcrldir", "sslcertmode"),
            *("requiressl", "load_balance_hosts", "replication", "min_protocol_version", "max_protocol_version"),
        ),
        _cannot,
    ),
    "fallback_application_name": _default_name,
    "connect_timeout": _timeout,
    "sslnegotiation": _direct,
}
"""How each of libpq's parameters is told to asyncpg."""
_ASYNCPG_NUMBERS: dict[str, Callable[[float], float]] = {
    "command_timeout": float,
    "timeout": float,
    "statement_cache_size": int,
    "max_cached_statement_lifetime": int,
    "max_cacheable_statement_size": int,
}

_SOCKET_OPTIONS = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}


def _connection_with(options: dict[str, int]) -> Any:
    """Return a class of asyncpg's connections with TCP keepalives as libpq would set them."""
    import asyncpg

    class KeptAlive(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
        __slots__ = ()

        def __init__(self, protocol: Any, transport: Any, *arguments: Any, **more: Any) -> None:
            super().__init__(protocol, transport, *arguments, **more)
            connected = transport.get_extra_info("socket")
            if connected is not None and connected.family != getattr(socket, "AF_UNIX", None):
                _set_socket_options(connected, options)

    return KeptAlive


def _set_socket_options(connected: Any, options: dict[str, int]) -> None:
    is_on = options.get("keepalives", 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(is_on))
    for name, option in _SOCKET_OPTIONS.items():
        if options.get(name, 0) > 0 and hasattr(socket, option) and (is_on or name == "tcp_user_timeout"):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), options[name])


# --- MySQL ------------------------------------------------------------------------------------------------------------


def _for_mysql(url: URL, driver: str) -> tuple[URL, dict[str, Any]]:
    query = {name.replace("-", "_").lower(): value for name, value in url.query.items()}
    files = {name: str(query.pop(f"ssl_{name}", "")) for name in ("ca", "capath", "cert", "key")}
    mode = str(query.pop("ssl_mode", "verify_ca" if files["ca"] or files["capath"] else "")).lower()
    checks_host = str(query.pop("ssl_check_hostname", "")).lower()
    if mode and mode not in _MYSQL_MODES:
        raise ConfigurationError(f"the URL says ssl-mode={mode}, which must be one of {', '.join(_MYSQL_MODES)}")
    for name, path in files.items():
        if path and not os.path.exists(path):
            raise ConfigurationError(f"the URL says ssl-{name}={path}, and there is no such file")
    told: dict[str, Any] = {}
    if mode in {"required", "verify_ca", "verify_identity"} or (not mode and (files["cert"] or files["key"])):
        context = _context(files["cert"], files["key"], files["ca"], files["capath"])
        context.check_hostname = mode == "verify_identity" or checks_host in {"1", "true"}
        if mode not in {"verify_ca", "verify_identity"}:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        told["ssl"] = context
    elif mode == "disabled" and driver == "pymysql":
        told["ssl_disabled"] = True
    _refuse_unknown(query, _mysql_parameters(driver), driver)
    return url.set(query=query), told


def _mysql_parameters(driver: str) -> set[str]:
    if driver == "pymysql":
        import pymysql

        return set(inspect.signature(pymysql.connections.Connection.__init__).parameters)
    import asyncmy

    return set(inspect.signature(asyncmy.connection.connect).parameters) | {"write_timeout"}


# --- shared -----------------------------------------------------------------------------------------------------------


def _context(
    certificate: str | None, key: str | None, authorities: str | None = None, folder: str | None = None
) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=authorities or None, capath=folder or None)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the certificates that the URL names cannot be used: {error}") from None
    return context


def _number(url: URL, name: str) -> float:
    try:
        return float(str(url.query[name]))
    except ValueError:
        raise ConfigurationError(f"the URL says {name}={url.query[name]}, which must be a number") from None


def _refuse_unknown(query: Any, known: set[str], driver: str) -> None:
    for name in query:
        if name not in known:
            raise ConfigurationError(f"the URL has a parameter {name!r}, which {driver} does not know")
