"""The stored form of a ``TaskiqResult``: plain data, readable by a person, and back.

What a task raised is kept as :class:`taskiq_flow.records.errors.StoredError`.
"""

import dataclasses
import functools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic
from taskiq import TaskiqMessage, TaskiqResult

from taskiq_flow import clock
from taskiq_flow._text import shortened
from taskiq_flow.exceptions import SerializationError, StorageError, UnstorableResultError
from taskiq_flow.records.conversion import data_or_repr, to_data
from taskiq_flow.records.errors import StoredError
from taskiq_flow.storage.failures import Failure

__all__ = [
    "PIPELINE_ID",
    "StoredOutcome",
    "StoredResult",
    "UnstorableResultError",
    "not_a_record",
    "result_key",
    "store",
]

PIPELINE_ID = "pipeline_id"
"""The label that every task of a pipeline's run carries."""

Status = Literal["completed", "failed", "unstorable"]
Outcome = TypeVar("Outcome", bound="StoredOutcome")

_MAX_SUMMARY = 300
"""How much of an error a note repeats, in characters."""


def result_key(task_id: str, pipeline_id: str | None = None) -> str:
    """Return the key under which a task's result is stored.

    :param pipeline_id: the run that the task is a part of; None where it is part of none.
    """
    return f"pipeline:{pipeline_id}:task:{task_id}" if pipeline_id else f"task:{task_id}"


def _in_utc(moment: datetime) -> datetime:
    """Return what a foreign record may have in another zone, or in none, or out of all bounds."""
    try:
        return clock.from_ms(clock.to_ms(moment))
    except OverflowError as error:
        raise ValueError(str(error)) from None


_Moment = Annotated[datetime, pydantic.AfterValidator(_in_utc)]


@dataclass(frozen=True)
class StoredOutcome:
    """How a task ended, as data: the record that ``StorageResultBackend`` keeps."""

    task_id: str
    status: Status
    """``completed``; ``failed``: the task raised; ``unstorable``: it succeeded, but its return value is lost."""
    result: Any
    """The return value, as data."""
    error: StoredError | None
    execution_time: float
    """Seconds, as taskiq measured them."""
    labels: dict[str, Any]
    log: str | None
    created_at: _Moment
    """When the result was stored: aware, in UTC, to the millisecond."""

    @classmethod
    def of_result(cls, task_id: str, result: TaskiqResult[Any], **more: Any) -> Self:
        """Return what is to be stored of a task's result, its return value as it is.

        :param more: the fields that a subclass adds.
        """
        return cls(
            task_id=task_id,
            status="failed" if result.is_err else "completed",
            result=result.return_value,
            error=None if result.error is None else StoredError.of(result.error),
            execution_time=result.execution_time,
            labels={name: data_or_repr(value) for name, value in result.labels.items()},
            log=result.log,
            created_at=clock.now(),
            **more,
        )

    @classmethod
    def from_data(cls, key: str, data: Any) -> Self:
        """Return the record that `to_data` wrote.

        :param key: where it was found, for the message.
        :raises SerializationError: if it is no such record.
        """
        try:
            # mypy takes the class for as little hashable as it takes its instances.
            record: Self = _validator(cls).validate_python(data)  # type: ignore[arg-type]
        except pydantic.ValidationError as error:
            raise not_a_record(key, "task result", error) from None
        return record

    def to_data(self) -> dict[str, Any]:
        """Return the record as a dict: JSON, but for what the task itself put into result, error and labels."""
        return {
            **{each.name: getattr(self, each.name) for each in dataclasses.fields(self)},
            "error": None if self.error is None else self.error.to_data(),
            "created_at": self.created_at.isoformat(),
        }

    def with_result_as_data(self) -> Self:
        """Return this record with its return value converted to data.

        :raises SerializationError: if it cannot be converted.
        """
        return dataclasses.replace(self, result=to_data(self.result))

    def without_result(self, reason: str) -> Self:
        """Return this record with a note in place of its return value.

        :param reason: why the value cannot be stored.
        """
        return self._noted(self.error or _note(f"the return value of task {self._named} could not be stored: {reason}"))

    def as_note(self, reason: str) -> Self:
        """Return the least that can be kept: that there was a result, what the task raised, and why all else is gone.

        :param reason: why the record cannot be stored.
        """
        text = f"the result of task {self._named} could not be stored: {reason}"
        if self.error is not None:
            text += f"; the task had raised {shortened(self.error.summary, _MAX_SUMMARY)}"
        return dataclasses.replace(self._noted(_note(text)), labels={}, log=None)

    def to_taskiq(self) -> TaskiqResult[Any]:
        """Return taskiq's form of the result; an unstorable one is an error result that says what happened."""
        return TaskiqResult(
            is_err=self.status != "completed",
            log=self.log,
            return_value=self.result,
            execution_time=self.execution_time,
            labels=self.labels,
            error=None if self.error is None else self.error.to_exception(),
        )

    @property
    def _named(self) -> str:
        return self.task_id

    def _noted(self, error: StoredError) -> Self:
        status: Status = "unstorable" if self.status == "completed" else self.status
        return dataclasses.replace(self, result=None, status=status, error=error)


@dataclass(frozen=True)
class StoredResult(StoredOutcome):
    """A task's result with what it takes to know whose it is: the record that ``StorageMiddleware`` keeps."""

    task_name: str
    pipeline_id: str | None

    @classmethod
    def of(cls, message: TaskiqMessage, result: TaskiqResult[Any]) -> Self:
        """Return what is to be stored of a task's result, its return value as it is."""
        pipeline_id = message.labels.get(PIPELINE_ID)
        return cls.of_result(
            message.task_id,
            result,
            task_name=message.task_name,
            pipeline_id=None if pipeline_id in (None, "") else str(pipeline_id),
        )

    @property
    def key(self) -> str:
        """The key under which this record is stored."""
        return result_key(self.task_id, self.pipeline_id)

    @property
    def metadata(self) -> dict[str, Any]:
        """The tags of the storage entry."""
        return {"pipeline_id": self.pipeline_id, "task_name": self.task_name, "status": self.status}

    @property
    def _named(self) -> str:
        return f"{self.task_name} ({self.task_id})"


async def store(record: Outcome, write: Callable[[Outcome], Awaitable[None]]) -> str | None:
    """Store a record as whole as the storage takes it; return None, or why it had to go without its return value.

    The codec refuses what it would not give back the same, before any I/O; custom adapters, on ``json``, say that with
    a ``TypeError`` too. A server may refuse what is too large. A storage that fails for another reason than the value
    gets no note in its place.

    :param write: stores a record.
    :raises Exception: what ``write`` raised first, where that is not about the value, or not even a note was stored.
    """
    try:
        try:
            await write(record)
        except TypeError:
            await write(record.with_result_as_data())
    except Exception as error:
        if not _is_about_the_value(error):
            raise
        reason = str(error) or repr(error)
        for smaller in (record.without_result(reason), record.as_note(reason)):
            with suppress(Exception):
                await write(smaller)
                return reason
        raise
    return None


def _is_about_the_value(error: Exception) -> bool:
    """Return whether another value might be stored; a custom adapter may say so with any error."""
    if isinstance(error, StorageError):
        return error.failure is Failure.UNSTORABLE
    return not isinstance(error, OSError)  # among them ConnectionError and TimeoutError


def not_a_record(key: str, what: str, error: pydantic.ValidationError) -> SerializationError:
    """Return the error for an entry that was to be something else.

    :param what: what it was to be.
    """
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "the value"
    return SerializationError(f"the entry under key {key!r} is no stored {what}: {where}: {first['msg']}")


@functools.cache
def _validator(record: type[StoredOutcome]) -> "pydantic.TypeAdapter[Any]":
    return pydantic.TypeAdapter(record)


def _note(text: str) -> StoredError:
    return StoredError.of(UnstorableResultError(text))
