"""The hooks that conftest files and plugins may implement for this one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from taskiq_flow.pytest_plugin.stores.base import StorageKind
    from taskiq_flow.pytest_plugin.stores.registered import MakeAdapter


@pytest.hookspec
def pytest_taskiq_flow_storages(config: pytest.Config) -> "Mapping[str, MakeAdapter | StorageKind]":  # type: ignore[empty-body]  # a specification
    """Return storages that are to be columns of the matrix beside the built-in ones, by name.

    Each value is a function ``make(namespace, folder)`` that returns an adapter on the store of the test with that
    namespace, where ``folder`` is a temporary folder of the run; or an instance of
    :class:`taskiq_flow.pytest_plugin.stores.registered.RegisteredStorage`, which says more, or of another
    :class:`taskiq_flow.pytest_plugin.StorageKind`::

        def pytest_taskiq_flow_storages(config):
            return {"directory": lambda namespace, folder: DirectoryStorageAdapter(folder / namespace)}

    Names have small letters, digits and underscores. Implement it in the conftest.py of the project's root folder, or
    in a plugin: pytest asks before it collects.
    """
