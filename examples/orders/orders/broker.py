"""The application's broker, for its workers and clients: `taskiq worker orders.broker:broker orders.tasks`."""

import os

from taskiq import SimpleRetryMiddleware, async_shared_broker
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from taskiq_flow.middlewares import PipelineMiddleware, StorageMiddleware
from taskiq_flow.storage import StorageAdapterFactory

url = os.environ.get("ORDERS_REDIS_URL", "redis://localhost:6379")

# From redis-py 8 on a connection gives up after 5 seconds, and with it a worker that waits for messages.
broker = ListQueueBroker(url, socket_timeout=None).with_result_backend(RedisAsyncResultBackend(url))
broker.add_middlewares(
    SimpleRetryMiddleware(),
    # On the broker's own Redis, unless TASKIQ_FLOW_STORAGE_URL says otherwise.
    StorageMiddleware(storage=StorageAdapterFactory.create_storage_adapter(broker=broker)),
    PipelineMiddleware(),
)
async_shared_broker.default_broker(broker)
