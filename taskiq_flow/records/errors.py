"""The only codec of stored exceptions: plain data, readable by a person, and back.

Decoding runs nothing but the constructors of exception classes that this process has loaded already, as taskiq's own
result backends do; it never imports, and there is no pickle.
"""

import dataclasses
import functools
import sys
from dataclasses import dataclass, field
from typing import Any, Self

import pydantic
from taskiq.serialization import safe_repr

from taskiq_flow.exceptions import StandInError
from taskiq_flow.records.conversion import data_or_repr

__all__ = ["StandInError", "StoredError", "decode_error", "encode_error"]

# How many links of an exception's causes are kept. The limit ends cycles too.
_MAX_CHAIN = 10


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
    """The instance's ``__dict__``; notes are in there."""
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
            args=[data_or_repr(arg) for arg in _arguments(error)],
            attributes={name: data_or_repr(value) for name, value in vars(error).items()},
            cause=cls.of(cause, links - 1) if cause is not None and links else None,
            context=cls.of(context, links - 1) if cause is None and context is not None and links else None,
        )

    @classmethod
    def from_data(cls, data: Any) -> "StoredError":
        """Return what `to_data` wrote.

        :raises ValueError: if it is something else (pydantic's ``ValidationError``, which says what).
        """
        return _validator().validate_python(data)

    def to_data(self) -> dict[str, Any]:
        """Return it as a dict: JSON, but for what the exception holds."""
        return dataclasses.asdict(self)

    @property
    def summary(self) -> str:
        """What it is and what it says, in one text."""
        return f"{self.module}.{self.name}: {self.message}" if self.message else f"{self.module}.{self.name}"

    def to_exception(self) -> BaseException:
        """Return the exception: of its own class and saying the same where that can be had, else a `StandInError`."""
        error = self._rebuilt()
        if error is None:  # asked exactly: an exception may be false
            error = StandInError(self.summary)
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


def encode_error(error: BaseException) -> dict[str, Any]:
    """Return an exception as data."""
    return StoredError.of(error).to_data()


def decode_error(data: Any) -> BaseException:
    """Return the exception that `encode_error` was given, as :meth:`StoredError.to_exception` does.

    :raises ValueError: if the data is no stored exception.
    """
    return StoredError.from_data(data).to_exception()


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


@functools.cache
def _validator() -> "pydantic.TypeAdapter[StoredError]":
    return pydantic.TypeAdapter(StoredError)
