"""The only codec of stored exceptions: plain data, readable by a person, and back.

Decoding runs nothing but the constructors of exception classes that this process has loaded already, as taskiq's own
result backends do; it never imports, and there is no pickle. What comes back is always an ``Exception``, so that no
record ends the process, or cancels the task, that reads it.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

import pydantic
import pydantic_core

from taskiq_flow.exceptions import StandInError
from taskiq_flow.records import _parts, _pydantic
from taskiq_flow.records._classes import loaded_class, name_of
from taskiq_flow.records._parts import Part
from taskiq_flow.records.conversion import is_storable, text_of
from taskiq_flow.serialization import MAX_DEPTH

__all__ = ["StandInError", "StoredError", "decode_error", "encode_error"]

_MAX_CHAIN = 10
"""How many links of an exception's causes, and of what it holds, are kept. The limit ends cycles too."""
_MAX_ERRORS = 100
"""How many exceptions of one record are kept with all that they hold; of others, what they are and say."""
_RECORD_DEPTH = 10
"""How many containers deep an exception may lie in the records that hold one."""
_UNSEEN = {ImportError: ("name", "path"), OSError: ("filename", "filename2"), NameError: ("name",)} | {
    AttributeError: ("name",)
}
"""Attributes of built-in exceptions that are neither in their ``args`` nor in their ``__dict__``."""


@dataclass(frozen=True)
class StoredError:
    """An exception as data; what it holds is written by `_parts`."""

    module: str
    name: str
    """The class's qualified name, without its module."""
    message: str
    args: list[Any] = field(default_factory=list)
    """What the class is called with."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """The instance's ``__dict__``, notes included, its slots, and a few attributes of built-in exceptions."""
    cause: "StoredError | None" = None
    """What it was raised from, up to ten links."""
    context: "StoredError | None" = None
    """What was being handled when it was raised, where there is no cause."""

    @classmethod
    def of(cls, error: BaseException) -> "StoredError":
        """Return ``error`` as data."""
        try:
            stored = _Encoder().encode(error)
            if is_storable(stored.to_data(), MAX_DEPTH - _RECORD_DEPTH):
                return stored
        except Exception:  # noqa: BLE001 - a user's class may raise anything, and its error is still the result
            pass
        message = text_of(error)
        return cls(*name_of(type(error)), message, [message])

    @classmethod
    def from_data(cls, data: Any) -> "StoredError":
        """Return what `to_data` wrote.

        :raises ValueError: if it is something else.
        """
        try:
            return _validator().validate_python(data)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None

    def to_data(self) -> dict[str, Any]:
        """Return it as a dict: JSON, but for what the exception holds."""
        return {
            **vars(self),
            "cause": None if self.cause is None else self.cause.to_data(),
            "context": None if self.context is None else self.context.to_data(),
        }

    @property
    def summary(self) -> str:
        """What it is and what it says, in one text."""
        return f"{self.module}.{self.name}: {self.message}" if self.message else f"{self.module}.{self.name}"

    def to_exception(self) -> Exception:
        """Return the exception: of its own class and saying the same where that can be had, else a `StandInError`.

        An exception that is no ``Exception``, such as ``SystemExit``, has a `StandInError` too.
        """
        return _decode(self, 0)


def encode_error(error: BaseException) -> dict[str, Any]:
    """Return an exception as data."""
    return StoredError.of(error).to_data()


def decode_error(data: Any) -> Exception:
    """Return the exception that `encode_error` was given, as :meth:`StoredError.to_exception` does.

    :raises ValueError: if the data is no stored exception.
    """
    return StoredError.from_data(data).to_exception()


class _Encoder:
    """Encodes an exception and those that belong to it."""

    def __init__(self) -> None:
        self._left = _MAX_ERRORS

    # taskiq's prepare_exception visits every cause twice, and so a chain of n causes 2**n times: a task that fails
    # after 16 attempts, each raised from the one before, would block the loop for seconds. Here they are limited.
    def encode(self, error: BaseException, links: int = _MAX_CHAIN) -> StoredError:
        """Return an exception as data.

        :param links: how many links may follow it.
        """
        (module, name), message = name_of(type(error)), text_of(error)
        self._left -= 1
        if links < 0 or self._left < 0:
            return StoredError(module, name, message, [message])

        def encode_other(other: BaseException) -> dict[str, Any]:
            return self.encode(other, links - 1).to_data()

        cause, context = _base(error, "__cause__"), _base(error, "__context__")
        if cause is not None or _base(error, "__suppress_context__") or links == 0:
            context = None
        return StoredError(
            module,
            name,
            message,
            args=[_parts.encode(arg, encode_other) for arg in _arguments(error)],
            attributes={name: _parts.encode(value, encode_other) for name, value in _attributes(error).items()},
            cause=self.encode(cause, links - 1) if cause is not None and links else None,
            context=None if context is None else self.encode(context, links - 1),
        )


def _decode(stored: StoredError, depth: int) -> Exception:
    if depth > _MAX_CHAIN + 1:  # no record of ours has more
        return StandInError(stored.summary)

    def decode_other(data: Any) -> Exception:
        return _decode(StoredError.from_data(data), depth + 1)

    try:
        error = _rebuilt(stored, lambda data: _parts.decode(data, decode_other))
    except Exception:  # noqa: BLE001 - a damaged record may hold anything
        error = None
    if error is None:  # asked exactly: an exception may be false
        error = StandInError(stored.summary)
    # An exception may refuse attributes, as a frozen dataclass does.
    if stored.cause is not None:
        _set_base(error, "__cause__", _decode(stored.cause, depth + 1))
    if stored.context is not None:
        _set_base(error, "__context__", _decode(stored.context, depth + 1))
    return error


def _rebuilt(stored: StoredError, decode: Callable[[Any], Part]) -> Exception | None:
    """Return the exception; None where there is no class that says the same."""
    cls: Any = loaded_class(stored.module, stored.name)
    if cls is None or not issubclass(cls, (Exception, BaseExceptionGroup)):
        return None
    args = [decode(arg).value for arg in stored.args]
    if cls is pydantic_core.ValidationError:
        return _pydantic.make(*args)
    attributes = {name: decode(value) for name, value in stored.attributes.items()}
    # Many classes take other arguments than they pass on to Exception: some cannot be called with `args`, others then
    # say something else. So attributes and arguments are put back afterwards, and a class that refuses the call is made
    # without its __init__. Where an argument is only known as its repr, the message takes its place. What comes out
    # must say what the original said.
    for arguments in (args, [stored.message]):
        for make in (cls, functools.partial(cls.__new__, cls)):
            try:
                error = make(*arguments)
                _put_back(error, attributes)
                if text_of(error) != stored.message:
                    _set_base(error, "args", tuple(arguments))
                if isinstance(error, Exception) and str(error) == stored.message and repr(error):
                    return error
            except KeyboardInterrupt:
                raise
            except BaseException:  # noqa: BLE001 - a user's class may raise anything
                continue
    return None


def _arguments(error: BaseException) -> tuple[Any, ...]:
    if type(error) is pydantic_core.ValidationError:
        return _pydantic.arguments_of(error)
    arguments: tuple[Any, ...] = _base(error, "args")
    return arguments


def _attributes(error: BaseException) -> dict[str, Any]:
    try:
        state = object.__getstate__(error)  # its __dict__; with slots a pair of that and a dict of theirs
    except Exception:  # noqa: BLE001 - a user's class may raise anything
        state = None
    found: dict[str, Any] = {}
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            found.update((str.__str__(name), value) for name, value in part.items() if isinstance(name, str))
    for cls, names in _UNSEEN.items():
        if isinstance(error, cls):
            values = {name: vars(cls)[name].__get__(error) for name in names}
            found.update((name, value) for name, value in values.items() if value is not None)
    return found


def _put_back(error: BaseException, attributes: dict[str, Part]) -> None:
    """Give an exception its attributes; what is only known as its ``repr`` does not replace what ``__init__`` made."""
    there = _attributes(error)
    for name, (value, is_exact) in attributes.items():
        if not is_exact and name in there:
            continue
        place = inspect.getattr_static(type(error), name, None)
        if isinstance(place, (MemberDescriptorType, GetSetDescriptorType)):
            place.__set__(error, value)
        else:
            vars(error)[name] = value


def _base(error: BaseException, name: str) -> Any:
    """Return an attribute that every exception has, whatever the class has put over it."""
    return vars(BaseException)[name].__get__(error)


def _set_base(error: BaseException, name: str, value: Any) -> None:
    vars(BaseException)[name].__set__(error, value)


@functools.cache
def _validator() -> "pydantic.TypeAdapter[StoredError]":
    return pydantic.TypeAdapter(StoredError)
