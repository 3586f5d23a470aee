"""What switches a mutant on: mutated files use it instead of mutmut's own.

mutmut's puts a generator around each asynchronous generator, which is then closed twice: not what is to be tested.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

__all__ = ["MutantDict", "called", "switch_on", "switched"]

MutantDict = dict[str, Callable[..., Any]]
"""The mutants of one function, by their names; the name of the file is not part of it."""

called: set[str] = set()
"""The functions that were called, each as its module and mangled name."""

_on = ("", "")


def switch_on(mutant: str) -> None:
    """Switch one mutant on, by its full name, for this process."""
    global _on  # noqa: PLW0603 - one mutant a process is the point
    module, _, name = mutant.rpartition(".")
    _on = (module, name)


def switched(mutants: MutantDict, is_classmethod: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function that may have to be one of its mutants instead."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            module, name = _on
            original = mutants["_mutmut_orig"]
            called.add(f"{function.__module__}.{original.__name__.removesuffix('__mutmut_orig')}")
            chosen = mutants.get(name, original) if module == function.__module__ else original
            if is_classmethod:  # of the class that it was called on
                return getattr(args[0], chosen.__name__)(*args[1:], **kwargs)
            return chosen(*args, **kwargs)

        return call

    return decorate
