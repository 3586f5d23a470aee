"""Running pytest inside pytest, the way a user runs it."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# pytester makes Python forget what was imported during a test, and drivers do not survive being imported a second time.
import aiosqlite  # noqa: F401
import asyncmy  # noqa: F401
import asyncpg  # noqa: F401
import docker  # noqa: F401
import fakeredis  # noqa: F401
import freezegun  # noqa: F401
import psycopg  # noqa: F401
import pymysql  # noqa: F401
import pytest
import taskiq_redis  # noqa: F401

import taskiq_flow.storage.redis
import taskiq_flow.storage.sql  # noqa: F401
from taskiq_flow.pytest_plugin.stores import built_in
from tests.fork_server import ForkServer, interpreter_settings
from tests.inner import InnerRun, RunPytest

# Where the whole run was started with Ctrl-C ignored, as in the background, its inner runs must not inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, unless it is asked for."""
    if "long" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("long")]
        if left_out:
            items[:] = [item for item in items if item not in left_out]
            config.hook.pytest_deselected(items=left_out)


COMPANIONS = (
    "freezer",
    "hypothesispytest",
    "inline_snapshot",
    "platformdirs",
    "pytest-bdd",
    "pytest-datadir",
    "pytest_cov",
    "regressions",
    "rerunfailures",
    "syrupy",
    "timeout",
    "valkey",
)
"""Plugins beside which the kit is tested in ``plugin/test_companions.py`` only."""

SERVERS = [kind.name for kind in built_in() if kind.server is not None]

SETTINGS = """
[pytest]
filterwarnings = error
{more}
"""
PYTEST_ASYNCIO = """
asyncio_mode = {mode}
asyncio_default_fixture_loop_scope = function
"""


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no setting come from the environment that the tests run in, but for those of the kit itself."""
    for name in os.environ:
        if name.upper().startswith("TASKIQ_FLOW_") and not name.upper().startswith("TASKIQ_FLOW_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture
def run_pytest(
    pytester: pytest.Pytester, fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory
) -> RunPytest:
    """Run pytest in a process of its own, as ``pytester.runpytest_subprocess`` does, at a fraction of the cost."""

    def run(*arguments: str) -> pytest.RunResult:
        if interpreter_settings(os.environ) != interpreter_settings(fork_server.environment):
            return pytester.runpytest_subprocess(*arguments)
        folder = tmp_path_factory.mktemp("inner")
        out, err = folder / "out", folder / "err"
        # What the fork server has loaded cannot be rewritten for better messages; it is none of ours.
        settings = [f"--basetemp={folder / 'temp'}", "-Wignore::pytest.PytestAssertRewriteWarning"]
        begun = time.perf_counter()
        status = fork_server.run([*settings, *arguments], Path.cwd(), os.environ, out, err)
        result = pytest.RunResult(status, _lines(out), _lines(err), time.perf_counter() - begun)
        print(*result.outlines, sep="\n")
        print(*result.errlines, sep="\n", file=sys.stderr)
        return result

    return run


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def inner(pytester: pytest.Pytester, run_pytest: RunPytest, monkeypatch: pytest.MonkeyPatch) -> InnerRun:
    """Run one test file in a pytest of its own, which knows nothing of this one's settings."""
    for name in ("SERVERS", *(f"{kind.upper()}_URL" for kind in SERVERS)):
        monkeypatch.delenv(f"TASKIQ_FLOW_TEST_{name}", raising=False)
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)

    def run(
        code: str,
        *arguments: str,
        ini: str = "",
        asyncio_mode: str = "auto",
        companions: bool = False,
        shuffled: bool = False,
    ) -> pytest.RunResult:
        more = PYTEST_ASYNCIO.format(mode=asyncio_mode) if asyncio_mode else ""
        pytester.makeini(SETTINGS.format(more=more + ini))
        pytester.makepyfile(test_inner=code)
        # Loading those that are not needed would take as long as all the rest of such a run.
        left_out = {"cacheprovider", *(() if companions else COMPANIONS)}
        if not shuffled:
            left_out.add("randomly")
        if "-n" not in arguments and not companions:
            left_out |= {"xdist", "xdist.looponfail"}
        return run_pytest(*(f"-pno:{name}" for name in sorted(left_out)), *arguments)

    return run


@pytest.fixture(scope="session")
def real_servers(pytestconfig: pytest.Config) -> list[str]:
    """Return the arguments with which an inner run uses the real servers of this run instead of starting its own."""
    from taskiq_flow.pytest_plugin.session import stores

    pool = stores(pytestconfig).pool
    return [f"--storage-{kind}-url={pool.get(kind).url}" for kind in ("redis", "postgres")] + ["--storage-require=all"]
