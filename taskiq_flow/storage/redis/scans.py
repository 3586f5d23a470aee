"""SCAN, a page at a time: on a server, or on each node of a cluster that has entries."""

from typing import Any

from redis.asyncio import RedisCluster
from redis.client import NEVER_DECODE

from taskiq_flow.storage.redis.clients import Client

__all__ = ["nodes_of", "scan"]

_COUNT = 1000


def nodes_of(client: Client) -> list[Any]:
    """Return the nodes that have to be scanned; None stands for the only one."""
    return list(client.get_primaries()) if isinstance(client, RedisCluster) else [None]


async def scan(client: Client, node: Any, cursor: int, pattern: str) -> tuple[int | None, list[bytes]]:
    """Return one page of the names that match ``pattern``, and where the next one begins: None after the last."""
    if node is None:
        # Undecoded even by a client that decodes: a foreign name may be no text at all.
        following, names = await client.execute_command(
            "SCAN", cursor, "MATCH", pattern, "COUNT", _COUNT, **{NEVER_DECODE: True}
        )
    else:
        cursors, names = await client.scan(cursor, match=pattern, count=_COUNT, target_nodes=node)
        following = cursors[node.name]
    return int(following) or None, [name.encode() if isinstance(name, str) else name for name in names]
