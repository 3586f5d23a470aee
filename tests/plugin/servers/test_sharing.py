"""One server for all processes of a run."""

import os

from freezegun import freeze_time

from tests.plugin.servers.runs import Runs, gone, member, posix_only, records, served, until, use

pytestmark = posix_only


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
