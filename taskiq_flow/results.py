"""The stored form of a ``TaskiqResult``: plain data, readable by a person, and back.

Decoding runs nothing but the constructors of exception classes that this process has loaded already, as taskiq's own
result backends do; it never imports, and there is no pickle.
"""

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import pydantic
import pydantic_core
from taskiq import TaskiqMessage, TaskiqResult
from taskiq.serialization import safe_repr
from typing_extensions import Self

from taskiq_flow import clock, serialization
from taskiq_flow.exceptions import SerializationError, TaskiqFlowError

__all__ = [
    "PIPELINE_ID",
    "StandInError",
    "StoredError",
    "StoredResult",
    "UnstorableResultError",
    "result_key",
    "to_data",
]

PIPELINE_ID = "pipeline_id"
"""The label that every task of a pipeline's run carries."""

Status = Literal["completed", "failed", "unstorable"]

# How many links of an exception's causes are kept. The limit ends cycles too.
_MAX_CHAIN = 10


class StandInError(TaskiqFlowError):
    """Stands for an exception of a task that cannot be rebuilt here; the message names its class and what it said."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class UnstorableResultError(TaskiqFlowError):
    """A task succeeded, but what it returned cannot be stored; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


def result_key(task_id: str, pipeline_id: str | None = None) -> str:
    """Return the key under which a task's result is stored.

    :param pipeline_id: the run that the task is a part of; None where it is part of none.
    """
    return f"pipeline:{pipeline_id}:task:{task_id}" if pipeline_id else f"task:{task_id}"


@dataclass(frozen=True)
class StoredError:
    """An exception as data.

    What the codec refuses in arguments and attributes is kept as its ``repr``.
    """

    module: str
    name: str
    """The class's qualified name, without its module."""
    message: str
    args: list[Any] = field(default_factory=list)
    """What the class is called with."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """The instance's ``__dict__``; from Python 3.11 on, notes are in there."""
    cause: "StoredError | None" = None
    """What it was raised from, up to ten links."""
    context: "StoredError | None" = None
    """What was being handled when it was raised, where there is no cause."""

    @classmethod
    def of(cls, error: BaseException, links: int = _MAX_CHAIN) -> Self:
        """Return ``error`` as data.

        :param links: how many links of its chain of causes are kept.
        """
        # taskiq's prepare_exception does this too, but visits every cause twice, and so a chain of n causes 2**n
        # times: a task that fails after 16 attempts, each raised from the one before, would block the loop for seconds.
        cause, context = error.__cause__, None if error.__suppress_context__ else error.__context__
        return cls(
            module=type(error).__module__,
            name=type(error).__qualname__,
            message=_text(error),
            args=[_or_repr(arg) for arg in _arguments(error)],
            attributes={name: _or_repr(value) for name, value in vars(error).items()},
            cause=cls.of(cause, links - 1) if cause is not None and links else None,
            context=cls.of(context, links - 1) if cause is None and context is not None and links else None,
        )

    def to_exception(self) -> BaseException:
        """Return the exception: of its own class and saying the same where that can be had, else a `StandInError`."""
        error = self._rebuilt()
        if error is None:  # asked exactly: an exception may be false
            error = StandInError(f"{self.module}.{self.name}: {self.message}")
        if self.cause is not None:
            error.__cause__ = self.cause.to_exception()
        if self.context is not None:
            error.__context__ = self.context.to_exception()
        return error

    def _rebuilt(self) -> BaseException | None:
        cls = self._class()
        if cls is None:
            return None
        # Many classes take other arguments than they pass on to Exception: some cannot be called with `args`, others
        # then say something else. So attributes and arguments are put back afterwards, and a class that refuses the
        # call is made without its __init__. Where an argument is only known as its repr, the message takes its place.
        # What comes out must say what the original said.
        for args in (self.args, [self.message]):
            for make in (cls, _without_init(cls)):
                try:
                    error = make(*args)
                    vars(error).update(self.attributes)
                    if _text(error) != self.message:
                        error.args = tuple(args)
                    if str(error) == self.message and repr(error):
                        return error
                except Exception:  # noqa: BLE001 - a user's class may raise anything
                    continue
        return None

    def _class(self) -> type[BaseException] | None:
        """Return the class if this process has loaded it."""
        found: Any = sys.modules.get(self.module)
        for name in self.name.split("."):
            # Not getattr(): a module's own __getattr__ may import.
            found = vars(found).get(name) if hasattr(found, "__dict__") else None
        return found if isinstance(found, type) and issubclass(found, BaseException) else None


@dataclass(frozen=True)
class StoredResult:
    """A task's result with what it takes to know whose it is: the record that ``StorageMiddleware`` keeps."""

    task_id: str
    task_name: str
    pipeline_id: str | None
    status: Status
    """``completed``; ``failed``: the task raised; ``unstorable``: it succeeded, but its return value is lost."""
    result: Any
    """The return value, as data."""
    error: StoredError | None
    execution_time: float
    """Seconds, as taskiq measured them."""
    labels: dict[str, Any]
    log: str | None
    created_at: datetime
    """When the result was stored: aware, in UTC, to the millisecond."""

    @classmethod
    def of(cls, message: TaskiqMessage, result: TaskiqResult[Any]) -> Self:
        """Return what is to be stored of a task's result, its return value as it is."""
        pipeline_id = message.labels.get(PIPELINE_ID)
        return cls(
            task_id=message.task_id,
            task_name=message.task_name,
            pipeline_id=None if pipeline_id in (None, "") else str(pipeline_id),
            status="failed" if result.is_err else "completed",
            result=result.return_value,
            error=None if result.error is None else StoredError.of(result.error),
            execution_time=result.execution_time,
            labels={name: _or_repr(value) for name, value in result.labels.items()},
            log=result.log,
            created_at=clock.now(),
        )

    @classmethod
    def from_data(cls, key: str, data: Any) -> "StoredResult":
        """Return the record that `to_data` wrote.

        :param key: where it was found, for the message.
        :raises SerializationError: it is no such record.
        """
        try:
            return _RECORD.validate_python(data)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the value"
            raise SerializationError(
                f"the entry under key {key!r} is no stored task result: {where}: {first['msg']}"
            ) from None

    @property
    def key(self) -> str:
        """The key under which this record is stored."""
        return result_key(self.task_id, self.pipeline_id)

    @property
    def metadata(self) -> dict[str, Any]:
        """The tags of the storage entry."""
        return {"pipeline_id": self.pipeline_id, "task_name": self.task_name, "status": self.status}

    def to_data(self) -> dict[str, Any]:
        """Return the record as a dict: JSON, but for what the task itself put into result, error and labels."""
        return {
            **{each.name: getattr(self, each.name) for each in dataclasses.fields(self)},
            "error": None if self.error is None else dataclasses.asdict(self.error),
            "created_at": self.created_at.isoformat(),
        }

    def with_result_as_data(self) -> "StoredResult":
        """Return this record with its return value converted by `to_data`.

        :raises SerializationError: the conversion failed.
        """
        return dataclasses.replace(self, result=to_data(self.result))

    def without_result(self, reason: str) -> "StoredResult":
        """Return this record with a note in place of its return value.

        :param reason: why the value cannot be stored.
        """
        note = UnstorableResultError(
            f"the return value of task {self.task_name} ({self.task_id}) could not be stored: {reason}"
        )
        return dataclasses.replace(
            self,
            result=None,
            status="unstorable" if self.status == "completed" else self.status,
            error=self.error or StoredError.of(note),
        )

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


_RECORD = pydantic.TypeAdapter(StoredResult)


def to_data(value: Any) -> Any:
    """Return ``value`` with what the codec would refuse converted as taskiq's own serialization does it.

    Pydantic models become their JSON form and dataclasses dicts of their fields, at any depth; so do other objects that
    pydantic has a JSON form for: enums, named tuples, subclasses of plain types, paths. What is left over is left as it
    is, for the codec to refuse.

    :raises SerializationError: a model or an object failed to be converted.
    """
    try:
        return _converted(value)
    except Exception as error:  # noqa: BLE001 - a user's model may raise anything; a value that holds itself has no end
        raise SerializationError(f"the value cannot be converted to data: {type(error).__name__}: {error}") from None


def _converted(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {_converted(key): _converted(item) for key, item in value.items()}
    if kind in (list, tuple):
        return kind(map(_converted, value))
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _converted(getattr(value, each.name)) for each in dataclasses.fields(value)}
    # Pydantic would exhaust an iterator, which is still the user's.
    if isinstance(value, Iterator) or _is_storable(value):
        return value
    try:
        return pydantic_core.to_jsonable_python(value)
    except pydantic_core.PydanticSerializationError:
        return value


def _is_storable(value: Any) -> bool:
    try:
        serialization.dumps(value)
    except SerializationError:
        return False
    return True


def _or_repr(value: Any, depth: int = 3) -> Any:
    """Return ``value`` with the parts that are no data as their ``repr``."""
    if _is_storable(value):
        return value
    if depth and type(value) is dict:
        return {_or_repr(key, 0): _or_repr(item, depth - 1) for key, item in value.items()}
    if depth and type(value) in (list, tuple):
        return type(value)(_or_repr(item, depth - 1) for item in value)
    return safe_repr(value)


def _arguments(error: BaseException) -> tuple[Any, ...]:
    # An OSError takes a file name as its third argument and does not keep it in `args`.
    if isinstance(error, OSError) and error.filename is not None and len(error.args) == 2:
        return (*error.args, error.filename)
    return error.args


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's class may raise anything
        return safe_repr(error)


def _without_init(cls: type[BaseException]) -> Any:
    return lambda *args: cls.__new__(cls, *args)
