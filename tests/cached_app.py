"""An application for worker processes: ``taskiq worker tests.cached_app:broker``.

Its Redis server is named by ``CACHED_APP_URL``. What happens it notes in the file ``CACHED_APP_LOG``: a line for each
event, with the process.
"""

import os
import time
from pathlib import Path
from typing import Any

from taskiq import TaskiqEvents, TaskiqMessage, TaskiqMiddleware, TaskiqResult, TaskiqState
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.storage.factory import StorageAdapterFactory

url = os.environ["CACHED_APP_URL"]
# From redis-py 8 on a connection gives up after 5 seconds, and with it a worker that waits for messages.
broker = ListQueueBroker(url, socket_timeout=None).with_result_backend(RedisAsyncResultBackend(url))


def note(event: str) -> None:
    with Path(os.environ["CACHED_APP_LOG"]).open("a") as log:
        log.write(f"{event} {os.getpid()}\n")


class Noted(TaskiqMiddleware):
    """Notes each message that a worker is done with."""

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        note("handled")


middlewares = StorageAdapterFactory.create_default_middlewares(TaskiqFlowConfig(), broker=broker)
broker.add_middlewares(Noted(), middlewares["storage"], middlewares["cache"])


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def starting(_state: TaskiqState) -> None:
    note("started")


@broker.task(task_name="square", cache_ttl=60)
def square(number: int) -> int:
    note("ran")
    time.sleep(0.2)  # the other process is to find it begun
    return number**2
