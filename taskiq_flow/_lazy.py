"""Package names that are imported on first use (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return ``__getattr__`` for ``package``, whose names live in the modules of ``homes``.

    A package calls this ``if not TYPE_CHECKING``, and imports the names for type checkers: of a module that has a
    ``__getattr__`` these believe that it has every name.

    There is no ``__dir__`` with it. Some tools ask a module for all that ``dir`` tells of, and would load it all:
    pytest asks its plugins, and freezegun every module, while it is freezing the time.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return load
