"""Faults: what goes wrong around a storage, and what its adapter makes of it.

Each test runs as a small sample; with ``-m long`` also as a whole: hundreds of kills, 100,000 calls. The servers are
programs of this machine or of a wheel, wherever those of other tests come from: these are killed, stopped and filled.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.pytest_plugin.servers.model import SourceFailed
from taskiq_flow.storage.backend import BackendAdapter
from taskiq_flow.storage.factory import StorageAdapterFactory
from tests.faults.servers import PrivateServer, private_server
from tests.faults.storages import server_of, settings

FIGURES = "figures of a fault test"
Amount = Callable[[int, int], int]
Connect = Callable[..., BackendAdapter]
Tell = Callable[..., None]


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: {figures}"
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for name, figures in report.user_properties
        if name == FIGURES and report.when == "call"
    ]
    if lines:
        terminalreporter.section("figures of the fault tests")
        terminalreporter.write_line("\n".join(lines))


@pytest.fixture(params=["sample", pytest.param("whole", marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def amount(request: pytest.FixtureRequest) -> Amount:
    """Choose how much to do: ``amount(sample, whole)``."""
    return lambda sample, whole: whole if request.param == "whole" else sample


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Report figures: ``tell(kills=100, lost=0)``."""
    return lambda **figures: request.node.user_properties.append(
        (FIGURES, ", ".join(f"{name.replace('_', ' ')} {figure}" for name, figure in figures.items()))
    )


@pytest.fixture(scope="session")
def redis_server() -> Iterator[PrivateServer]:
    with _private("redis") as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PrivateServer]:
    with _private("postgres") as server:
        yield server


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[PrivateServer]:
    with _private("mysql") as server:
        yield server


@pytest.fixture
def server(request: pytest.FixtureRequest, scheme: str) -> PrivateServer:
    """A server of these tests' own, that keeps what it acknowledges: for tests that run ``@on`` such a storage."""
    found: PrivateServer = request.getfixturevalue(f"{server_of(scheme)}_server")
    return found


@pytest.fixture
def url(request: pytest.FixtureRequest, scheme: str, tmp_path: Path) -> str:
    """The URL of a storage: for tests that run ``@on`` some storages."""
    if server_of(scheme):
        server: PrivateServer = request.getfixturevalue("server")
        return f"{scheme}://{server.url.partition('://')[2]}"
    return "memory://" if scheme == "memory" else f"{scheme}:///{tmp_path / 'storage.db'}"


@pytest.fixture
def place(url: str, tmp_path: Path) -> TaskiqFlowConfig:
    """Settings of a storage, in a namespace that nobody has used: for tests that run ``@on`` some storages."""
    return settings(url, tmp_path.name)


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Make an adapter on a URL, in the namespace of ``place``, with short time-outs unless told otherwise."""
    made: list[BackendAdapter] = []

    def make(url: str, **more: object) -> BackendAdapter:
        chosen = {"storage_connect_timeout": 0.5, "storage_operation_timeout": 0.5, **more}
        config = settings(url, tmp_path.name).model_copy(update=chosen)
        adapter = StorageAdapterFactory.create_storage_adapter(config)
        assert isinstance(adapter, BackendAdapter)
        made.append(adapter)
        return adapter

    yield make
    for adapter in made:
        adapter.close_from_outside()


@contextmanager
def _private(kind: str) -> Iterator[PrivateServer]:
    try:
        with private_server(kind) as server:
            yield server
    except SourceFailed as reason:
        pytest.skip(f"no private {kind} server: {reason}")
