"""Asking a database server, just as the storage adapter does: by SQLAlchemy, with the URL's own driver."""

__all__ = ["carry_out", "first_value"]


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
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    engine = create_async_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            result = await connection.exec_driver_sql(statement)
            return result.scalar_one() if result.returns_rows else None
    finally:
        await engine.dispose()
