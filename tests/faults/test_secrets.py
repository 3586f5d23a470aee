"""What pytest prints of a failed test, with the locals of every frame and every log line: never a password."""

import socket

import pytest

from tests.faults.servers import PrivateServer
from tests.faults.storages import IN_THREADS, SERVERS, on
from tests.inner import InnerRun

OTHER = "0therp4ssword"
CODE = """
import logging
import os

import psutil
import pytest

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.storage.factory import StorageAdapterFactory


@pytest.fixture
def adapter(case, monkeypatch):
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_URL", os.environ[f"URL_{case}"])
    config = TaskiqFlowConfig(storage_connect_timeout=0.5, storage_operation_timeout=0.5)
    logging.getLogger("user").warning("%r", config)
    return StorageAdapterFactory.create_storage_adapter(config)


@pytest.fixture
def pause():
    server = psutil.Process(int(os.environ["SERVER"]))
    paused = []

    def pause():
        paused.extend([server, *server.children(recursive=True)])
        for process in paused:
            process.suspend()

    yield pause
    for process in paused:
        process.resume()


@pytest.mark.parametrize("case", ["REFUSES", "SILENT", "WRONG"])
async def test_first_call_shows_no_password(case, adapter):
    logging.getLogger("user").warning("%r", adapter)
    try:
        await adapter.set("key", "value")
    except Exception:
        logging.getLogger("user").exception("it failed")
    await adapter.get("key")


@pytest.mark.parametrize("case", ["RIGHT"])
async def test_later_call_shows_no_password(case, adapter, pause):
    await adapter.set("key", "value")
    pause()
    await adapter.get("key")
"""


@on(*SERVERS, *IN_THREADS)
def test_pytest_prints_no_password(
    scheme: str, url: str, server: PrivateServer, inner: InnerRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_ASYNC_MODE", str(scheme not in IN_THREADS))
    # psycopg waits for a server that hangs as long as it does, and the inner run's event loop for psycopg.
    cases, failures = ("first", 3) if scheme == "postgresql+psycopg" else ("first or later", 4)
    with socket.create_server(("127.0.0.1", 0)) as refuses:
        monkeypatch.setenv("URL_REFUSES", url.replace(server.address, address_of(refuses)))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("URL_SILENT", url.replace(server.address, address_of(silent)))
        monkeypatch.setenv("URL_WRONG", url.replace(server.password, OTHER))
        monkeypatch.setenv("URL_RIGHT", url)
        monkeypatch.setenv("SERVER", str(server.pid))
        result = inner(CODE, "-k", cases, "--showlocals", "--tb=long", "--log-level=DEBUG", "-rA", "-p", "no:xdist")
    result.assert_outcomes(failed=failures, deselected=4 - failures)
    shown = result.stdout.str() + result.stderr.str()
    assert shown.count("StorageConnectionError") >= failures
    assert server.address in shown
    assert "***" in shown
    for secret in (server.password, OTHER):
        assert secret not in shown


def address_of(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"
