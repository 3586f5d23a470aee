"""The backends ``mysql`` and ``valkey``: chosen by name, found or started like the others, and left clean."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from taskiq_flow.pytest_plugin import StorageBackend
from taskiq_flow.pytest_plugin.servers import Server, ServerUnavailable
from taskiq_flow.pytest_plugin.servers.model import SourceFailed
from taskiq_flow.pytest_plugin.servers.programs import find_wheel
from taskiq_flow.pytest_plugin.stores import server_kind
from tests.inner import InnerRun, on
from tests.plugin.servers.runs import IMAGES, Runs, as_root, containers, gone, need, processes, records, use

# The tests of isolation run here once more, on a MySQL that this module starts.
from tests.plugin.test_isolation import (  # noqa: F401
    foreign,
    test_foreign_things_stay_and_ours_go,
    test_what_a_killed_run_left_goes_with_the_next,
)

ONE_TEST = """
async def test_one(storage_adapter):
    await storage_adapter.set("key", 1)
    assert await storage_adapter.get("key") == 1
"""
SOURCES = {"mysql": "local", "valkey": "wheel"}

Started = Callable[[str], Server]


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path)
    yield made
    for pool in made.pools:
        pool.close()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Return one server of a kind for all tests of this module."""
    made = Runs(tmp_path_factory.mktemp("servers"))
    run = made.folder()
    pools = {kind: made.pool(kind, run=run, sources=(source,)) for kind, source in SOURCES.items()}

    def server(kind: str) -> Server:
        need(kind, SOURCES[kind])
        return pools[kind].get(kind)

    yield server
    for pool in pools.values():
        pool.close()


@pytest.fixture
def storage_backend(started: Started) -> StorageBackend:
    server = started("mysql")
    return StorageBackend(server.kind, True, server.detail, server.version, server.url)


@pytest.fixture
def valkey_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have the wheel's program where a user's would be, unless there is one."""
    if not shutil.which("valkey-server"):
        need("valkey", "wheel")
        (tmp_path / "valkey-server").symlink_to(find_wheel(server_kind("valkey")).path)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


async def ask(url: str, question: str) -> Any:
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        return (await connection.execute(text(question))).scalar_one()


# --- which run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["memory", "fakeredis", "sqlite", "redis", "postgres"]),
        (["--storage-backends=all"], ["memory", "fakeredis", "sqlite", "redis", "postgres", "valkey", "mysql"]),
        (["--storage-backends=real"], ["redis", "postgres", "valkey", "mysql"]),
        (["--storage-backends=default,mysql"], ["memory", "fakeredis", "sqlite", "redis", "postgres", "mysql"]),
    ],
)
def test_they_run_where_they_are_asked_for(inner: InnerRun, arguments: list[str], names: list[str]) -> None:
    result = inner(ONE_TEST, "--collect-only", "-q", *arguments)
    assert re.findall(r"::test_one\[(\w+)\]", result.stdout.str()) == names


def test_a_required_group_means_those_of_it_that_run(inner: InnerRun) -> None:
    # No source of servers: the real ones of this run, redis and postgres, cannot run, and that is a failure.
    inner(ONE_TEST, "--storage-servers=url", "--storage-require=real").assert_outcomes(passed=3, errors=2)


def test_a_required_group_of_which_nothing_runs_is_a_usage_error(inner: InnerRun) -> None:
    result = inner(ONE_TEST, "--storage-backends=fakes", "--storage-require=real")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--storage-require names real, which --storage-backends leaves out*"])


@pytest.mark.parametrize("kind", SOURCES)
def test_a_server_given_by_url_is_used(inner: InnerRun, started: Started, kind: str) -> None:
    url = re.sub(r"^[a-z+]+", kind, started(kind).url)  # as a user writes it: mysql://…, valkey://…
    result = inner(ONE_TEST, f"--storage-backends={kind}", f"--storage-{kind}-url={url}", f"--storage-require={kind}")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"storage servers: {kind} (url {kind}://*:[*][*][*]@*", f"{kind} * 1 passed in *"])
    assert str(urlsplit(url).password) not in result.stdout.str()


@pytest.mark.parametrize("kind", SOURCES)
def test_their_faults_are_real(inner: InnerRun, started: Started, kind: str) -> None:
    code = """
        import pytest
        from taskiq_flow.exceptions import SerializationError

        async def test_one(storage_adapter, storage_faults):
            await storage_adapter.set("key", 1)
            assert storage_faults.disconnect() == 1
            assert await storage_adapter.get("key") == 1
            storage_faults.pause()
            with pytest.raises(ConnectionError, match="no answer within 2 s"):
                await storage_adapter.get("key")
            storage_faults.resume()
            storage_faults.corrupt("key")
            with pytest.raises(SerializationError):
                await storage_adapter.get("key")
    """
    inner(code, *on(kind, started(kind).url)).assert_outcomes(passed=1)


def test_a_run_that_stored_nothing_leaves_the_driver_nothing_to_say(inner: InnerRun, started: Started) -> None:
    result = inner("def test_one(storage_adapter): pass", *on("mysql", started("mysql").url))
    result.assert_outcomes(passed=1)
    assert result.stderr.str() == ""


# --- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "given", "used"),
    [
        ("mysql", "mysql://me:pw@h:3307/db", "mysql+asyncmy://me:pw@h:3307/db"),
        ("mysql", "mariadb://me@h/db?charset=utf8mb4", "mysql+asyncmy://me@h/db?charset=utf8mb4"),
        ("mysql", "mysql+asyncmy://h/db", "mysql+asyncmy://h/db"),
        ("mysql", "mariadb+asyncmy://h/db", "mysql+asyncmy://h/db"),
        ("valkey", "valkey://:pw@h:6380/3", "redis://:pw@h:6380/3"),
        ("valkey", "valkeys://h", "rediss://h"),
        ("valkey", "redis://valkey.example/1", "redis://valkey.example/1"),
        ("valkey", "unix:///run/valkey.sock", "unix:///run/valkey.sock"),
    ],
)
def test_urls_are_normalised(kind: str, given: str, used: str) -> None:
    assert server_kind(kind).normalise(given) == used


@pytest.mark.parametrize(
    ("kind", "given", "reason"),
    [
        ("mysql", "mysql://me:hush@h:3306", "names no database"),
        ("mysql", "mysql://me:hush@h/", "names no database"),
        ("mysql", "mysql+pymysql://me:hush@h/db", "mysql://"),
        ("mysql", "postgresql://me:hush@h/db", "mariadb://"),
        ("valkey", "mysql://me:hush@h/db", "valkey://"),
    ],
)
def test_other_urls_are_refused(runs: Runs, kind: str, given: str, reason: str) -> None:
    with pytest.raises(ServerUnavailable, match=re.escape(reason)) as refused:
        runs.pool(kind, url=given, url_origin="--the-option").get(kind)
    assert "hush" not in str(refused.value)


def test_a_wrong_password_is_not_in_the_message(runs: Runs, started: Started) -> None:
    right = started("mysql").url
    wrong = right.replace(str(urlsplit(right).password), "hush%21")
    with pytest.raises(ServerUnavailable, match="Access denied") as refused:
        runs.pool("mysql", url=wrong).get("mysql")
    assert "hush" not in str(refused.value)


# --- servers ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("valkey_on_path")
@pytest.mark.parametrize(
    ("kind", "source"),
    [("mysql", "docker"), ("mysql", "local"), ("valkey", "docker"), ("valkey", "local"), ("valkey", "wheel")],
)
def test_each_source_gives_a_server_and_close_leaves_nothing(runs: Runs, kind: str, source: str) -> None:
    need(kind, source)
    if source == "docker" and not IMAGES[kind]:
        pytest.skip(f"TASKIQ_FLOW_{kind.upper()}_IMAGE names no image, and fetching one takes minutes")
    run = run_dir, run_id = runs.folder()
    pool = runs.pool(kind, run=run, sources=(source,))

    server = pool.get(kind)

    assert (server.kind, server.source) == (kind, source)
    assert server.detail.startswith(source)
    assert re.match(r"(Valkey|MySQL|MariaDB) \d+\.\d+", server.version)
    assert use(server.url) == "hello"
    kept = processes(run_id)
    assert len(kept) == (1 if source == "docker" else 2)

    pool.close()

    assert not any(process.alive() for process in kept)
    assert records(run_id) == {}
    assert not run_dir.exists()
    assert gone(server.url)
    if source == "docker":
        assert containers(run_id) == []


@pytest.mark.parametrize("kind", SOURCES)
def test_no_command_line_shows_the_password(started: Started, kind: str) -> None:
    password = urlsplit(started(kind).url).password
    assert password
    for process in psutil.process_iter(["cmdline"]):
        assert password not in " ".join(process.info["cmdline"] or [])


@pytest.mark.parametrize("user", ["root", "mysql", "taskiq_flow", "nobody"])
async def test_nobody_is_let_in_without_the_password(started: Started, user: str) -> None:
    parts = urlsplit(started("mysql").url)
    with pytest.raises(Exception, match=r"Access denied|is locked|not allowed"):
        await ask(f"mysql+asyncmy://{user}@127.0.0.1:{parts.port}/mysql", "SELECT 1")


async def test_the_server_is_on_loopback_and_apart_from_the_machines_own(started: Started) -> None:
    url = started("mysql").url
    assert await ask(url, "SELECT @@bind_address") == "127.0.0.1"
    assert not os.path.isabs(await ask(url, "SELECT @@socket")), "it lies in the data folder"
    assert "taskiq-flow-mysql-" in await ask(url, "SELECT @@datadir")


@as_root
def test_for_root_it_runs_as_another_user(runs: Runs) -> None:
    need("mysql", "local")
    run_dir, run_id = runs.folder()
    runs.pool("mysql", run=(run_dir, run_id), sources=("local",)).get("mysql")
    (record,) = records(run_id).values()
    assert record.server
    assert psutil.Process(record.server.pid).uids().real != 0


def test_without_its_installer_mariadb_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceFailed, match="mariadbd is there, but not mariadb-install-db"):
        server_kind("mysql").setup(tmp_path / "sbin" / "mariadbd", tmp_path / "data", "hush")


def test_mysqls_own_program_makes_its_tables_itself(tmp_path: Path) -> None:
    launch = server_kind("mysql").setup(tmp_path / "mysqld", tmp_path / "data", "hush")
    assert launch
    assert launch.command[0] == str(tmp_path / "mysqld")
    assert "--initialize-insecure" in launch.command


def test_no_wheel_brings_mysql(runs: Runs) -> None:
    pool = runs.pool("mysql", sources=("wheel",))
    assert pool.plan("mysql") == "unavailable: wheel: no wheel brings its program"


def test_valkey_takes_no_redis_program(runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    redis = tmp_path / "redis-server"
    redis.write_text("#!/bin/sh\n")
    redis.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runs.pool("redis", sources=("local",)).plan("redis") == "local redis-server"
    assert "no valkey-server on PATH" in runs.pool("valkey", sources=("local",)).plan("valkey")
