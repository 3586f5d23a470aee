"""Result backends of an application, which answer from the test's storage."""

import sys
from collections.abc import Callable
from typing import Any

from taskiq import AsyncResultBackend, TaskiqResult
from taskiq.brokers.inmemory_broker import InmemoryResultBackend
from taskiq.depends.progress_tracker import TaskProgress

from taskiq_flow.pytest_plugin.broker.adoption.redirect import Redirection, delegate_of
from taskiq_flow.result_backend import ResultIsMissingError, StorageResultBackend
from taskiq_flow.storage.base import BaseStorageAdapter
from taskiq_flow.storage.retries import RETRY_FOR

__all__ = ["redirected_backend"]


def redirected_backend(backend: AsyncResultBackend[Any], storage: BaseStorageAdapter, prefix: str) -> Redirection:
    """Let a result backend answer from a storage, with its own settings, until that is undone.

    :param prefix: what the storage's keys begin with: two backends know nothing of each other's results.
    """
    results = StorageResultBackend[Any](
        storage,
        keep_results=bool(getattr(backend, "keep_results", True)),
        ttl_seconds=_ttl_seconds(backend),
        retry_for=getattr(backend, "retry_for", RETRY_FOR),
        prefix=prefix,
    )
    return Redirection(backend, AsyncResultBackend, _STAND_IN, results)


def _ttl_seconds(backend: Any) -> float | None:
    """Return how long a backend keeps results: ``result_ex_time`` is in seconds, ``result_px_time`` in milliseconds."""
    if seconds := getattr(backend, "result_ex_time", None) or getattr(backend, "ttl_seconds", None):
        return float(seconds)
    milliseconds = getattr(backend, "result_px_time", None)
    return milliseconds / 1000 if milliseconds else None


# --- in the place of the library's methods ----------------------------------------------------------------------------


async def _nothing(_self: Any) -> None:
    """Do nothing: the test's storage opens and closes by itself."""


async def _set_result(self: Any, task_id: str, result: TaskiqResult[Any]) -> None:
    await delegate_of(self).set_result(task_id, result)


async def _is_result_ready(self: Any, task_id: str) -> bool:
    ready: bool = await delegate_of(self).is_result_ready(task_id)
    return ready


async def _get_result(self: Any, task_id: str, with_logs: bool = False) -> TaskiqResult[Any]:
    try:
        result: TaskiqResult[Any] = await delegate_of(self).get_result(task_id, with_logs)
    except ResultIsMissingError as error:
        raise _missing_of(type(self))(str(error)) from None
    return result


async def _set_progress(self: Any, task_id: str, progress: TaskProgress[Any]) -> None:
    await delegate_of(self).set_progress(task_id, progress)


async def _get_progress(self: Any, task_id: str) -> TaskProgress[Any] | None:
    progress: TaskProgress[Any] | None = await delegate_of(self).get_progress(task_id)
    return progress


_STAND_IN: dict[str, Callable[..., Any]] = {
    "startup": _nothing,
    "shutdown": _nothing,
    "set_result": _set_result,
    "is_result_ready": _is_result_ready,
    "get_result": _get_result,
    "set_progress": _set_progress,
    "get_progress": _get_progress,
}


# --- errors -----------------------------------------------------------------------------------------------------------


def _missing_of(kind: type) -> Callable[[str], Exception]:
    """Return the error for a missing result: ours, and the one that the library of a backend's class raises as well."""
    theirs = next(filter(None, map(_missing_error_of, kind.__mro__)), None)
    if theirs is None or issubclass(ResultIsMissingError, theirs):
        return ResultIsMissingError

    def __init__(self: ResultIsMissingError, message: str) -> None:  # noqa: N807 - of the class below
        ResultIsMissingError.__init__(self, message)

    try:
        both = type("ResultIsMissingError", (ResultIsMissingError, theirs), {"__init__": __init__})
        both("a trial")
    except Exception:  # noqa: BLE001 - theirs is made otherwise than errors are; then ours has to do
        return ResultIsMissingError
    return both


def _missing_error_of(kind: type) -> type[Exception] | None:
    """Return what a class raises: libraries call it ``ResultIsMissingError``, and have it in ``exceptions``, mostly."""
    if kind is InmemoryResultBackend:
        return KeyError
    for module in (kind.__module__, f"{kind.__module__.partition('.')[0]}.exceptions"):
        found = getattr(sys.modules.get(module), "ResultIsMissingError", None)
        if isinstance(found, type) and issubclass(found, Exception):
            return found
    return None
