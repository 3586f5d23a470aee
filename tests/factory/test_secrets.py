"""A password in the environment is not in what a test runner prints of an error, with the locals of every frame."""

import json
import socket
from pathlib import Path

import pytest

from tests import redis_servers
from tests.inner import InnerRun

PASSWORD = "s3cret-pass"
# The environment comes from a fixture, whose own frames are not shown: the test itself knows no password.
CODE = """
import json
import pytest
from taskiq_flow.storage import StorageAdapterFactory

@pytest.fixture
def environment(monkeypatch, number, request):
    text = (request.config.rootpath / "environments.json").read_text()
    for name, value in json.loads(text)[number].items():
        monkeypatch.setenv(f"TASKIQ_FLOW_STORAGE_{{name}}", value)

@pytest.mark.parametrize("number", range({count}))
async def test_application(number, environment):
    adapter = StorageAdapterFactory.create_storage_adapter()
    await adapter.set("key", "value")
"""


def failing_run(inner: InnerRun, folder: Path, environments: list[dict[str, str]]) -> str:
    """Return what pytest prints of an application that fails in each of these environments."""
    (folder / "environments.json").write_text(json.dumps(environments))
    result = inner(CODE.format(count=len(environments)), "--showlocals", "--tb=long", "-rA", "-o", "log_level=DEBUG")
    result.assert_outcomes(failed=len(environments))
    return str(result.stdout) + str(result.stderr)


def test_settings_that_cannot_be_used(inner: InnerRun, pytester: pytest.Pytester) -> None:
    user = f"user:{PASSWORD}@host"
    environments = [
        {"URL": f"dynamo://{user}"},
        {"REDIS_URL": f"http://{user}"},
        {"URL": f"redis://{user}", "TYPE": "sqlite"},
        {"URL": f"redis+odd://{user}"},
        {"URL": f"rediss://{user}", "TTL_SECONDS": "-1"},
        {"URL": f"postgresql+asyncpg://{user}/db", "ASYNC_MODE": "false"},
        {"URL": f"postgresql+odd://{user}/db"},
    ]
    told = failing_run(inner, pytester.path, environments)
    assert PASSWORD not in told
    for word in (
        "'dynamo://user:***@host' has an unknown scheme",
        "'http://user:***@host'",
        "'redis://user:***@host'",
        "'redis+odd://user:***@host'",
        "ttl_seconds must be above 0",
        "async_mode=False",
        "SQLAlchemy has no dialect for 'postgresql+odd'",
    ):
        assert word in told


def test_servers_that_refuse(inner: InnerRun, pytester: pytest.Pytester, tmp_path: Path) -> None:
    with (
        redis_servers.standalone(tmp_path / "server", "requirepass another-one", password="another-one") as redis,
        socket.socket() as holder,
    ):
        holder.bind(("127.0.0.1", 0))  # nobody listens there, and nobody can begin to
        closed = f"user:{PASSWORD}@127.0.0.1:{holder.getsockname()[1]}"
        environments = [
            {"URL": f"redis://:{PASSWORD}@127.0.0.1:{redis}"},
            {"URL": f"redis://{closed}"},
            {"URL": f"redis+cluster://{closed}"},
            {"URL": f"postgresql+asyncpg://{closed}/db"},
            {"URL": f"postgresql+psycopg://{closed}/db", "ASYNC_MODE": "false"},
            {"URL": f"mysql+asyncmy://{closed}/db"},
            {"URL": f"mysql+pymysql://{closed}/db", "ASYNC_MODE": "false"},
        ]
        told = failing_run(inner, pytester.path, environments)
    assert PASSWORD not in told
    assert "another-one" not in told
    assert told.count("E           taskiq_flow.exceptions.StorageConnectionError") == len(environments)
