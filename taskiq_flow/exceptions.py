"""Every error that taskiq-flow-kit raises on purpose, in one tree.

::

    taskiq.exceptions.TaskiqError
    └── TaskiqFlowError
        ├── StandInError                                      stands for a task's exception that cannot be rebuilt
        ├── UnstorableResultError                             what a task returned could not be stored
        ├── ResultIsMissingError          (also ResultGetError)  there is no result of a task; the other is taskiq's
        ├── ConfigurationError            (also ValueError)   a setting that cannot be used
        │   └── MissingDependencyError    (also ImportError)  an optional package is not installed
        └── StorageError
            ├── InvalidKeyError           (also ValueError)   the key breaks a rule of the contract
            ├── InvalidTTLError           (also ValueError)   the time to live does
            ├── SerializationError        (also TypeError)    a value cannot be stored, or a stored one not read
            ├── StorageConnectionError    (also ConnectionError)  the server is gone, refuses, or hangs
            ├── StorageBackendError                           the server answered with an error of its own
            └── UnsupportedOperationError (also NotImplementedError)  a custom adapter cannot do this

    AssertionError
    └── StuckTasksError                                       of the pytest plugin: tasks of a test never end

    UserWarning
    └── ConfigurationWarning                              a setting that has no effect, or hardly what was meant

A ``StorageError`` says in ``failure`` what to do about it, see :class:`taskiq_flow.storage.failures.Failure`.
Errors of drivers (redis-py, SQLAlchemy, sqlite3, asyncpg) never reach a caller raw; the one that caused an error
of ours is its ``__cause__``.
"""

from typing import ClassVar

from taskiq.exceptions import ResultGetError, TaskiqError

from taskiq_flow.storage.failures import Failure

__all__ = [
    "ConfigurationError",
    "ConfigurationWarning",
    "InvalidKeyError",
    "InvalidTTLError",
    "MissingDependencyError",
    "ResultIsMissingError",
    "SerializationError",
    "StandInError",
    "StorageBackendError",
    "StorageConnectionError",
    "StorageError",
    "TaskiqFlowError",
    "UnstorableResultError",
    "UnsupportedOperationError",
]


class TaskiqFlowError(TaskiqError):
    """Root of all errors of this package; as a ``TaskiqError`` it is caught with taskiq's own."""

    __template__ = "{message}"
    message: str

    # taskiq's errors take their fields as keywords; one positional message keeps these picklable and easy to raise.
    # The subclasses repeat it for type checkers: taskiq's root is a `dataclass_transform`, and they give every class
    # that defines no `__init__` one with keywords only.
    def __init__(self, message: str) -> None:
        super().__init__(message=message)


class StandInError(TaskiqFlowError):
    """Stands for an exception of a task that cannot be rebuilt here; the message names its class and what it said."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class UnstorableResultError(TaskiqFlowError):
    """A task succeeded, but what it returned cannot be stored; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class ResultIsMissingError(TaskiqFlowError, ResultGetError):
    """There is no result for a task: there never was one, it has expired, or another reader has taken it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class ConfigurationError(TaskiqFlowError, ValueError):
    """A setting cannot be used; the message names it, its value and what would be accepted."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class ConfigurationWarning(UserWarning):
    """A setting has no effect, or hardly the one that was meant; the message says what to set."""


class MissingDependencyError(ConfigurationError, ImportError):
    """A feature needs a package that is not installed; the message names the extra that brings it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    @classmethod
    def for_extra(cls, what: str, package: str, extra: str) -> "MissingDependencyError":
        """Return the error for ``what``, which needs ``package``, which the ``extra`` brings."""
        return cls(
            f'{what} needs the package {package!r}, which is not installed: pip install "taskiq-flow-kit[{extra}]"'
        )


class StorageError(TaskiqFlowError):
    """Root of what a storage adapter raises.

    :param failure: what kind of failure it is; by default that of the class.
    """

    _failure: ClassVar[Failure] = Failure.REFUSED

    def __init__(self, message: str, failure: Failure | None = None) -> None:
        super().__init__(message)
        if failure is not None:
            self.__dict__["_failure"] = failure  # not a field of taskiq's errors, which would show it

    @property
    def failure(self) -> Failure:
        """What kind of failure it is, and so what to do about it."""
        return self._failure


class InvalidKeyError(StorageError, ValueError):
    """A key is not one that every backend can hold, or a pattern is too long; raised before any I/O."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class InvalidTTLError(StorageError, ValueError):
    """A time to live is not a number of seconds above 0 and up to 100 years; raised before any I/O."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class SerializationError(StorageError, TypeError):
    """A value cannot be stored without loss, or what is stored under a key is damaged or foreign."""

    _failure = Failure.UNSTORABLE

    def __init__(self, message: str, failure: Failure | None = None) -> None:
        super().__init__(message, failure)


class StorageConnectionError(StorageError, ConnectionError):
    """The server cannot be reached, closed the connection, or did not answer within the time-out."""

    _failure = Failure.LOST

    def __init__(self, message: str, failure: Failure | None = None) -> None:
        super().__init__(message, failure)


class StorageBackendError(StorageError):
    """The server was reached and refused the operation: full, no permission, a value that is too large …"""

    def __init__(self, message: str, failure: Failure | None = None) -> None:
        super().__init__(message, failure)


class UnsupportedOperationError(StorageError, NotImplementedError):
    """An adapter that has only the six methods of ``BaseStorageAdapter`` cannot do this."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
