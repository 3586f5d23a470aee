"""URLs of Redis: standalone servers, clusters, and servers behind Sentinel."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

from redis import exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel

from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.storage.redis.clients import Client, client_options, cluster_client_options
from taskiq_flow.storage.urls import masked

__all__ = ["factory_for", "server_of_client", "server_of_url"]

_CLUSTER_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
_SENTINEL_SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
_VALKEY_SCHEMES = {"valkey": "redis", "valkeys": "rediss"}
_PLAIN_SCHEMES = ("redis", "rediss", "unix")
_SCHEMES = {name: name for name in _PLAIN_SCHEMES} | _VALKEY_SCHEMES | _CLUSTER_SCHEMES | _SENTINEL_SCHEMES
_SENTINEL_PORT = 26379
_ADVICE = "a password with any of / ? # @ must be quoted (urllib.parse.quote)"


def factory_for(url: str, connect_timeout: float, max_connections: int) -> Callable[[], Client]:
    """Return what makes clients for a URL; connects to nothing.

    :raises ConfigurationError: if the scheme is not one of Redis, or the rest cannot be meant.
    """
    scheme, plain_url = _plain(url)
    if scheme in _SENTINEL_SCHEMES:
        return _sentinel_factory(url, plain_url, connect_timeout, max_connections)
    _check(url, plain_url)
    options = (cluster_client_options if scheme in _CLUSTER_SCHEMES else client_options)(connect_timeout)
    if "lib_" in plain_url.partition("?")[2]:  # lib_name and lib_version, which redis-py has another parameter for
        options.pop("driver_info", None)
    if scheme in _CLUSTER_SCHEMES:
        return lambda: RedisCluster.from_url(plain_url, max_connections=max_connections, **options)

    def make() -> Client:
        pool = BlockingConnectionPool.from_url(plain_url, max_connections=max_connections, timeout=None, **options)
        return Redis.from_pool(pool)

    return make


def server_of_url(url: str) -> str | None:
    """Return which server a URL leads to: host and port, or the hosts of a cluster or of sentinels; None for no URL."""
    scheme, separator, rest = url.strip().partition("://")
    if not separator:
        return None
    authority = rest if rest.startswith("/") else rest.partition("/")[0]
    hosts = authority.rpartition("@")[2].partition("?")[0] or "localhost"
    return hosts if ":" in hosts or scheme == "unix" else f"{hosts}:6379"


def server_of_client(client: Client | None) -> str | None:
    """Return which server a client leads to: host and port; None where that cannot be told."""
    settings = getattr(getattr(client, "connection_pool", None), "connection_kwargs", {})
    host = settings.get("host") or settings.get("path")
    return None if host is None else f"{host}:{settings.get('port', 6379)}"


def _plain(url: str) -> tuple[str, str]:
    """Return the scheme, and the URL as redis-py knows it."""
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme not in _SCHEMES:
        known = ", ".join(f"{known}://" for known in _SCHEMES)
        raise ConfigurationError(f"{masked(url)!r} is not a Redis URL; known schemes: {known}")
    return scheme, f"{_SCHEMES[scheme]}://{_with_known_words(rest)}"


def _with_known_words(rest: str) -> str:
    """Return the URL with ``ssl_cert_reqs`` in redis-py's words: managed services write it in those of Python."""
    address, question, query = rest.partition("?")
    if "ssl_cert_reqs=" not in query:
        return rest
    said = [
        (name, value.lower().removeprefix("cert_") if name == "ssl_cert_reqs" else value)
        for name, value in parse_qsl(query, keep_blank_values=True)
    ]
    return f"{address}{question}{urlencode(said)}"


@lru_cache
def _check(url: str, plain_url: str) -> None:
    """Refuse a URL of which redis-py would say only at the first call that it cannot use it; connects to nothing."""
    # Without redis-py's message, which may repeat a part of the password.
    problem = "a port or query value"
    try:
        pool: Any = BlockingConnectionPool.from_url(plain_url)
        pool.connection_class(**pool.connection_kwargs)
        if 0 <= int(pool.connection_kwargs.get("port", 0)) < 65536:  # a text where it is in the query
            _check_database(url, plain_url)
            return
    except TypeError:
        problem = "an unknown query parameter"
    except (ValueError, redis_errors.RedisError) as error:
        if isinstance(error, ConfigurationError):
            raise
        if "ertificate" in str(error):
            problem = "an ssl_cert_reqs that is none of none, optional, required"
    raise ConfigurationError(f"the Redis URL {masked(url)!r} has {problem} that cannot be used; {_ADVICE}")


def _check_database(url: str, plain_url: str) -> None:
    """Refuse a path that is not a number: redis-py takes it for database 0."""
    scheme, _, rest = plain_url.partition("://")
    path = rest.partition("?")[0].partition("/")[2]
    if scheme != "unix" and path and not path.isdecimal():
        raise ConfigurationError(f"the Redis URL {masked(url)!r} has a database that is not a number; {_ADVICE}")


# --- Sentinel ---------------------------------------------------------------------------------------------------------


def _sentinel_factory(url: str, plain_url: str, connect_timeout: float, max_connections: int) -> Callable[[], Client]:
    """Return what makes clients of the server that sentinels say is the primary of a service.

    ``redis+sentinel://user:password@host:port,host:port/service/database``: user and password are the servers';
    ``sentinel_username`` and ``sentinel_password`` in the query those of the sentinels. ``rediss+sentinel://`` speaks
    TLS with both.
    """
    scheme, _, rest = plain_url.partition("://")
    address, _, query = rest.partition("?")
    credentials, at, where = address.rpartition("@")
    hosts, _, path = where.partition("/")
    service, _, database = path.partition("/")
    said = dict(parse_qsl(query, keep_blank_values=True))
    of_sentinels = {
        name: said.pop(f"sentinel_{name}") for name in ("username", "password") if f"sentinel_{name}" in said
    }
    if not service:
        raise ConfigurationError(
            f"the Redis URL {masked(url)!r} names no service: write it like redis+sentinel://host:26379/service/0"
        )
    if database and not database.isdecimal():
        raise ConfigurationError(f"the Redis URL {masked(url)!r} has a database that is not a number; {_ADVICE}")
    # What is common to all is read by redis-py, as from the URL of one server.
    one = f"{scheme}://{credentials}{at}host:1/{database}{'?' + urlencode(said) if said else ''}"
    _check(url, one)
    settings = BlockingConnectionPool.from_url(one).connection_kwargs
    for name in ("host", "port"):
        settings.pop(name)
    addresses = [_address(url, host) for host in hosts.split(",")]
    tls = {"ssl": True, **{name: value for name, value in settings.items() if name.startswith("ssl_")}}
    secured = tls if scheme == "rediss" else {}
    options = client_options(connect_timeout)

    def make() -> Client:
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call] # redis-py leaves this constructor untyped
            addresses, sentinel_kwargs=options | secured | of_sentinels, **options | settings | secured
        )
        return sentinel.master_for(unquote(service), max_connections=max_connections)

    return make


def _address(url: str, host: str) -> tuple[str, int]:
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        name, port = host, str(_SENTINEL_PORT)
    if not name or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigurationError(f"the Redis URL {masked(url)!r} has a sentinel without host or port; {_ADVICE}")
    return name.strip("[]"), int(port)
