"""The error tree: drawn once, caught by its own names and by Python's."""

import ast
import copy
import importlib
import inspect
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskiq.exceptions import ResultGetError, TaskiqError

import taskiq_flow
from taskiq_flow import exceptions, pytest_plugin
from taskiq_flow.exceptions import MissingDependencyError, StorageError, TaskiqFlowError

PARENTS: dict[str, tuple[type[BaseException], ...]] = {
    "TaskiqFlowError": (TaskiqError,),
    "StandInError": (TaskiqFlowError,),
    "UnstorableResultError": (TaskiqFlowError,),
    "ResultIsMissingError": (TaskiqFlowError, ResultGetError),
    "ConfigurationError": (TaskiqFlowError, ValueError),
    "ConfigurationWarning": (UserWarning,),
    "MissingDependencyError": (exceptions.ConfigurationError, ImportError),
    "StorageError": (TaskiqFlowError,),
    "InvalidKeyError": (StorageError, ValueError),
    "InvalidTTLError": (StorageError, ValueError),
    "SerializationError": (StorageError, TypeError),
    "StorageConnectionError": (StorageError, ConnectionError),
    "StorageBackendError": (StorageError,),
    "UnsupportedOperationError": (StorageError, NotImplementedError),
}
ERRORS = [getattr(exceptions, name) for name in exceptions.__all__ if name.endswith("Error")]


def test_errors_have_their_parents() -> None:
    assert PARENTS.keys() == set(exceptions.__all__)
    for name, parents in PARENTS.items():
        assert getattr(exceptions, name).__bases__ == parents


def errors_of_the_package() -> Iterator[type[BaseException]]:
    """Yield every exception class that callers may meet: ours, and those that a package exports."""
    root = Path(taskiq_flow.__file__).parent
    for file in root.rglob("*.py"):
        names = [node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
        if any(name.endswith(("Error", "Warning")) for name in names):
            module = importlib.import_module(".".join(file.relative_to(root.parent).with_suffix("").parts))
            classes = [getattr(module, name) for name in names]
            yield from (each for each in classes if issubclass(each, TaskiqFlowError) or is_exported(each))


def is_exported(each: type) -> bool:
    packages = (taskiq_flow, pytest_plugin)
    return issubclass(each, BaseException) and any(each.__name__ in package.__all__ for package in packages)


def test_tree_in_the_docstring_is_that_of_the_package() -> None:
    """Each error stands under its parent, with the other parents beside it."""
    drawing = inspect.getdoc(exceptions) or ""
    drawn = {line.lstrip(" │├└─").split(" ")[0] for line in drawing.splitlines() if "──" in line}
    errors = {error.__name__: error for error in errors_of_the_package()}
    assert errors.keys() == drawn
    assert PARENTS.keys() <= drawn
    for error in errors.values():
        (line,) = (line for line in drawing.splitlines() if line.lstrip(" │├└─").split(" ")[0] == error.__name__)
        above = drawing[: drawing.index(line)].splitlines()
        nearest = next(each for each in reversed(above) if 0 <= _name_at(each) < line.index(error.__name__))
        parent, *others = error.__bases__
        assert nearest[_name_at(nearest) :].split(" ")[0].rpartition(".")[2] == parent.__name__
        for other in others:
            assert f"(also {other.__name__})" in line


def _name_at(line: str) -> int:
    """Return the column where the name of an error begins."""
    return len(line) - len(line.lstrip(" │├└─")) if line.strip() else -1


@pytest.mark.parametrize("error", ERRORS)
def test_error_says_its_message(error: type[TaskiqFlowError]) -> None:
    raised = error("the message, with {braces} and %s")
    assert str(raised) == "the message, with {braces} and %s"
    assert raised.message == str(raised)
    assert "the message" in repr(raised)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_error_survives_pickle_and_copy(error: type[TaskiqFlowError], duplicate: object) -> None:
    assert callable(duplicate)
    twin = duplicate(error("the message"))
    assert type(twin) is error
    assert str(twin) == "the message"
    assert twin.message == "the message"


def test_missing_package_says_how_to_install_it() -> None:
    error = MissingDependencyError.for_extra("RedisStorageAdapter", "redis", "redis")
    assert str(error) == (
        "RedisStorageAdapter needs the package 'redis', which is not installed: pip install \"taskiq-flow-kit[redis]\""
    )


def test_errors_stay_importable_from_where_they_were() -> None:
    from taskiq_flow.records.errors import StandInError
    from taskiq_flow.records.results import UnstorableResultError
    from taskiq_flow.result_backend import ResultIsMissingError

    assert (StandInError, UnstorableResultError, ResultIsMissingError) == (
        exceptions.StandInError,
        exceptions.UnstorableResultError,
        exceptions.ResultIsMissingError,
    )
