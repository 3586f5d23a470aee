"""The error tree: drawn once, caught by its own names and by Python's."""

import copy
import inspect
import pickle

import pytest
from taskiq.exceptions import TaskiqError

from taskiq_flow import exceptions
from taskiq_flow.exceptions import MissingDependencyError, StorageError, TaskiqFlowError
from taskiq_flow.records import results

PARENTS: dict[str, tuple[type[BaseException], ...]] = {
    "TaskiqFlowError": (TaskiqError,),
    "ConfigurationError": (TaskiqFlowError, ValueError),
    "MissingDependencyError": (exceptions.ConfigurationError, ImportError),
    "StorageError": (TaskiqFlowError,),
    "InvalidKeyError": (StorageError, ValueError),
    "InvalidTTLError": (StorageError, ValueError),
    "SerializationError": (StorageError, TypeError),
    "StorageConnectionError": (StorageError, ConnectionError),
    "StorageBackendError": (StorageError,),
    "UnsupportedOperationError": (StorageError, NotImplementedError),
}
ERRORS = [getattr(exceptions, name) for name in exceptions.__all__]


def test_every_error_is_public_and_has_its_parents() -> None:
    assert PARENTS.keys() == set(exceptions.__all__)
    for name, parents in PARENTS.items():
        assert getattr(exceptions, name).__bases__ == parents


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    """Each error of the package stands under its parent, with Python's own beside it."""
    drawing = inspect.getdoc(exceptions) or ""
    own = [error for module in (exceptions, results) for _, error in inspect.getmembers(module, inspect.isclass)]
    for error in {error for error in own if issubclass(error, TaskiqFlowError)}:
        (line,) = (line for line in drawing.splitlines() if line.lstrip(" │├└─").split(" ")[0] == error.__name__)
        for parent in error.__bases__:
            if not issubclass(parent, TaskiqError):
                assert f"(also {parent.__name__})" in line
            elif parent is not TaskiqError:
                above = drawing[: drawing.index(line)].splitlines()
                indent = line.index(error.__name__)
                nearest = next(each for each in reversed(above) if 0 <= _name_at(each) < indent)
                assert nearest[_name_at(nearest) :].split(" ")[0] == parent.__name__


def _name_at(line: str) -> int:
    """Return the column where the name of an error begins."""
    return len(line) - len(line.lstrip(" │├└─")) if line.strip() else -1


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_says_its_message(error: type[TaskiqFlowError]) -> None:
    raised = error("the message, with {braces} and %s")
    assert str(raised) == "the message, with {braces} and %s"
    assert raised.message == str(raised)
    assert "the message" in repr(raised)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_survives_the_way_between_processes(error: type[TaskiqFlowError], duplicate: object) -> None:
    assert callable(duplicate)
    twin = duplicate(error("the message"))
    assert type(twin) is error
    assert str(twin) == "the message"
    assert twin.message == "the message"


def test_a_missing_package_says_how_to_install_it() -> None:
    error = MissingDependencyError.for_extra("RedisStorageAdapter", "redis", "redis")
    assert str(error) == (
        "RedisStorageAdapter needs the package 'redis', which is not installed: pip install \"taskiq-flow-kit[redis]\""
    )
