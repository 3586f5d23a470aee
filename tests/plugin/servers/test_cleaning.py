"""Nothing outlives a run."""

import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from taskiq_flow.pytest_plugin.servers import stale
from tests.plugin.servers.runs import (
    IMAGES,
    Runs,
    Theirs,
    containers,
    gone,
    member,
    need,
    need_image,
    posix_only,
    processes,
    records,
    served,
    until,
    use,
)

pytestmark = posix_only


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
    runs.pool("redis", sources=("wheel",)).get("redis")  # another run removes what is stale
    assert use(server.url) == "hello", "the tests of a living run go on"
    pool.close()
    assert records(run_id) == {}
    assert gone(server.url)


@pytest.mark.parametrize(("source", "lost"), [("wheel", False), ("docker", False), ("docker", True)])
def test_the_next_run_cleans_what_a_killed_run_left_and_nothing_else(runs: Runs, source: str, lost: bool) -> None:
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
