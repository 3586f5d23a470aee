"""Every error that taskiq-flow-kit raises on purpose, in one tree.

::

    taskiq.exceptions.TaskiqError
    └── TaskiqFlowError
        ├── StandInError                  (in stored_error.py) stands for a task's exception that cannot be rebuilt
        ├── UnstorableResultError         (in results.py)      what a task returned could not be stored
        ├── ResultIsMissingError          (in result_backend.py; also taskiq's ResultGetError)  there is no result
        ├── ConfigurationError            (also ValueError)   a setting that cannot be used
        │   └── MissingDependencyError    (also ImportError)  an optional package is not installed
        └── StorageError
            ├── InvalidKeyError           (also ValueError)   the key breaks a rule of the contract
            ├── InvalidTTLError           (also ValueError)   the time to live does
            ├── SerializationError        (also TypeError)    a value cannot be stored, or a stored one not read
            ├── StorageConnectionError    (also ConnectionError)  the server is gone, refuses, or hangs
            ├── StorageBackendError                           the server answered with an error of its own
            └── UnsupportedOperationError (also NotImplementedError)  a custom adapter cannot do this

Errors of drivers (redis-py, SQLAlchemy, sqlite3, asyncpg) never reach a caller raw; the one that caused an error
of ours is its ``__cause__``.
"""

from taskiq.exceptions import TaskiqError

__all__ = [
    "ConfigurationError",
    "InvalidKeyError",
    "InvalidTTLError",
    "MissingDependencyError",
    "SerializationError",
    "StorageBackendError",
    "StorageConnectionError",
    "StorageError",
    "TaskiqFlowError",
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


class ConfigurationError(TaskiqFlowError, ValueError):
    """A setting cannot be used; the message names it, its value and what would be accepted."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


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
    """Root of what a storage adapter raises."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class InvalidKeyError(StorageError, ValueError):
    """A key is not one that every backend can hold; raised before any I/O."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class InvalidTTLError(StorageError, ValueError):
    """A time to live is not a number of seconds above 0 and up to 100 years; raised before any I/O."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class SerializationError(StorageError, TypeError):
    """A value cannot be stored without loss, or what is stored under a key is damaged or foreign."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class StorageConnectionError(StorageError, ConnectionError):
    """The server cannot be reached, closed the connection, or did not answer within the time-out."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class StorageBackendError(StorageError):
    """The server was reached and refused the operation: full, read-only, no permission, and the like."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class UnsupportedOperationError(StorageError, NotImplementedError):
    """An adapter that has only the six methods of the page cannot do this."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
