"""Asking a database server, just as the storage adapter does: by SQLAlchemy, with the URL's own driver."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["carry_out", "first_value", "own_engine"]


def own_engine(url: str, **options: Any) -> "AsyncEngine":
    """Return an engine of the kit's own, in autocommit, for whatever URL the adapters take.

    :param options: further ones of ``create_async_engine``.
    """
    from sqlalchemy import make_url
    from sqlalchemy.ext.asyncio import create_async_engine

    from taskiq_flow.storage.urls import for_driver

    address, told = for_driver(make_url(url))
    return create_async_engine(address, isolation_level="AUTOCOMMIT", connect_args=told, **options)


def first_value(url: str, question: str, timeout: float) -> str:
    """Return the first value of what a new connection answers, within ``timeout`` seconds.

    :raises Exception: the driver's own; its words are clearer than SQLAlchemy's.
    """
    return str(_answer(url, question, timeout))


def carry_out(url: str, statement: str, timeout: float) -> None:
    """Run a statement that gives nothing back, on a new connection, within ``timeout`` seconds.

    :raises Exception: as above.
    """
    _answer(url, statement, timeout)


def _answer(url: str, statement: str, timeout: float) -> object:
    import asyncio  # here, since reading what a run may use loads this module

    from sqlalchemy.exc import DBAPIError

    try:
        return asyncio.run(asyncio.wait_for(_executed(url, statement), timeout))
    except DBAPIError as error:
        raise (error.orig and error.orig.__cause__) or error.orig or error from None


async def _executed(url: str, statement: str) -> object:
    from sqlalchemy.pool import NullPool

    engine = own_engine(url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            result = await connection.exec_driver_sql(statement)
            return result.scalar_one() if result.returns_rows else None
    finally:
        await engine.dispose()
