"""No part of a password, quoted or not, is in what adapters say: errors and their causes, repr and logs."""

import logging
import re
import socket
import traceback
from collections.abc import Iterator

import pytest

from taskiq_flow.exceptions import ConfigurationError, StorageConnectionError
from taskiq_flow.storage import BaseStorageAdapter, RedisStorageAdapter, SQLAlchemyStorageAdapter

SIGNS = ["@", "/", ":", "%", "#", "?", "&", "%40", " ", "@/:%#?"]
SCHEMES = [
    "postgresql+asyncpg",
    "postgresql+psycopg",
    "mysql+asyncmy",
    "mysql+pymysql",
    "redis",
    "rediss",
    "redis+cluster",
]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody listens, and nobody can begin to."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def adapter_for(url: str) -> BaseStorageAdapter:
    if url.startswith("redis"):
        return RedisStorageAdapter(url, connect_timeout=1, operation_timeout=5)
    return SQLAlchemyStorageAdapter(url, "pymysql" not in url, connect_timeout=1, operation_timeout=5)


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("form", ["app:{password}@127.0.0.1:{port}/0", "app@127.0.0.1:{port}/0?password={password}"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_password_is_in_nothing_that_is_said_of_a_server_that_is_gone(
    scheme: str, form: str, sign: str, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{scheme}://{form.format(password=f'Alpha{sign}Bravo', port=closed_port)}"
    told = []
    with caplog.at_level(logging.DEBUG):
        try:
            storage = adapter_for(url)
        except ConfigurationError as error:
            told += traceback.format_exception(error)
        else:
            told.append(repr(storage))
            with pytest.raises(StorageConnectionError) as raised:
                await storage.get("key")
            told += traceback.format_exception(raised.value)
            await storage.aclose()
    told += [record.getMessage() for record in caplog.records]
    assert not re.search("alpha|bravo", "".join(told), re.IGNORECASE)
