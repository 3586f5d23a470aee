"""The contract suite on a custom adapter: this is all it takes."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from directory_storage import DirectoryStorageAdapter

from taskiq_flow.pytest_plugin import StorageAdapterContract
from taskiq_flow.storage import BaseStorageAdapter

MakeAdapter = Callable[..., DirectoryStorageAdapter]


class TestDirectoryStorage(StorageAdapterContract):
    lacks: ClassVar = {
        "entries": "a file keeps no creation time and no metadata",
        "namespaces": "a directory is one namespace",
        "server": "files need no server",
    }

    @pytest.fixture
    def make_storage_adapter(self, tmp_path: Path) -> MakeAdapter:
        return lambda ttl_seconds=None: DirectoryStorageAdapter(tmp_path / "storage", ttl_seconds)

    @pytest.fixture
    def storage_adapter(self, make_storage_adapter: MakeAdapter) -> DirectoryStorageAdapter:
        return make_storage_adapter()

    # Optional: with these two the suite can also damage what is stored.

    async def read_raw(self, adapter: BaseStorageAdapter, key: str) -> bytes:
        assert isinstance(adapter, DirectoryStorageAdapter)
        return adapter._path(key).read_bytes().split(b"\n")[1]

    async def write_raw(self, adapter: BaseStorageAdapter, key: str, data: bytes) -> bool:
        assert isinstance(adapter, DirectoryStorageAdapter)
        path = adapter._path(key)
        path.write_bytes(path.read_bytes().split(b"\n")[0] + b"\n" + data)
        return True
