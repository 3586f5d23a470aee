"""The one place that changes taskiq: ``Receiver.run_task``, so that a middleware may answer instead of a task.

taskiq has no hook that skips a task: what a middleware's ``pre_execute`` returns is always run. So the one method of
taskiq's receiver that runs a task (the same from 0.11 to 0.13) is wrapped for as long as there is a middleware that
needs it: from the first one that asks for it until the last one gives it up, or is gone. For brokers without such a
middleware the wrapper does nothing.
"""

import functools
import inspect
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult
from taskiq.receiver import Receiver
from taskiq.utils import maybe_awaitable

__all__ = ["Run", "RunsTasks", "call_error_hooks", "give_up", "take_part"]

Run = Callable[[], Awaitable[TaskiqResult[Any]]]

_HOOKS_RUN_BACKWARDS = "reversed" in inspect.unwrap(Receiver.run_task).__code__.co_names
"""Whether taskiq calls the hooks after a task last to first, as it does from 0.12 on, or first to last."""

# Held for a few lines only; taken again where one of them lets the garbage collector find a middleware.
_lock = threading.RLock()
_taking_part: dict[int, "weakref.finalize[..., Any]"] = {}
"""The middlewares that need the wrapper, by identity, and what gives it up for one that is gone."""
_wrapper: Callable[..., Any] | None = None
"""What was put in the place of ``Receiver.run_task`` last."""
_replaced: Callable[..., Any] | None = None
"""What was there before."""


class RunsTasks(TaskiqMiddleware):
    """A middleware that decides whether a task is run."""

    async def run(self, target: Callable[..., Any], message: TaskiqMessage, run_task: Run) -> TaskiqResult[Any]:
        """Return the result of a task: that of ``run_task()``, or another.

        :param target: the task's function.
        """
        raise NotImplementedError


def take_part(middleware: RunsTasks) -> None:
    """Let every receiver ask a middleware of its broker before it runs a task; asking twice is asking once."""
    with _lock:
        if id(middleware) in _taking_part:
            return
        end = _taking_part[id(middleware)] = weakref.finalize(middleware, _leave, id(middleware))
        end.atexit = False
        _wrap()


def give_up(middleware: RunsTasks) -> None:
    """Take that back; nothing happens where it was not asked for."""
    with _lock:
        if (end := _taking_part.get(id(middleware))) is not None:
            end()


async def call_error_hooks(
    middlewares: list[TaskiqMiddleware], message: TaskiqMessage, result: TaskiqResult[Any], error: BaseException
) -> None:
    """Call the ``on_error`` hooks that a receiver would call, in its order."""
    for middleware in reversed(middlewares) if _HOOKS_RUN_BACKWARDS else middlewares:
        if type(middleware).on_error is not TaskiqMiddleware.on_error:
            await maybe_awaitable(middleware.on_error(message, result, error))


def _leave(identity: int) -> None:
    with _lock:
        _taking_part.pop(identity, None)
        # Where somebody has wrapped ours in the meantime it stays, and does nothing.
        if not _taking_part and Receiver.run_task is _wrapper:
            Receiver.run_task = _replaced  # type: ignore[method-assign,assignment]  # see the module's docstring


def _wrap() -> None:
    global _wrapper, _replaced  # noqa: PLW0603 - there is one Receiver class a process
    if inspect.unwrap(Receiver.run_task, stop=lambda each: each is _wrapper) is _wrapper:
        return
    original = _replaced = Receiver.run_task

    @functools.wraps(original)
    async def run_task(
        self: Receiver, target: Callable[..., Any], message: TaskiqMessage, *more: Any, **named: Any
    ) -> TaskiqResult[Any]:
        was_run = False

        async def run_here() -> TaskiqResult[Any]:
            nonlocal was_run
            was_run = True
            return await original(self, target, message, *more, **named)

        run: Run = run_here
        for middleware in reversed(self.broker.middlewares):  # the first is asked first
            if isinstance(middleware, RunsTasks):
                run = functools.partial(middleware.run, target, message, run)
        result = await run()
        if not was_run:
            await _acknowledge(self, message, *more, **named)
        return result

    Receiver.run_task = _wrapper = run_task  # type: ignore[method-assign]  # see the module's docstring


async def _acknowledge(
    receiver: Receiver, message: TaskiqMessage, ack_controller: Any = None, *_: Any, **__: Any
) -> None:
    """Acknowledge the message of a skipped task that would have done so itself: taskiq 0.13's ``ack_type="manual"``."""
    ack_type = message.labels.get("ack_type") or receiver.ack_time
    is_manual = str(getattr(ack_type, "value", ack_type)).lower() == "manual"
    if is_manual and ack_controller is not None and ack_controller.is_ackable:
        await ack_controller.ack()
