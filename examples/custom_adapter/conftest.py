"""The directory becomes a column of the matrix, beside the storages of the kit: this is all it takes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from directory_storage import DirectoryStorageAdapter


def pytest_taskiq_flow_storages(config: pytest.Config) -> dict[str, Callable[[str, Path], DirectoryStorageAdapter]]:
    """Register the storage ``directory``: an adapter on the store of the test that has this namespace."""
    return {"directory": lambda namespace, folder: DirectoryStorageAdapter(folder / namespace)}
