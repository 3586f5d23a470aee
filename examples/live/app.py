"""A live application, wholly on one storage: results, cache, schedules and history; only messages are in Redis."""

import asyncio
import os

from taskiq import TaskiqScheduler
from taskiq_redis import ListQueueBroker

from taskiq_flow.cache import StorageCacheAdapter
from taskiq_flow.middlewares import CacheMiddleware, PipelineMiddleware, StorageMiddleware
from taskiq_flow.result_backend import StorageResultBackend
from taskiq_flow.schedule_source import StorageScheduleSource
from taskiq_flow.storage.factory import StorageAdapterFactory

storage = StorageAdapterFactory.create_storage_adapter()  # TASKIQ_FLOW_STORAGE_URL says where

url = os.environ.get("LIVE_REDIS_URL", "redis://localhost:6379")
# From redis-py 8 on a connection gives up after 5 seconds, and with it a worker that waits for messages.
broker = ListQueueBroker(url, socket_timeout=None).with_result_backend(StorageResultBackend(storage))
broker.add_middlewares(
    CacheMiddleware(StorageCacheAdapter(storage)),
    StorageMiddleware(storage),
    PipelineMiddleware(),
)
source = StorageScheduleSource(storage)
scheduler = TaskiqScheduler(broker, [source])


@broker.task(task_name="cities")
async def cities(country: str) -> list[str]:
    return {"fr": ["Paris", "Lyon"], "it": ["Roma", "Milano", "Torino"]}[country]


@broker.task(task_name="temperature", cache_ttl=3600)
async def temperature(city: str) -> dict[str, float | str]:
    await asyncio.sleep(0.2)  # a slow service: asked once for each city
    return {"city": city, "celsius": 10.0 + len(city)}


@broker.task(task_name="warmest")
async def warmest(measured: list[dict[str, float | str]]) -> str:
    best = max(measured, key=lambda each: each["celsius"])
    return f"{best['city']}: {best['celsius']} °C"


@broker.task(task_name="heartbeat")
async def heartbeat(text: str) -> str:
    return text
