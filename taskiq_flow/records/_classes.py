"""A class as data, by its module and its qualified name, and back where this process has loaded it."""

import sys
from typing import Any

__all__ = ["loaded_class", "name_of"]


def name_of(cls: type) -> tuple[str, str]:
    """Return a class's module and its qualified name within it."""
    # Not cls.__module__ and cls.__qualname__: a metaclass may raise anything.
    module = vars(type)["__module__"].__get__(cls)
    qualified: str = vars(type)["__qualname__"].__get__(cls)
    return str.__str__(module) if isinstance(module, str) else "", str.__str__(qualified)


def loaded_class(module: str, name: str) -> type | None:
    """Return the class with that name; None where this process has not loaded it. Nothing is imported."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        # Not getattr(): a module's own __getattr__ may import.
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    return found if isinstance(found, type) else None
