"""``typed_labels``: the labels of a schedule with the types that they had.

taskiq's ``schedule_by_cron``, ``schedule_by_interval`` and ``schedule_by_time`` make text of all labels, as for a
message. A message has the types of its labels beside them; a ``ScheduledTask`` has no room for these, and nothing else
is handed to the source. So they are looked up where they are: in the local variables of the method that calls.
"""

import inspect
from types import CodeType
from typing import Any

from taskiq import TaskiqMessage
from taskiq.kicker import AsyncKicker
from taskiq.labels import parse_label

__all__ = ["typed_labels"]

_MAX_FRAMES = 20
"""How far away the caller may be: a source may be wrapped by others."""


def _code_of(name: str) -> CodeType | None:
    return getattr(getattr(AsyncKicker, name, None), "__code__", None)  # not all are in taskiq 0.11


_SCHEDULING = {_code_of(f"schedule_by_{kind}") for kind in ("cron", "interval", "time")} - {None}


def typed_labels(labels: dict[str, Any]) -> dict[str, Any]:
    """Return labels with the types that they had before they became text; as they are, where nobody knows these.

    :param labels: of a schedule that is just being added.
    """
    frame = inspect.currentframe()
    for _ in range(_MAX_FRAMES):
        frame = None if frame is None else frame.f_back
        if frame is not None and frame.f_code in _SCHEDULING:
            message = frame.f_locals.get("message")
            if isinstance(message, TaskiqMessage) and message.labels == labels:
                types = message.labels_types or {}
                return {name: parse_label(label, types.get(name)) for name, label in labels.items()}
    return labels
