"""The contract suite on a Redis Cluster: three nodes of a real server program, started here."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from taskiq_flow.pytest_plugin import StorageAdapterContract
from taskiq_flow.pytest_plugin.stores import server_kind
from taskiq_flow.storage import RedisStorageAdapter
from taskiq_flow.storage.base import BaseStorageAdapter
from tests.redis_servers import cluster

MakeAdapter = Callable[..., RedisStorageAdapter]


@pytest.fixture(scope="module")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with cluster(tmp_path_factory.mktemp("cluster")) as ports:
        yield f"redis+cluster://127.0.0.1:{ports[0]}"


@pytest.fixture(scope="module")
def cluster_version(cluster_url: str) -> str:
    return server_kind("redis").probe(cluster_url.replace("redis+cluster", "redis"), timeout=10)


@pytest.mark.long
class TestRedisCluster(StorageAdapterContract):
    @pytest.fixture
    def make_storage_adapter(
        self, cluster_url: str, cluster_version: str, record_property: Callable[[str, object], None]
    ) -> Iterator[MakeAdapter]:
        record_property("storage_server", f"{cluster_version}, three nodes")  # for the table: see storages.py
        made = []
        own = uuid4().hex

        def make(namespace: str = "", **settings: Any) -> RedisStorageAdapter:
            made.append(RedisStorageAdapter(cluster_url, namespace=own + namespace, **settings))
            return made[-1]

        yield make
        for adapter in made:
            adapter.close_from_outside()

    @pytest.fixture
    def storage_adapter(self, make_storage_adapter: MakeAdapter) -> RedisStorageAdapter:
        return make_storage_adapter()

    def make_adapter_at(self, adapter: BaseStorageAdapter, host: str, port: int, password: str) -> BaseStorageAdapter:
        url = f"redis+cluster://somebody:{password}@{host}:{port}"
        return RedisStorageAdapter(url, connect_timeout=0.3, operation_timeout=0.3)
