"""``PipelineMiddleware``: taskiq-pipelines' engine, with a run's id on every task of the run."""

import logging
import traceback
from typing import Any

from taskiq import Context, TaskiqMessage, TaskiqResult
from taskiq.exceptions import NoResultError
from taskiq.labels import parse_label, prepare_label
from taskiq_pipelines import PipelineMiddleware as Engine
from taskiq_pipelines.constants import CURRENT_STEP, PIPELINE_DATA
from taskiq_pipelines.exceptions import AbortPipeline
from taskiq_pipelines.steps import parse_step

from taskiq_flow.pipeline import Steps, dump_steps, identified, load_steps, run_id
from taskiq_flow.records.results import PIPELINE_ID

__all__ = ["PipelineMiddleware"]

logger = logging.getLogger(__name__)


class PipelineMiddleware(Engine):
    """Runs pipelines, and sees to it that each task of a run carries the label ``pipeline_id``.

    :class:`taskiq_flow.pipeline.Pipeline` writes the id into the labels of its steps, from where mapped and filtered
    sub-tasks get it. Here it is added where the engine sends labels of its own, to the tasks that collect, and to
    whole runs of a plain ``taskiq_pipelines.Pipeline``: their id is that of their last task, which is the ``task_id``
    that ``kiq`` returns. Tasks that a step's own body sends are not part of the run and carry nothing.

    A run that cannot go on ends with an error result for its last task, so that nobody waits for ever: after a step's
    error, unless that is to be retried, after a step that has no result, and when the next step could not be sent.
    Only tasks that ran have results in a storage; the last step of a failed run is not among them.
    """

    def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        """Label what the engine sends."""
        if PIPELINE_DATA in message.labels and PIPELINE_ID not in message.labels:
            types = message.labels_types or {}
            steps = self._steps(parse_label(message.labels[PIPELINE_DATA], types.get(PIPELINE_DATA)))
            if steps:
                message.labels[PIPELINE_ID], types[PIPELINE_ID] = prepare_label(run_id(steps))
                message.labels_types = types
        return message

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Label what a client without this middleware sent, and the steps that follow."""
        if PIPELINE_DATA in message.labels:
            steps = self._steps(message.labels[PIPELINE_DATA])
            if steps:
                message.labels[PIPELINE_ID] = run_id(steps)
                # Bytes, as the engine reads them, though a schedule source may have made text of them.
                message.labels[PIPELINE_DATA] = dump_steps(self.broker, identified(steps, run_id(steps)))
                # Context.requeue() sends these parsed labels with the types that they had before: bytes as text, which
                # is then decoded as Base64, into garbage. Without a type the text arrives as it is.
                (message.labels_types or {}).pop(PIPELINE_DATA, None)
        return message

    async def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Send the next step, or end the run; raises nothing, for that would keep other middlewares from their turn."""
        if CURRENT_STEP not in message.labels:
            return
        try:
            if result.is_err:
                await self._end_run(message, result.error)
            else:
                self._check_next_step(message)
                await super().post_save(message, result)
        except Exception as error:
            logger.exception(
                "pipeline %s cannot go on after task %s (%s)",
                message.labels.get(PIPELINE_ID),
                message.task_name,
                message.task_id,
            )
            await self._end_run_at_last(message, error)

    async def on_error(self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException) -> None:
        """End the run of a step that is to have no result; whether another has failed for good is known in `post_save`.

        The engine ends the run here, also where a retry middleware is about to send the step again, and it reads the
        steps as JSON whatever the broker's serializer is.
        """
        if CURRENT_STEP in message.labels and isinstance(exception, NoResultError) and not _is_requeue(exception):
            reason = f"step {message.task_name} ({message.task_id}) has no result for the next one"
            await self._end_run_at_last(message, AbortPipeline(reason=reason))

    def _check_next_step(self, message: TaskiqMessage) -> None:
        """Raise an error where the engine would say nothing and not go on.

        :raises ValueError: if a step of this kind is not known here.
        """
        steps = load_steps(self.broker, message.labels[PIPELINE_DATA])
        for step in steps[int(message.labels[CURRENT_STEP]) + 1 :][:1]:
            parse_step(step.step_type, step.step_data)

    async def _end_run(self, message: TaskiqMessage, error: BaseException | None) -> None:
        """Give the run's last task an error result, unless it has one."""
        steps = load_steps(self.broker, message.labels[PIPELINE_DATA])
        if message.task_id != steps[-1].task_id:
            await self.fail_pipeline(steps[-1].task_id, error)

    async def _end_run_at_last(self, message: TaskiqMessage, error: BaseException) -> None:
        try:
            await self._end_run(message, error)
        except Exception:
            logger.exception(
                "pipeline %s cannot be ended either: its last task will have no result",
                message.labels.get(PIPELINE_ID),
            )

    def _steps(self, data: Any) -> Steps:
        """Return the run's steps; none where they cannot be read, which the engine reports when it needs them."""
        try:
            return load_steps(self.broker, data)
        except Exception:  # noqa: BLE001 - a serializer may raise anything
            return []


def _is_requeue(error: NoResultError) -> bool:
    """Return whether a step has sent itself again; ``Context.requeue`` raises the error of one without a result."""
    raised_by = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
    return Context.requeue.__code__ in raised_by
