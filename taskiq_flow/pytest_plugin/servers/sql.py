"""Asking a database server, just as the storage adapter does: by SQLAlchemy, with the URL's own driver."""

__all__ = ["first_value"]


def first_value(url: str, question: str, timeout: float) -> str:
    """Return the first value of what a new connection answers, within ``timeout`` seconds.

    :raises Exception: the driver's own; its words are clearer than SQLAlchemy's.
    """
    import asyncio  # here, since reading what a run may use loads this module

    from sqlalchemy.exc import DBAPIError

    try:
        return asyncio.run(asyncio.wait_for(_first_value(url, question), timeout))
    except DBAPIError as error:
        raise (error.orig and error.orig.__cause__) or error.orig or error from None


async def _first_value(url: str, question: str) -> str:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            return str((await connection.execute(text(question))).scalar_one())
    finally:
        await engine.dispose()
