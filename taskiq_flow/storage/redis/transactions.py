"""Steps that look at an entry and change it, and change nothing if somebody else has changed it in between.

Clients WATCH the entry; redis-py's asynchronous clusters cannot, and run a script on the node that has it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from redis import exceptions as redis_errors
from redis.asyncio import RedisCluster

from taskiq_flow.storage.backend import Record
from taskiq_flow.storage.redis.clients import Client
from taskiq_flow.storage.redis.codec import HEADER_BYTES, is_live_header, is_unchanged

__all__ = ["exchange", "pipeline", "remove_expired"]

_REMOVE_IF_UNCHANGED = (
    "if redis.call('GETRANGE', KEYS[1], 0, ARGV[2]) == ARGV[1] then return redis.call('UNLINK', KEYS[1]) end return 0"
)

_EXCHANGE_IF_UNCHANGED = (
    "if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end "
    "if ARGV[2] == '' then return redis.call('UNLINK', KEYS[1]) end "
    "if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2]) "
    "else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end return 1"
)


async def exchange(
    client: Client, name: str, seen: Record | None, packed: str | None, *, ttl_ms: int | None, now: int | None
) -> bool:
    """Replace an entry that still is as it was ``seen``, or remove it (``packed`` is None); return whether it was.

    :param ttl_ms: milliseconds after which the server removes what is stored; None for never.
    :param now: milliseconds, by which an entry that was not ``seen`` may have expired; None where the server decides.
    """
    if isinstance(client, RedisCluster):
        text = await client.get(name)
        if not is_unchanged(text, seen, now):
            return False
        return bool(await _run(client, _EXCHANGE_IF_UNCHANGED, name, text or b"", packed or b"", ttl_ms or b""))
    async with pipeline(client, transaction=True) as pipe:
        try:
            await pipe.watch(name)
            if not is_unchanged(await pipe.get(name), seen, now):
                return False
            pipe.multi()
            if packed is None:
                pipe.unlink(name)
            else:
                pipe.set(name, packed, px=ttl_ms)
            await pipe.execute()
        except redis_errors.WatchError as error:
            if error.__context__ is not None:
                raise  # redis-py's word for a connection that was lost, too; the exchange may have taken place
            return False
    return True


async def remove_expired(client: Client, name: bytes, now: int) -> int:
    """Remove an expired entry unless somebody stores a new one in the meantime; return how many were removed."""
    if isinstance(client, RedisCluster):
        header = await client.getrange(name, 0, HEADER_BYTES)
        if is_live_header(header, now) is not False:
            return 0
        return int(await _run(client, _REMOVE_IF_UNCHANGED, name, header, HEADER_BYTES))
    async with pipeline(client, transaction=True) as pipe:
        try:
            await pipe.watch(name)
            if is_live_header(await pipe.getrange(name, 0, HEADER_BYTES), now) is not False:
                return 0
            pipe.multi()
            pipe.unlink(name)
            (removed,) = await pipe.execute()
        except redis_errors.WatchError as error:
            if error.__context__ is not None:
                raise
            return 0
    return int(removed)


@asynccontextmanager
async def pipeline(client: Client, *, transaction: bool) -> AsyncIterator[Any]:
    """A pipeline of redis-py's, whose connection goes back to the pool however it ends: before 8.1, one that is
    cancelled between WATCH and EXEC keeps it.
    """
    pipe = client.pipeline(transaction=transaction)
    try:
        async with pipe:
            yield pipe
    finally:
        connection = getattr(pipe, "connection", None)  # those of clusters have several, and give them back
        if connection is not None:
            pipe.connection = None
            with anyio.CancelScope(shield=True):  # neither waits for the server
                await connection.disconnect(nowait=True)
                await client.connection_pool.release(connection)


async def _run(client: Client, script: str, name: str | bytes, *arguments: Any) -> Any:
    """Run a script on the node that has ``name``, once: what may have been done already must not be tried again."""
    node = client.get_node_from_key(name)
    return await client.execute_command("EVAL", script, 1, name, *arguments, target_nodes=node)
