"""The storages that fault tests run on, by the schemes of their URLs."""

import pytest

from taskiq_flow.config import TaskiqFlowConfig

__all__ = ["IN_THREADS", "SERVERS", "on", "server_of", "settings"]

SERVERS = ("redis", "postgresql+asyncpg", "mysql+asyncmy")
IN_THREADS = ("postgresql+psycopg", "mysql+pymysql")
"""The same servers by drivers that are not asynchronous."""
_KINDS = {"redis": "redis", "postgresql": "postgres", "mysql": "mysql"}


def on(*schemes: str) -> pytest.MarkDecorator:
    """Run a test on each of these storages; on MySQL, and in threads on a server, only with ``-m long``."""
    long = {"mysql+asyncmy", *IN_THREADS}
    marked = [pytest.param(scheme, marks=pytest.mark.long if scheme in long else ()) for scheme in schemes]
    return pytest.mark.parametrize("scheme", marked)


def server_of(scheme: str) -> str:
    """Return the kind of server that such a URL leads to; nothing where it leads to none."""
    return _KINDS.get(scheme.partition("+")[0], "")


def settings(url: str, namespace: str) -> TaskiqFlowConfig:
    """Return settings for a storage, in the mode that the URL's driver has."""
    driver = url.partition("://")[0].partition("+")[2]
    return TaskiqFlowConfig(
        storage_url=url,
        storage_namespace=namespace,
        storage_async_mode=driver not in {"pysqlite", "psycopg", "pymysql"},
    )
