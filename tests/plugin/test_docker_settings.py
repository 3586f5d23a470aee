"""Where the kit looks for a Docker engine: where testcontainers does; else the next source of servers is tried."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from taskiq_flow.pytest_plugin.servers import ServerPool, ServerSettings
from taskiq_flow.pytest_plugin.stores import server_kind


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without any settings of Docker's."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".docker").mkdir()
    return tmp_path


@pytest.fixture
def engine() -> Iterator[str]:
    """An engine that answers on the loopback address, as host and port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield from _serving(listening)


def _serving(listening: socket.socket) -> Iterator[str]:
    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nOK")

    threading.Thread(target=serve, daemon=True).start()
    host, port, *_ = listening.getsockname()
    yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plan() -> str:
    """Return where a Redis server would come from, if Docker were the only source."""
    return ServerPool(
        Path(), "", os.getpid(), {"redis": ServerSettings(server_kind("redis"), sources=("docker",))}
    ).plan("redis")


def context(home: Path, name: str, host: str) -> None:
    folder = home / ".docker" / "contexts" / "meta" / sha256(name.encode()).hexdigest()
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host}}}))


def test_the_engine_of_the_variable_is_found(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://{engine}")
    assert plan() == "docker redis:7-alpine"


def test_an_engine_is_found_by_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listening:
        for address in _serving(listening):
            monkeypatch.setenv("DOCKER_HOST", f"tcp://{address}")
            assert plan() == "docker redis:7-alpine"


def test_testcontainers_properties_take_precedence_over_the_variable(
    engine: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    (home / ".testcontainers.properties").write_text(f"# Desktop\ndocker.client.strategy=x\ntc.host = tcp://{engine}\n")
    assert plan() == "docker redis:7-alpine"


def test_the_engine_of_the_current_context_is_found(engine: str, home: Path) -> None:
    context(home, "rootless", f"tcp://{engine}")
    (home / ".docker" / "config.json").write_text('{"currentContext": "rootless"}')
    assert plan() == "docker redis:7-alpine"


def test_the_context_of_the_variable_takes_precedence_over_the_current_one(
    engine: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context(home, "mine", f"tcp://{engine}")
    monkeypatch.setenv("DOCKER_CONTEXT", "mine")
    (home / ".docker" / "config.json").write_text('{"currentContext": "other"}')
    assert plan() == "docker redis:7-alpine"


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("tcp://127.0.0.1:$PORT", "'tcp://127.0.0.1:$PORT' is not the address of a Docker engine"),
        ("tcp://127.0.0.1:99999", "is not the address of a Docker engine"),
        ("127.0.0.1:2375", "'127.0.0.1:2375' is not the address of a Docker engine (its scheme is "),
        ("tcp://[::1", "is not the address of a Docker engine"),
        ("tcp://127.0.0.1:1", "no Docker engine answers at tcp://127.0.0.1:1 (Connection refused)"),
    ],
)
def test_an_address_that_cannot_be_used_is_no_docker(host: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    assert plan().startswith("unavailable: docker: ")
    assert reason in plan()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "has no object where 'currentContext' should be"),
        ('{"currentContext": 3}', "has 3 for 'currentContext', which is not a text"),
        ("{", "Docker's settings cannot be read: "),
        ('{"currentContext": "gone"}', "the context 'gone' says no host"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_no_docker(text: str, reason: str, home: Path) -> None:
    (home / ".docker" / "config.json").write_text(text)
    assert plan().startswith("unavailable: docker: Docker's settings cannot be read: ")
    assert reason in plan()


@pytest.mark.parametrize("text", ['{"currentContext": null}', '{"currentContext": ""}', "{}"])
def test_a_configuration_without_a_context_is_the_default(text: str, home: Path) -> None:
    (home / ".docker" / "config.json").write_text(text)
    assert "cannot be read" not in plan()
