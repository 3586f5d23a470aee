"""``ResultKeys``: under which key a task's result is cached."""

import hashlib
import inspect
import json
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from taskiq import AsyncBroker, TaskiqMessage

from taskiq_flow import serialization
from taskiq_flow.middlewares._cache_labels import CACHE_KEY
from taskiq_flow.middlewares._labels import is_given

__all__ = ["ResultKeys"]


class ResultKeys:
    """Makes keys for the tasks of one broker: two calls that mean the same have one.

    :param broker: sends the messages: what a default looks like that is given as an argument depends on its serializer.
    """

    def __init__(self, broker: AsyncBroker) -> None:
        self._broker = broker
        self._defaults = WeakKeyDictionary[Callable[..., Any], dict[str, str | None]]()

    def key_of(self, target: Callable[..., Any], message: TaskiqMessage) -> str:
        """Return the key of a task's result: readable at its beginning, and short.

        :param target: the task's function.
        :raises SerializationError: if an argument cannot be encoded.
        """
        if is_given(message, CACHE_KEY):
            return f"{message.task_name}:{message.labels[CACHE_KEY]}"
        text = _canonical(self._arguments(target, message))
        return f"{message.task_name}:{hashlib.sha256(text.encode()).hexdigest()}"

    def _arguments(self, target: Callable[..., Any], message: TaskiqMessage) -> Any:
        """Return the arguments by name, however they were given, without those that are their defaults: to leave one
        out is the same.
        """
        try:
            signature = inspect.signature(target)
            given = signature.bind_partial(*message.args, **message.kwargs).arguments
        except (TypeError, ValueError):  # they do not fit, which the task's run will tell
            return [message.args, message.kwargs]
        return {
            name: value
            for name, value in given.items()
            if signature.parameters[name].default is inspect.Parameter.empty
            or self._default(target, signature.parameters[name]) != _canonical(value, f"arguments[{name!r}]")
        }

    def _default(self, target: Callable[..., Any], parameter: inspect.Parameter) -> str | None:
        """Return the text of a parameter's default as a worker receives it; None where it cannot be sent."""
        try:
            known = self._defaults.setdefault(target, {})
        except TypeError:  # a callable of a class that takes no weak references
            known = {}
        if parameter.name not in known:
            known[parameter.name] = self._as_received(parameter.default)
        return known[parameter.name]

    def _as_received(self, value: Any) -> str | None:
        formatter = self._broker.formatter
        message = TaskiqMessage(task_id="", task_name="", labels={}, args=[value], kwargs={})
        try:
            return _canonical(formatter.loads(formatter.dumps(message).message).args[0])
        except Exception:  # noqa: BLE001 - a dependency, or anything else that no serializer takes
            return None


def _canonical(value: Any, what: str = "arguments") -> str:
    """Return the text of a value, the same for all that are equal and of the same types.

    :raises SerializationError: if it cannot be encoded.
    """
    return json.dumps(json.loads(serialization.dumps(value, what)), sort_keys=True)
