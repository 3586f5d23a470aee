"""Tests never meet each other, nor what others keep on the same server; and nothing of ours stays behind."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest

from taskiq_flow.pytest_plugin import StorageBackend
from tests.inner import InnerRun, on
from tests.redis_servers import PASSWORD, standalone

FIVE_TESTS = """
    import pytest

    @pytest.mark.parametrize("number", range(5))
    async def test_alone(storage_adapter, make_storage_adapter, storage_config, number):
        print("table", storage_config.storage_table)
        assert await storage_adapter.keys() == []
        await storage_adapter.set("key", number)
        await make_storage_adapter(namespace="beside").set("other", number)
        assert await storage_adapter.keys() == ["key"]
"""

DYING_TEST = """
    import os, signal

    async def test_dies(storage_adapter, storage_config):
        await storage_adapter.set("key", "left behind")
        assert await storage_adapter.get("key") == "left behind"
        print("table", storage_config.storage_table, flush=True)
        if os.environ.get("DIE"):
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_each_test_has_a_place_of_its_own(inner: InnerRun, real_servers: list[str]) -> None:
    inner(FIVE_TESTS, *real_servers).assert_outcomes(passed=25)


def test_so_it_is_with_workers(inner: InnerRun, real_servers: list[str]) -> None:
    result = inner(FIVE_TESTS, "-n", "2", *real_servers)
    result.assert_outcomes(passed=25)
    result.stdout.fnmatch_lines(["memory     5 passed*", "postgres   5 passed*"])


EACH_TEST_IN_A_FORK = """
    import os
    import pytest
    from _pytest.runner import runtestprotocol

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(item, nextitem):
        if (child := os.fork()) == 0:
            os._exit(any(report.failed for report in runtestprotocol(item, nextitem=nextitem, log=False)))
        outcome = "failed" if os.waitpid(child, 0)[1] else "passed"
        report = pytest.TestReport(item.nodeid, item.location, {}, outcome, None, "call")
        item.ihook.pytest_runtest_logreport(report=report)
        return True
"""


def test_so_it_is_where_each_test_has_a_process(inner: InnerRun, pytester: pytest.Pytester) -> None:
    """As pytest-forked and pytest-isolate do."""
    pytester.makeconftest(EACH_TEST_IN_A_FORK)
    two_tests = FIVE_TESTS.replace("range(5)", "range(2)")
    arguments = ["--storage-backends=memory,sqlite,redis", "--storage-servers=local,wheel"]
    inner(two_tests, *arguments).assert_outcomes(passed=6)


@pytest.fixture
def foreign(storage_backend: StorageBackend) -> Iterator[set[str]]:
    """Keys or tables of somebody else on the server, some with names that look almost like ours."""
    suffix = token_hex(4)
    names = {f"foreign_{suffix}", f"taskiq_flow_{suffix}", f"tfk_{suffix}_1"}
    asyncio.run(_make(storage_backend, names))
    yield names
    assert names <= asyncio.run(_names(storage_backend)), "something of somebody else is gone"
    asyncio.run(_remove(storage_backend, names))


@pytest.mark.storage_backends("real")
@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["plain", "xdist"])
def test_foreign_things_stay_and_ours_go(
    inner: InnerRun, storage_backend: StorageBackend, foreign: set[str], workers: list[str]
) -> None:
    result = inner(FIVE_TESTS, "-rP", *on(storage_backend.name, storage_backend.url), *workers)
    result.assert_outcomes(passed=5)
    (run,) = set(re.findall(r"table (tfk_\w+)", result.stdout.str()))
    left = {name for name in asyncio.run(_names(storage_backend)) if name.startswith(run)}
    assert left == set()


@pytest.mark.storage_backends("real")
def test_what_a_killed_run_left_goes_with_the_next(
    inner: InnerRun, storage_backend: StorageBackend, foreign: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["-s", *on(storage_backend.name, storage_backend.url)]
    monkeypatch.setenv("DIE", "yes")
    killed = inner(DYING_TEST, *arguments)
    (run,) = re.findall(r"table (tfk_\w+)", killed.stdout.str())
    monkeypatch.delenv("DIE")
    inner(DYING_TEST, *arguments).assert_outcomes(passed=1)
    left = {name for name in asyncio.run(_names(storage_backend)) if name.startswith(run)}
    assert left == set()


LAST_TEST_OF_A_SERVER = """
    import pytest
    import redis

    async def test_stores(storage_adapter, storage_config):
        await storage_adapter.set("key", 1)
        print("table", storage_config.storage_table)

    @pytest.mark.storage_backends("redis")
    def test_dies(storage_backend):
        with redis.Redis.from_url(storage_backend.url) as client:
            client.shutdown(nosave=True)
"""


@pytest.mark.storage_backends("postgres")
def test_a_server_that_died_is_named_and_the_others_are_cleared(
    inner: InnerRun, storage_backend: StorageBackend, tmp_path: Path
) -> None:
    with standalone(tmp_path, f"requirepass {PASSWORD}", password=PASSWORD) as port:
        address = f"127.0.0.1:{port}/0"
        urls = {"redis": f"redis://:{PASSWORD}@{address}", "postgres": storage_backend.url}
        given = [f"--storage-{kind}-url={url}" for kind, url in urls.items()]
        result = inner(LAST_TEST_OF_A_SERVER, "-rP", "--storage-backends=redis,postgres", *given)
    result.assert_outcomes(passed=3)
    assert result.ret == 0
    (run,) = set(re.findall(r"table (tfk_\w+)", result.stdout.str()))
    assert {name for name in asyncio.run(_names(storage_backend)) if name.startswith(run)} == set()
    (told,) = result.stderr.lines
    assert re.fullmatch(
        rf"taskiq-flow: redis at redis://:\*\*\*@{address} could not be cleaned: .+; "
        "the next run there removes what is left",
        told,
    )


async def _names(backend: StorageBackend) -> set[str]:
    """Return the names of all keys or tables on the server."""
    if backend.url.startswith("redis"):
        from redis.asyncio import Redis

        async with Redis.from_url(backend.url) as client:
            return {name.decode() async for name in client.scan_iter(count=1000)}
    tables = "SHOW TABLES" if backend.name == "mysql" else "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    return set(await _execute(backend, tables))


async def _make(backend: StorageBackend, names: set[str]) -> None:
    if backend.url.startswith("redis"):
        from redis.asyncio import Redis

        async with Redis.from_url(backend.url) as client:
            await client.mset(dict.fromkeys(names, "theirs"))
    else:
        await _execute(backend, *[f"CREATE TABLE {name} (id int)" for name in names])


async def _remove(backend: StorageBackend, names: set[str]) -> None:
    if backend.url.startswith("redis"):
        from redis.asyncio import Redis

        async with Redis.from_url(backend.url) as client:
            await client.delete(*names)
    else:
        await _execute(backend, *[f"DROP TABLE {name}" for name in names])


async def _execute(backend: StorageBackend, *statements: str) -> list[str]:
    """Run SQL statements and return the first column of the last one's rows."""
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(backend.url, isolation_level="AUTOCOMMIT")
    rows: list[str] = []
    async with engine.connect() as connection:
        for statement in statements:
            result = await connection.execute(text(statement))
            rows = [row[0] for row in result] if result.returns_rows else []
    await engine.dispose()
    return rows
