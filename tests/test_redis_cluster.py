"""What only a Redis Cluster does; the contract on one is in ``contract/test_cluster.py``."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeAlias
from uuid import uuid4

import pytest
from redis import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError

from taskiq_flow import clock
from taskiq_flow.exceptions import StorageConnectionError
from taskiq_flow.storage import RedisStorageAdapter
from taskiq_flow.storage.base import ABSENT
from tests.redis_servers import cluster, cluster_info

# redis-py leaves the commands of a cluster's nodes untyped.
Nodes: TypeAlias = list[Any]
MakeAdapter = Callable[..., RedisStorageAdapter]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """The nodes of a cluster, each by a client of its own."""
    with cluster(tmp_path_factory.mktemp("cluster")) as ports, ExitStack() as stack:
        yield [stack.enter_context(Redis(port=port)) for port in ports]


@pytest.fixture
def make_adapter(nodes: Nodes) -> MakeAdapter:
    port = nodes[0].connection_pool.connection_kwargs["port"]
    namespace = uuid4().hex

    def make(**settings: Any) -> RedisStorageAdapter:
        return RedisStorageAdapter(f"redis+cluster://127.0.0.1:{port}", namespace=namespace, **settings)

    return make


async def test_first_calls_at_once_go_to_the_right_nodes(nodes: Nodes, make_adapter: MakeAdapter) -> None:
    for node in nodes:
        node.execute_command("CONFIG RESETSTAT")
    async with make_adapter() as adapter:
        await asyncio.gather(*(adapter.set(f"key {number}", number) for number in range(30)))
    # Had they been sent on, redis-py would have closed the connections of all of them, and sent some a second time.
    assert not any("errorstat_MOVED" in node.info("errorstats") for node in nodes)


async def test_more_calls_than_connections_wait(make_adapter: MakeAdapter) -> None:
    async with make_adapter(max_connections=2) as adapter:
        await asyncio.gather(*(adapter.set(f"key {number}", number) for number in range(30)))
        assert await asyncio.gather(*(adapter.get(f"key {number}") for number in range(30))) == [*range(30)]


async def test_exchange_whose_answer_is_lost_raises(make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    execute: Callable[..., Awaitable[Any]] = ClusterNode.execute_command

    lost = []

    async def lose_the_answer(node: ClusterNode, *command: Any, **options: Any) -> Any:
        answer = await execute(node, *command, **options)
        if command[0] == "EVAL":
            lost.append(answer)
            raise RedisConnectionError("the connection was lost")
        return answer

    async with make_adapter() as adapter:
        with monkeypatch.context() as patch:
            patch.setattr(ClusterNode, "execute_command", lose_the_answer)
            with pytest.raises(StorageConnectionError, match="the connection was lost"):
                await adapter.compare_and_set("key", ABSENT, 1)
        assert lost == [1], "what may have been done already is not tried again"
        assert await adapter.get("key") == 1
        assert await adapter.compare_and_set("key", 1, 2), "the next call works"


async def test_cleanup_leaves_an_entry_that_another_writer_stores_anew(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = RedisCluster.getrange
    async with make_adapter() as adapter, make_adapter() as another:

        async def interfere(cluster: Any, *arguments: Any) -> Any:
            await another.set("key", "new")
            return await look(cluster, *arguments)

        with clock.freeze() as frozen:
            await adapter.set("key", "old", ttl_seconds=1)
            frozen.tick(1)
            monkeypatch.setattr(RedisCluster, "getrange", interfere)
            assert await adapter.cleanup() == 0
            assert await adapter.get("key") == "new"


def test_adapter_interrupted_by_the_end_of_its_loop_leaves_nothing_open(make_adapter: MakeAdapter) -> None:
    async def use_and_drop() -> None:
        adapter = make_adapter()
        await asyncio.gather(*(adapter.set(f"key {number}", number) for number in range(5)))

    for _ in range(5):
        asyncio.run(use_and_drop())
        gc.collect()  # what is left open complains, and that is an error here


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
def test_cancelled_aclose_can_be_repeated(make_adapter: MakeAdapter, steps: int) -> None:
    async def scenario() -> None:
        adapter = make_adapter()
        await adapter.set("key", 1)
        closing = asyncio.ensure_future(adapter.aclose())
        for _ in range(steps):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await adapter.set("key", 2)
        assert await adapter.get("key") == 2
        await adapter.aclose()

    asyncio.run(scenario())
    gc.collect()


async def test_cluster_that_is_down_is_a_storage_connection_error(nodes: Nodes, make_adapter: MakeAdapter) -> None:
    async with make_adapter() as adapter:
        await adapter.set("key", 1)
        for node in nodes:
            node.execute_command("CLUSTER DELSLOTS", 0)
        _until_all_are(nodes, "fail")
        try:
            with pytest.raises(StorageConnectionError, match=r"The cluster is down|slots are not covered"):
                await adapter.set("key", 2)
        finally:
            nodes[0].execute_command("CLUSTER ADDSLOTS", 0)
            _until_all_are(nodes, "ok")
        await adapter.set("key", 3)
        assert await adapter.get("key") == 3


@pytest.mark.parametrize("method", ["get", "keys"])
async def test_lost_transport_is_a_storage_connection_error(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def writelines(_writer: asyncio.StreamWriter, _data: Any) -> None:
        write_ready: Any = None
        write_ready()  # as CPython's own does, in versions as 3.13.0, where the connection was reset

    async with make_adapter() as adapter:
        await adapter.set("key", 1)
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.StreamWriter, "writelines", writelines)
            with pytest.raises(StorageConnectionError):
                await (adapter.get("key") if method == "get" else adapter.keys())
        assert await adapter.get("key") == 1


def _until_all_are(nodes: Nodes, state: str) -> None:
    """Wait for other processes: they have no clock but the real one."""
    while {cluster_info(node)["cluster_state"] for node in nodes} != {state}:
        time.sleep(0.02)
