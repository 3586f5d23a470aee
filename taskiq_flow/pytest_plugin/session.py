"""What a run of pytest has one of: its settings, its identity, and its storages in this process."""

from typing import TYPE_CHECKING

import pytest

from taskiq_flow.pytest_plugin import options

if TYPE_CHECKING:
    from taskiq_flow.pytest_plugin.run import Run
    from taskiq_flow.pytest_plugin.stores._manager import StoreManager

__all__ = ["begin", "close", "run", "settings", "stores"]

_SETTINGS = pytest.StashKey[options.Settings]()
_RUN = pytest.StashKey["Run"]()
_STORES = pytest.StashKey["StoreManager"]()


def begin(config: pytest.Config, chosen: options.Settings) -> None:
    """Keep the run's settings; a worker of pytest-xdist also takes the identity of the run that it belongs to."""
    config.stash[_SETTINGS] = chosen
    if shared := getattr(config, "workerinput", {}).get("taskiq_flow_run"):
        from taskiq_flow.pytest_plugin.run import Run

        config.stash[_RUN] = Run.of_worker(shared)


def settings(config: pytest.Config) -> options.Settings:
    """Return the run's settings."""
    return config.stash[_SETTINGS]


def run(config: pytest.Config) -> "Run":
    """Return the run's identity, given to it now if need be."""
    if (identity := config.stash.get(_RUN, None)) is None:
        from taskiq_flow.pytest_plugin.run import Run

        identity = config.stash[_RUN] = Run.begin()
    return identity


def stores(config: pytest.Config) -> "StoreManager":
    """Return the run's storages in this process."""
    if (manager := config.stash.get(_STORES, None)) is None:
        from taskiq_flow.pytest_plugin.stores._manager import StoreManager

        chosen = settings(config)
        worker = getattr(config, "workerinput", {}).get("workerid", "main")
        manager = config.stash[_STORES] = StoreManager(chosen.storages.kinds, chosen.servers, run(config), worker)
    return manager


def close(config: pytest.Config) -> list[str]:
    """Close what this process opened, and remove what the run left; return what could not be removed."""
    identity = config.stash.get(_RUN, None)
    if identity is None or not (identity.is_mine or _STORES in config.stash):
        return []
    return stores(config).close()
