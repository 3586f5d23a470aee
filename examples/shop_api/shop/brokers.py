"""Where tasks go: `taskiq worker shop.brokers:orders shop.tasks`, and the same for `mails`."""

import os

import taskiq_fastapi
from taskiq import SimpleRetryMiddleware, SmartRetryMiddleware, TaskiqMessage, TaskiqMiddleware
from taskiq_redis import ListQueueBroker, ListRedisScheduleSource, RedisAsyncResultBackend

url = os.environ.get("SHOP_REDIS_URL", "redis://localhost:6379")


class Outbox(TaskiqMiddleware):
    """Remembers what was mailed, and to whom."""

    def __init__(self) -> None:
        super().__init__()
        self.mailed: list[tuple[str, str]] = []

    def post_save(self, message: TaskiqMessage, result: object) -> None:
        self.mailed.append((message.task_name, message.args[0]))


results = RedisAsyncResultBackend[dict[str, object]](url, result_ex_time=3600)
"""What became of an order can be asked for an hour."""
orders = ListQueueBroker(url, queue_name="orders", socket_timeout=None).with_result_backend(results)
orders.add_middlewares(SmartRetryMiddleware(default_retry_count=4, default_delay=10, use_delay_exponent=True))
taskiq_fastapi.init(orders, "shop.app:app")

outbox = Outbox()
mails = ListQueueBroker(url, queue_name="mails", socket_timeout=None)
mails.add_middlewares(SimpleRetryMiddleware(default_retry_count=2), outbox)

reminders = ListRedisScheduleSource(url, prefix="shop")
"""What is to be sent later."""
