"""Parts of an application whose servers a test must not reach: whatever would, raises."""

from collections.abc import AsyncGenerator
from typing import Any

from taskiq import (
    AsyncBroker,
    AsyncResultBackend,
    BrokerMessage,
    ScheduledTask,
    ScheduleSource,
    TaskiqMessage,
    TaskiqMiddleware,
    TaskiqResult,
)

from taskiq_flow.storage import InMemoryStorageAdapter, StorageEntry


class ReachedError(Exception):
    """A test has reached production."""


class ProductionBroker(AsyncBroker):
    async def startup(self) -> None:
        raise ReachedError("connected")

    async def shutdown(self) -> None:
        raise ReachedError("disconnected")

    async def kick(self, message: BrokerMessage) -> None:
        raise ReachedError("sent to production")

    def listen(self) -> AsyncGenerator[bytes, None]:
        raise ReachedError("listening")


class ProductionStorage(InMemoryStorageAdapter):
    async def set_entry(self, entry: StorageEntry) -> None:
        raise ReachedError(f"stored {entry.key}")


class ProductionSource(ScheduleSource):
    """A source that an application wrote itself."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def startup(self) -> None:
        raise ReachedError("connected")

    async def shutdown(self) -> None:
        raise ReachedError("disconnected")

    async def get_schedules(self) -> list[ScheduledTask]:
        raise ReachedError("read")

    async def add_schedule(self, schedule: ScheduledTask) -> None:
        raise ReachedError("added")

    async def delete_schedule(self, schedule_id: str) -> None:
        raise ReachedError("deleted")

    async def post_send(self, task: ScheduledTask) -> None:
        self.sent.append(task.task_name)
        if task.time is not None:
            await self.delete_schedule(task.schedule_id)


class ProductionResults(AsyncResultBackend[Any]):
    def __init__(self, **settings: Any) -> None:
        vars(self).update(settings)

    async def startup(self) -> None:
        raise ReachedError("connected")

    async def shutdown(self) -> None:
        raise ReachedError("disconnected")

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        raise ReachedError("stored")

    async def is_result_ready(self, task_id: str) -> bool:
        raise ReachedError("asked")

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[Any]:
        raise ReachedError("read")


class Noted(TaskiqMiddleware):
    """Notes what passes through it, in a list that several may share."""

    def __init__(self, name: str = "", seen: list[str] | None = None) -> None:
        super().__init__()
        self.name = name
        self.seen: list[str] = [] if seen is None else seen

    def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        self.seen.append(f"{self.name}sends {message.task_name}")
        return message

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        self.seen.append(f"{self.name}runs {message.task_name}")
        return message
