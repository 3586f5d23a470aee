"""How this package's own adapters keep things: for the rules that look, or meddle, behind an adapter's back."""

from typing import TYPE_CHECKING, Any, cast

from taskiq_flow.storage.base import BaseStorageAdapter
from taskiq_flow.storage.memory import InMemoryStorageAdapter

if TYPE_CHECKING:
    from taskiq_flow.storage.sql import SQLAlchemyStorageAdapter

__all__ = ["adapter_at", "has_server", "is_known", "read_raw", "write_raw"]

_TIMEOUT = 0.3


def is_known(adapter: BaseStorageAdapter) -> bool:
    """Return whether ``read_raw`` and ``write_raw`` know this kind of adapter."""
    return isinstance(adapter, InMemoryStorageAdapter) or _kind(adapter) in {"redis", "sql"}


def has_server(adapter: BaseStorageAdapter) -> bool:
    """Return whether ``adapter_at`` can make an adapter of this kind."""
    return _kind(adapter) == "redis" or (_kind(adapter) == "sql" and _sql(adapter)._url.get_backend_name() != "sqlite")


def adapter_at(adapter: BaseStorageAdapter, host: str, port: int, password: str) -> BaseStorageAdapter | None:
    """Return an adapter like this one for a server at that address; None if its kind has no server."""
    if not has_server(adapter):
        return None
    kind: Any = type(adapter)
    settings: dict[str, Any] = {"connect_timeout": _TIMEOUT, "operation_timeout": _TIMEOUT}
    if _kind(adapter) == "redis":
        url: Any = f"redis://somebody:{password}@{host}:{port}/0"
    else:
        url = _sql(adapter)._url.set(username="somebody", password=password, host=host, port=port, query={})
        settings["async_mode"] = url.get_dialect().is_async
    made: BaseStorageAdapter = kind(url, **settings)
    return made


async def read_raw(adapter: BaseStorageAdapter, key: str) -> bytes | None:
    """Return what is stored under ``key``: all of it in Redis, the value alone elsewhere."""
    if isinstance(adapter, InMemoryStorageAdapter):
        return adapter._records[key].value.encode()
    if _kind(adapter) == "redis":
        redis: Any = adapter
        raw: bytes = await (await redis._client()).get(redis._name(key))
        return raw
    from sqlalchemy import select

    sql = _sql(adapter)
    kept = sql._statements.table.c
    statement = select(kept.value).where(kept.namespace == sql.namespace, kept.key == key)
    text: str = await sql._run(lambda connection: connection.execute(statement).scalar_one())
    return text.encode()


async def write_raw(adapter: BaseStorageAdapter, key: str, data: bytes) -> bool:
    """Replace what :func:`read_raw` returns; False if the store itself refuses such data."""
    if _kind(adapter) == "redis":
        redis: Any = adapter
        await (await redis._client()).set(redis._name(key), data)
        return True
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    if isinstance(adapter, InMemoryStorageAdapter):
        adapter._records[key] = adapter._records[key]._replace(value=text)
        return True
    if "\0" in text:
        return False
    from sqlalchemy import update

    sql = _sql(adapter)
    table = sql._statements.table
    kept = table.c
    statement = update(table).where(kept.namespace == sql.namespace, kept.key == key).values(value=text)
    await sql._run(lambda connection: connection.execute(statement))
    return True


def _kind(adapter: BaseStorageAdapter) -> str:
    """Return which of the package's adapters this is, without importing any that is not in use."""
    homes = {"taskiq_flow.storage.redis.adapter": "redis", "taskiq_flow.storage.sql.adapter": "sql"}
    return next((homes[base.__module__] for base in type(adapter).__mro__ if base.__module__ in homes), "")


def _sql(adapter: BaseStorageAdapter) -> "SQLAlchemyStorageAdapter":
    return cast("SQLAlchemyStorageAdapter", adapter)
