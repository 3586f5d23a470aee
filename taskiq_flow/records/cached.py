"""The stored form of how a run of a task ended, for other runs of it: what ``CacheMiddleware`` keeps."""

from dataclasses import dataclass
from typing import Any

from taskiq_flow.exceptions import SerializationError
from taskiq_flow.records.conversion import storable
from taskiq_flow.records.errors import decode_error, encode_error

__all__ = ["CachedOutcome"]


@dataclass(frozen=True)
class CachedOutcome:
    """What a run of a task returned, or raised."""

    task_name: str
    value: Any = None
    error: BaseException | None = None
    """What it raised; None where it returned."""

    def to_data(self) -> dict[str, Any]:
        """Return it as data; a value that is none is converted, as a result backend does it.

        :raises SerializationError: if the value cannot be stored.
        """
        if self.error is not None:
            return {"task": self.task_name, "error": encode_error(self.error)}
        return {"task": self.task_name, "value": storable(self.value)}

    @classmethod
    def from_data(cls, task_name: str, key: str, data: Any) -> "CachedOutcome":
        """Return what `to_data` wrote.

        :param task_name: the task whose outcome it must be.
        :param key: where it was found, for the message.
        :raises SerializationError: if it is something else, or another task's.
        """
        try:
            match data:
                case {"task": found, "value": value} if found == task_name:
                    return cls(task_name, value)
                case {"task": found, "error": dict(error)} if found == task_name:
                    return cls(task_name, error=decode_error(error))
        except ValueError:
            pass
        raise SerializationError(f"cache key {key!r} holds no result of task {task_name}")
