"""What the labels of a message say: some become text on their way, as those of a pipeline's steps do."""

from typing import Any

from taskiq import TaskiqMessage

from taskiq_flow.storage import rules

__all__ = ["is_given", "is_true", "ttl_seconds"]

_FALSE = {"", "0", "false", "no", "off", "none"}


def is_given(message: TaskiqMessage, name: str) -> bool:
    """Return whether a message has a label, other than None."""
    return message.labels.get(name) not in (None, "None")  # taskiq sends a None as text


def is_true(label: Any) -> bool:
    """Return what a label says."""
    return label.strip().lower() not in _FALSE if isinstance(label, str) else bool(label)


def ttl_seconds(message: TaskiqMessage, name: str) -> float | None:
    """Return the time to live that a label asks for, in seconds; None where it is not given.

    :raises ValueError: if it is no number, or no legal time to live.
    """
    if not is_given(message, name):
        return None
    label = message.labels[name]
    seconds = float(label) if isinstance(label, str) else label
    rules.ttl_ms(seconds)
    return float(seconds)
