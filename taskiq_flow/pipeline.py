"""``Pipeline``: a taskiq-pipelines pipeline whose runs have an id."""

import base64
import copy
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

import taskiq_pipelines
from taskiq import AsyncBroker, AsyncTaskiqTask
from taskiq.abc.result_backend import AsyncResultBackend
from taskiq_pipelines.pipeliner import DumpedStep, DumpedSteps

from taskiq_flow._text import shown
from taskiq_flow.exceptions import InvalidKeyError
from taskiq_flow.records.results import PIPELINE_ID
from taskiq_flow.storage import rules

if TYPE_CHECKING:
    from types import CoroutineType

    from taskiq.decor import AsyncTaskiqDecoratedTask
    from taskiq.kicker import AsyncKicker

__all__ = ["MAX_ID_BYTES", "Pipeline", "PipelineTask"]

MAX_ID_BYTES = 255
"""How long the id of a run may be, in UTF-8: the key of a result holds a task's id as well."""

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")

if TYPE_CHECKING:
    # Both spellings of an asynchronous task: AsyncKicker is invariant.
    _AsyncTask = (
        AsyncKicker[_P, Coroutine[Any, Any, _T]]
        | AsyncKicker[_P, CoroutineType[Any, Any, _T]]
        | AsyncTaskiqDecoratedTask[_P, Coroutine[Any, Any, _T]]
        | AsyncTaskiqDecoratedTask[_P, CoroutineType[Any, Any, _T]]
    )
    _Task = AsyncKicker[_P, _T] | AsyncTaskiqDecoratedTask[_P, _T]

Steps = list[DumpedStep]


class PipelineTask(AsyncTaskiqTask[_R]):
    """The last task of a run, and the run's id."""

    def __init__(self, task_id: str, result_backend: AsyncResultBackend[_R], pipeline_id: str) -> None:
        super().__init__(task_id, result_backend)
        self.pipeline_id = pipeline_id


class Pipeline(taskiq_pipelines.Pipeline[_P, _R]):
    """A pipeline whose every task carries the label ``pipeline_id``, so that its results are found by
    ``storage.keys(f"pipeline:{pipeline_id}:*")``.

    Kicking it again is another run, with another id, unless one was given. It may be kicked concurrently; the task
    that :meth:`kiq` returns knows its own run's id.

    :param broker: where the steps are sent.
    :param task: the first step.
    :param pipeline_id: the id of each run of this pipeline; by default the broker makes a new one for each.
    :raises InvalidKeyError: if the id cannot be part of a storage key, or contains one of ``: * ? [``, with which
        a pattern for this run's keys would match those of others.
    """

    pipeline_id: str | None
    """The id that was given, else that of the run that was kicked last; None before."""

    @overload
    def __init__(
        self: "Pipeline[_P, _T]",
        broker: AsyncBroker,
        task: "_AsyncTask[_P, _T]",
        pipeline_id: str | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: "Pipeline[..., Any]", broker: AsyncBroker, task: None = None, pipeline_id: str | None = None
    ) -> None: ...

    @overload
    def __init__(
        self,
        broker: AsyncBroker,
        task: "_Task[_P, _R]",
        pipeline_id: str | None = None,
    ) -> None: ...

    def __init__(self, broker: AsyncBroker, task: Any = None, pipeline_id: str | None = None) -> None:
        self._given_id = self.pipeline_id = None if pipeline_id is None else _checked_id(pipeline_id)
        super().__init__(broker, task)

    async def kiq(self, *args: _P.args, **kwargs: _P.kwargs) -> PipelineTask[_R]:
        """Start a run.

        :param args: the first step's arguments.
        :return: the run's last task, with the run's ``pipeline_id``.
        :raises ValueError: if there is no step, or the first is no ``call_next`` or ``call_after``.
        :raises SendTaskError: if the broker failed.
        """
        # The run gets steps of its own: the engine writes task ids into them, and reads them again once the first
        # task is sent, when another call may have written its own.
        pipeline_id = self._given_id or self.broker.id_generator()
        run = copy.copy(self)
        run.steps = identified(self.steps, pipeline_id)
        task = await super(Pipeline, run).kiq(*args, **kwargs)
        self.pipeline_id = pipeline_id
        for step, sent in zip(self.steps, run.steps, strict=False):
            step.task_id = sent.task_id
        return PipelineTask(task.task_id, task.result_backend, pipeline_id)

    @classmethod
    def loadb(cls, broker: AsyncBroker, pipe_data: bytes) -> "Pipeline[Any, Any]":
        """Return the pipeline that `dumpb` wrote; its runs get ids of their own.

        :param broker: where the steps are to be sent.
        """
        # The engine's own leaves a pydantic model where kiq() needs the list inside.
        pipeline: Pipeline[Any, Any] = cls(broker)
        pipeline.steps = load_steps(broker, pipe_data)
        return pipeline

    # The rest is here for type checkers: the engine's methods return the engine's Pipeline.

    @overload
    def call_next(
        self,
        task: "_AsyncTask[Any, _T]",
        param_name: str | Literal[-1] | None = None,
        **additional_kwargs: Any,
    ) -> "Pipeline[_P, _T]": ...

    @overload
    def call_next(
        self,
        task: "_Task[Any, _T]",
        param_name: str | Literal[-1] | None = None,
        **additional_kwargs: Any,
    ) -> "Pipeline[_P, _T]": ...

    def call_next(
        self,
        task: "_Task[Any, Any]",
        param_name: str | Literal[-1] | None = None,
        **additional_kwargs: Any,
    ) -> Any:
        """Add a step that gets the result of the one before.

        :param param_name: the parameter that takes it, by default the first; -1 for none.
        :param additional_kwargs: further arguments.
        """
        return super().call_next(task, param_name, **additional_kwargs)

    @overload
    def call_after(self, task: "_AsyncTask[Any, _T]", **additional_kwargs: Any) -> "Pipeline[_P, _T]": ...

    @overload
    def call_after(self, task: "_Task[Any, _T]", **additional_kwargs: Any) -> "Pipeline[_P, _T]": ...

    def call_after(self, task: "_Task[Any, Any]", **additional_kwargs: Any) -> Any:
        """Add a step that runs after the one before, and does not get its result.

        :param additional_kwargs: its arguments.
        """
        return super().call_after(task, **additional_kwargs)

    @overload
    def map(
        self,
        task: "_AsyncTask[Any, _T]",
        param_name: str | None = None,
        skip_errors: bool = False,
        check_interval: float = 0.5,
        **additional_kwargs: Any,
    ) -> "Pipeline[_P, list[_T]]": ...

    @overload
    def map(
        self,
        task: "_Task[Any, _T]",
        param_name: str | None = None,
        skip_errors: bool = False,
        check_interval: float = 0.5,
        **additional_kwargs: Any,
    ) -> "Pipeline[_P, list[_T]]": ...

    def map(
        self,
        task: "_Task[Any, Any]",
        param_name: str | None = None,
        skip_errors: bool = False,
        check_interval: float = 0.5,
        **additional_kwargs: Any,
    ) -> Any:
        """Add a step that runs a task for each item of the result before, and collects what they return.

        :param param_name: the parameter that takes the item, by default the first.
        :param skip_errors: leave out items whose task fails, instead of failing.
        :param check_interval: seconds between looks at whether all are done.
        :param additional_kwargs: further arguments of each task.
        """
        return super().map(task, param_name, skip_errors, check_interval, **additional_kwargs)

    @overload
    def filter(
        self,
        task: "_AsyncTask[Any, bool]",
        param_name: str | None = None,
        skip_errors: bool = False,
        check_interval: float = 0.5,
        **additional_kwargs: Any,
    ) -> "Pipeline[_P, _R]": ...

    @overload
    def filter(
        self,
        task: "_Task[Any, bool]",
        param_name: str | None = None,
        skip_errors: bool = False,
        check_interval: float = 0.5,
        **additional_kwargs: Any,
    ) -> "Pipeline[_P, _R]": ...

    def filter(
        self,
        task: "_Task[Any, Any]",
        param_name: str | None = None,
        skip_errors: bool = False,
        check_interval: float = 0.5,
        **additional_kwargs: Any,
    ) -> Any:
        """Add a step that keeps the items of the result before for which a task returns true; arguments as `map`."""
        return super().filter(task, param_name, skip_errors, check_interval, **additional_kwargs)


def load_steps(broker: AsyncBroker, data: bytes | str) -> Steps:
    """Return the steps that a message's label holds.

    :param data: bytes, or what they become on their way: text, or Base64, as which schedule sources keep them.
    :raises ValueError: if they are no steps; the serializer may raise other errors.
    """
    if isinstance(data, str):
        data = _as_bytes(data)
    return DumpedSteps.model_validate(broker.serializer.loadb(data)).root


def _as_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return text.encode()


def dump_steps(broker: AsyncBroker, steps: Steps) -> bytes:
    """Return steps as a message's label holds them."""
    return broker.serializer.dumpb(DumpedSteps.model_validate(steps).model_dump())


def identified(steps: Iterable[DumpedStep], pipeline_id: str) -> Steps:
    """Return copies of the steps with the run's id among the labels; sub-tasks of a step get its labels."""
    return [
        step.model_copy(update={"step_data": {**step.step_data, "labels": {**labels, PIPELINE_ID: pipeline_id}}})
        if isinstance(labels := step.step_data.get("labels"), dict)  # a step of somebody else's may have none
        else step.model_copy()
        for step in steps
    ]


def run_id(steps: Steps) -> str:
    """Return the id that the steps carry; else, for a plain taskiq_pipelines run, the id of its last task."""
    ids = (step.step_data.get("labels", {}).get(PIPELINE_ID) for step in steps)
    return next((str(each) for each in ids if each), steps[-1].task_id)


def _checked_id(pipeline_id: str) -> str:
    rules.checked_key(pipeline_id)
    if len(pipeline_id.encode()) > MAX_ID_BYTES:
        raise InvalidKeyError(f"the pipeline id {shown(pipeline_id)} is longer than {MAX_ID_BYTES} bytes in UTF-8")
    if clash := next((sign for sign in ":*?[" if sign in pipeline_id), None):
        raise InvalidKeyError(
            f"the pipeline id {pipeline_id!r} contains {clash!r}: a pattern for this run's keys would match "
            f"those of other runs; use - or . instead"
        )
    return pipeline_id
