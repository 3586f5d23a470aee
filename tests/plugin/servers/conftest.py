"""Pools of servers, and servers for all tests that only look at one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from taskiq_flow.pytest_plugin.servers import Server, stale
from tests.plugin.servers.runs import Runs, Theirs, records


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path)
    yield made
    for pool in made.pools:
        pool.close()


@pytest.fixture(scope="package")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theirs]:
    """Return one server of a kind for all tests that only look at one, and its record."""
    made = Runs(tmp_path_factory.mktemp("theirs"))
    run = made.folder()
    pool = made.pool("redis", "postgres", run=run, sources=("wheel",))

    def server(kind: str) -> tuple[Server, stale.Record]:
        found = pool.get(kind)
        return found, next(record for folder, record in records(run[1]).items() if f"-{kind}-" in folder.name)

    yield server
    pool.close()
