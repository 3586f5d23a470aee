"""The contract suite with ``async_mode=False`` on the real databases: synchronous drivers, in threads."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import make_url

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.pytest_plugin import StorageAdapterContract
from taskiq_flow.storage import SQLAlchemyStorageAdapter

DRIVERS = {"postgresql+asyncpg": "postgresql+psycopg", "mysql+asyncmy": "mysql+pymysql"}


@pytest.mark.storage_backends("postgres", "mysql")
class TestDatabaseInThreads(StorageAdapterContract):
    many_keys = 100  # with asynchronous drivers, there is more than a page

    @pytest.fixture
    def make_storage_adapter(self, storage_config: TaskiqFlowConfig) -> Iterator[Any]:
        made = []
        url = make_url(storage_config.storage_url or "")
        url = url.set(drivername=DRIVERS[url.drivername])

        def make(namespace: str = "", **settings: Any) -> SQLAlchemyStorageAdapter:
            place: dict[str, Any] = {
                "table": storage_config.storage_table,
                "namespace": storage_config.storage_namespace + namespace,
            }
            made.append(SQLAlchemyStorageAdapter(url, async_mode=False, **place, **settings))
            return made[-1]

        yield make
        for adapter in made:
            adapter.close_from_outside()

    @pytest.fixture
    def storage_adapter(self, make_storage_adapter: Any) -> SQLAlchemyStorageAdapter:
        adapter: SQLAlchemyStorageAdapter = make_storage_adapter()
        return adapter
