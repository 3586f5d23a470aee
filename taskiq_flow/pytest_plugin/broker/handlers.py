"""``MessageHandler``: handles the messages that were sent to one broker, as a worker of that broker would."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from taskiq import AsyncBroker, BrokerMessage, InMemoryBroker
from taskiq.receiver import Receiver

__all__ = ["SYNC_TASK_THREADS", "MessageHandler", "receiver_of"]

SYNC_TASK_THREADS = 4
_MAX_ASYNC_TASKS = 100  # as many as `taskiq worker` runs at once
_NO_TASKS: Any = SimpleNamespace(get_all_tasks=dict)


class MessageHandler:
    """A broker's receiver, made when the first message comes."""

    def __init__(self, broker: AsyncBroker) -> None:
        self.broker = broker
        self._receiver: Receiver | None = None

    @property
    def awaits_in_place(self) -> bool:
        """Whether a message is handled before ``kick`` returns."""
        return isinstance(self.broker, InMemoryBroker) and self.broker.await_inplace

    async def handle(self, message: BrokerMessage, executor: ThreadPoolExecutor) -> None:
        """Handle a message; synchronous tasks run in the ``executor``.

        :raises Exception: what went wrong while its result was saved.
        """
        if self._receiver is None:
            self._receiver = receiver_of(self.broker, executor)
        self._receiver.executor = executor
        await self._receiver.callback(message.message, raise_err=True)


def receiver_of(broker: AsyncBroker, executor: ThreadPoolExecutor) -> Receiver:
    """Return a receiver for a broker, with what is set on the broker's own, if it has one."""
    own = getattr(broker, "receiver", None)
    settings: dict[str, Any] = {}
    if isinstance(own, Receiver):
        settings = {"validate_params": own.validate_params, "propagate_exceptions": own.propagate_exceptions}
    # It would look at every task that the broker knows; what it is to run, it looks at when it runs it.
    receiver = Receiver(_NO_TASKS, executor, max_async_tasks=_MAX_ASYNC_TASKS, **settings)
    receiver.broker = broker
    return receiver
