"""URL schemes that others register."""

import pytest

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import (
    ConfigurationError,
)
from taskiq_flow.storage import (
    BaseStorageAdapter,
    InMemoryStorageAdapter,
    StorageAdapterFactory,
)

create = StorageAdapterFactory.create_storage_adapter


def test_registered_scheme_makes_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StorageAdapterFactory, "_builders", dict(StorageAdapterFactory._builders))

    def build(url: str, config: TaskiqFlowConfig) -> BaseStorageAdapter:
        assert url == "dynamo://table"
        return InMemoryStorageAdapter(config.storage_ttl_seconds, namespace=config.storage_namespace)

    StorageAdapterFactory.register_scheme("dynamo", build)
    StorageAdapterFactory.register_scheme("dynamo", build)
    assert "dynamo" in StorageAdapterFactory.known_schemes()
    adapter = create(TaskiqFlowConfig(storage_url="dynamo://table", storage_namespace="shop"), ttl_seconds=5)
    assert adapter.ttl_seconds == 5

    with pytest.raises(ConfigurationError, match="'dynamo' is registered already"):
        StorageAdapterFactory.register_scheme("dynamo", lambda _url, _config: adapter)
    with pytest.raises(ConfigurationError, match="'redis' is registered already"):
        StorageAdapterFactory.register_scheme("redis", build)
    with pytest.raises(ConfigurationError, match="'Dynamo DB' is not a URL scheme"):
        StorageAdapterFactory.register_scheme("Dynamo DB", build)
    for scheme in ("", "X", "dynamo:"):
        with pytest.raises(ConfigurationError, match="is not a URL scheme"):
            StorageAdapterFactory.register_scheme(scheme, build)


def test_scheme_with_a_driver_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StorageAdapterFactory, "_builders", dict(StorageAdapterFactory._builders))
    any_driver, fast = InMemoryStorageAdapter(namespace="any"), InMemoryStorageAdapter(namespace="fast")
    StorageAdapterFactory.register_scheme("dynamo", lambda _url, _config: any_driver)
    StorageAdapterFactory.register_scheme("dynamo+fast", lambda _url, _config: fast)
    for url, adapter in (
        ("dynamo://t", any_driver),
        ("dynamo+slow://t", any_driver),
        ("dynamo+slow+old://t", any_driver),
        ("dynamo+fast://t", fast),
    ):
        assert create(TaskiqFlowConfig(storage_url=url)) is adapter
