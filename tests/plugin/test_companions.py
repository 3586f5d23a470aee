"""Beside pytest's companions, and with its own options, the plugin does what their users expect."""

import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from taskiq_flow.pytest_plugin.report.matrix import Matrix
from tests.inner import InnerRun

FAKES = "--storage-backends=memory,sqlite"
REDIS = ["--storage-backends=memory,redis", "--storage-servers=wheel", "--storage-require=redis"]


@pytest.fixture
def inner(inner: InnerRun) -> InnerRun:
    """Run with all of them."""
    return partial(inner, companions=True)


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for temporary files of inner runs: what they leave is there, and nothing of others."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give inner runs Python's development mode, and make every warning an error."""
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "error")


def told(result: pytest.RunResult) -> dict[str, str]:
    """Return what a run says of each backend."""
    return dict(re.findall(r"^(memory|sqlite|redis|postgres) +(\d.*) in [\d.]+s", result.stdout.str(), re.MULTILINE))


def passed(result: pytest.RunResult) -> list[str]:
    """Return the tests that passed, in the order in which they did, of a run with ``-v``."""
    return re.findall(r"^\S+\.py::(\S+) PASSED", result.stdout.str(), re.MULTILINE)


def goes(folder: Path) -> bool:
    """Say whether all that is in the folder goes: who ends the servers of a killed run needs a moment."""
    end = time.monotonic() + 10
    while time.monotonic() < end and list(folder.iterdir()):
        time.sleep(0.05)
    return not list(folder.iterdir())


# --- pytest-rerunfailures, and all at once ----------------------------------------------------------------------------

SHOP = """
async def stock(storage, number):
    await storage.set("stock", number)
    return await storage.get("stock")

def add(number):
    return number + 1

def never_called():
    return 0
"""

FLAKY = """
    import collections, datetime

    import pytest
    import shop

    attempts, places = collections.Counter(), []

    @pytest.fixture
    def attempt(request):
        attempts[request.node.nodeid] += 1
        return attempts[request.node.nodeid]

    async def test_call(attempt, storage_adapter, make_storage_adapter, storage_config, frozen_clock):
        assert storage_config.storage_namespace not in places
        places.append(storage_config.storage_namespace)
        for storage in (storage_adapter, make_storage_adapter(namespace="beside")):
            assert await storage.keys() == []
            assert await shop.stock(storage, attempt) == attempt
        assert abs(frozen_clock.now() - datetime.datetime.now(datetime.timezone.utc)) < datetime.timedelta(minutes=1)
        frozen_clock.tick(24 * 60 * 60)
        assert attempt == 3

    @pytest.fixture
    async def stored(attempt, storage_adapter):
        assert await storage_adapter.keys() == []
        await storage_adapter.set("key", 1)
        assert attempt > 1
        yield
        assert await storage_adapter.delete("key")

    async def test_setup(stored): ...

    async def test_lost_on_the_first_attempt(attempt, flow_broker):
        @flow_broker.task(task_name="task")
        def task():
            return object() if attempt == 1 else shop.add(attempt)

        await task.kiq()

    async def test_never(storage_adapter):
        raise ValueError("never")
"""


@pytest.mark.parametrize(
    "others",
    [
        pytest.param(["--storage-backends=memory"], id="alone"),
        pytest.param(
            [
                *[*REDIS, "-n2", "--randomly-seed=7", "--timeout=60", "--timeout-method=thread"],
                *["--cov=shop", "--cov-report=term-missing", "--cov-config=coverage.ini"],
            ],
            id="all at once",
        ),
    ],
)
def test_each_attempt_begins_anew_and_the_last_one_counts(
    inner: InnerRun, pytester: pytest.Pytester, temporary: Path, strict: None, others: list[str]
) -> None:
    pytester.makepyfile(shop=SHOP)
    pytester.makefile(".ini", coverage="[run]\npatch = subprocess\nparallel = true\n")
    result = inner(FLAKY, "--reruns=2", "--junitxml=junit.xml", *others, shuffled=True)
    assert set(told(result).values()) == {"3 passed, 1 failed"}
    assert result.parseoutcomes()["failed"] == len(told(result))
    assert "rning" not in result.stderr.str() + result.stdout.str()
    names = Counter[str]()
    for case in ET.parse(pytester.path / "junit.xml").iter("testcase"):
        assert [each.get("name") for each in case.iter("property")] == ["storage_backend", "storage_server"]
        names[str(case.get("name"))] += 1
    assert len(names) == 4 * len(told(result))
    if "--cov=shop" in others:
        result.stdout.re_match_lines([r"shop\.py +\d+ +1 .* 9$"])  # but for `never_called`
        # The processes that hold servers end after all is put together: what they measured would stay for ever.
        assert [file.name for file in pytester.path.glob(".coverage*")] == [".coverage"]
    assert goes(temporary)


# --- pytest-randomly --------------------------------------------------------------------------------------------------

IN_ANY_ORDER = """
    import pytest

    @pytest.mark.parametrize("number", [1, 2])
    class TestShop:
        async def test_alone(self, number, storage_adapter, frozen_clock):
            assert await storage_adapter.keys() == []
            await storage_adapter.set("key", number, ttl_seconds=1)
            frozen_clock.tick(1)

        async def test_alone_too(self, storage_adapter, number):
            assert await storage_adapter.keys() == []
            await storage_adapter.set("other", number)

    def test_sync(storage_adapter): ...
"""


def test_any_order_gives_the_same(inner: InnerRun) -> None:
    result = inner(IN_ANY_ORDER, "-v", FAKES, "--randomly-seed=1", shuffled=True)
    names = [f"TestShop::{name}" for name in ("test_alone", "test_alone_too")]
    ids = [f"{name}[{backend}-{number}]" for name in names for backend in ("memory", "sqlite") for number in (1, 2)]
    ids += ["test_sync[memory]", "test_sync[sqlite]"]
    assert passed(result) != ids
    assert sorted(passed(result)) == ids
    assert told(result) == {"memory": "5 passed", "sqlite": "5 passed"}


# --- pytest-xdist -----------------------------------------------------------------------------------------------------

CRASHING = """
    import os
    from pathlib import Path

    import pytest

    notes = Path(__file__).with_name("notes")

    @pytest.mark.parametrize("number", range(3))
    async def test_it(storage_adapter, storage_backend, storage_config, number):
        with notes.open("a") as file:
            print(storage_backend.name, storage_backend.url, storage_config.storage_namespace, file=file)
        assert await storage_adapter.keys() == []
        await storage_adapter.set("key", number)
        if number == 1:
            os._exit(1)
"""


def servers_of_each_kind(folder: Path) -> Counter[str]:
    """Return how many servers of each kind tests have had, as they noted; each had a namespace of its own there."""
    notes = [line.split() for line in (folder / "notes").read_text().splitlines()]
    places = [place for _, _, place in notes]
    assert len({*places}) == len(places)
    return Counter(name for name, _ in {(name, url) for name, url, _ in notes})


@pytest.mark.long
def test_a_test_that_crashes_its_worker_has_failed(inner: InnerRun, pytester: pytest.Pytester, temporary: Path) -> None:
    result = inner(CRASHING, "-n2", *REDIS, "-k", "redis", "--storage-report=report.json")
    result.assert_outcomes(passed=2, failed=1)
    assert told(result) == {"redis": "2 passed, 1 failed"}
    crashed = Matrix.read(pytester.path / "report.json").tests["test_inner.py::test_it[1]"]
    assert re.match(r"worker 'gw\d' crashed while running", crashed["redis"].reason)
    assert servers_of_each_kind(pytester.path) == {"redis": 1}
    assert goes(temporary)


@pytest.mark.long
@pytest.mark.parametrize("schedule", ["load", "loadscope", "loadfile", "worksteal"])
@pytest.mark.parametrize("crash", [False, True], ids=["sound", "crash"])
def test_workers_share_one_server_of_a_kind(
    inner: InnerRun, pytester: pytest.Pytester, temporary: Path, schedule: str, crash: bool
) -> None:
    # With these two pytest-xdist gives the test that crashed a worker to the next one, and so on.
    restarts = ["--max-worker-restart=2"] if schedule in {"loadscope", "loadfile"} else []
    code = CRASHING if crash else CRASHING.replace("number == 1", "number == 9")
    result = inner(code, "-n4", f"--dist={schedule}", "--storage-require=all", *restarts)
    if not restarts or not crash:
        result.assert_outcomes(passed=10 if crash else 15, failed=5 if crash else 0)
    else:
        assert result.parseoutcomes()["failed"] >= 1
    servers = servers_of_each_kind(pytester.path)
    assert {servers["redis"], servers["postgres"]} <= {0, 1}
    if not crash:
        assert servers["redis"] == servers["postgres"] == 1
    assert goes(temporary)


# --- pytest-timeout ---------------------------------------------------------------------------------------------------

HANGING = """
    import asyncio, time

    import pytest

    async def test_before(storage_adapter):
        await storage_adapter.set("key", 1)

    @pytest.mark.timeout(0.3, func_only=True)
    async def test_hangs(storage_adapter):
        await storage_adapter.set("key", 1)
        await asyncio.sleep(60)

    @pytest.fixture
    def hanging_server(monkeypatch):
        from taskiq_flow.pytest_plugin.stores._manager import StoreManager

        monkeypatch.setattr(StoreManager, "open", lambda *_: time.sleep(60))

    @pytest.mark.timeout(0.3)
    def test_start(hanging_server, storage_adapter): ...

    async def test_after(storage_adapter):
        assert await storage_adapter.keys() == []
"""


@pytest.mark.long
def test_a_test_that_hangs_is_reported_and_others_go_on(inner: InnerRun, strict: None, temporary: Path) -> None:
    result = inner(HANGING, "--storage-backends=sqlite", "--timeout-method=signal")
    result.assert_outcomes(passed=2, failed=1, errors=1)
    assert told(result) == {"sqlite": "2 passed, 1 failed, 1 error"}
    assert goes(temporary)


def test_a_run_that_a_time_out_kills_leaves_no_server(inner: InnerRun, temporary: Path) -> None:
    # inline-snapshot would leave a folder of its own.
    result = inner(HANGING, *REDIS, "-k", "redis", "--timeout-method=thread", "-pno:inline_snapshot")
    assert " Timeout " in result.stdout.str() + result.stderr.str()
    assert "passed" not in result.stdout.str()
    assert goes(temporary)


# --- pytest's own options ---------------------------------------------------------------------------------------------

NO_SERVER = """
    import pathlib, sys

    def tell(event, arguments):
        if event == "subprocess.Popen" and "supervisor" in str(arguments):
            pathlib.Path("started").touch()

    sys.addaudithook(tell)
"""
EVERY_FIXTURE = "def test_it(flow_broker, cache_adapter, storage_backend, frozen_clock): ..."


def test_what_runs_no_test_starts_no_server(inner: InnerRun, pytester: pytest.Pytester, temporary: Path) -> None:
    pytester.makeconftest(NO_SERVER)
    planned = inner(EVERY_FIXTURE, "--setup-plan")
    planned.stdout.fnmatch_lines(["*SETUP    F _isolated_store*", "*test_it[[]postgres]*", "*no tests ran*"])
    collected = inner(EVERY_FIXTURE, "--collect-only", "-q")
    backends = ["memory", "fakeredis", "sqlite", "redis", "postgres"]
    assert collected.outlines[:5] == [f"test_inner.py::test_it[{name}]" for name in backends]
    for result in (planned, collected):
        assert result.ret == 0
        assert "storage backends ===" not in result.stdout.str()
    skipped = inner(f"import pytest\n\n@pytest.mark.skip\n{EVERY_FIXTURE}")
    skipped.assert_outcomes(skipped=5)
    assert not list(temporary.iterdir())
    assert not (pytester.path / "started").exists()


MEMORY_WAITS = """
    import asyncio, tempfile
    from pathlib import Path

    async def test_it(storage_adapter, storage_backend, storage_config):
        if storage_backend.name == "memory":
            (folder,) = Path(tempfile.gettempdir()).glob(f"{storage_config.storage_table}*")
            while not (folder / "redis.json").exists():
                await asyncio.sleep(0.01)
"""


def test_servers_start_while_tests_run_on_other_storages(inner: InnerRun) -> None:
    inner(MEMORY_WAITS, "--storage-backends=memory,redis", "--storage-servers=local,wheel").assert_outcomes(passed=2)


ONE_OF_EACH = """
    import pytest

    async def test_passes(storage_adapter):
        await storage_adapter.set("key", 1)

    async def test_differs(storage_adapter, storage_backend):
        assert storage_backend.name == "memory"

    def test_plain(): ...
"""


@pytest.mark.parametrize(
    "arguments", [["-pno:terminal"], ["-qq", "--no-summary", "-s", "--import-mode=importlib"]], ids=" ".join
)
def test_reports_are_written_whatever_is_printed(
    inner: InnerRun, pytester: pytest.Pytester, arguments: list[str]
) -> None:
    result = inner(ONE_OF_EACH, FAKES, "--storage-report=report.json", *arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert told(result) == {}, "where pytest prints no totals, neither do we"
    assert len(Matrix.read(pytester.path / "report.json").tests) == 2


def test_without_this_plugin_other_tests_run(inner: InnerRun) -> None:
    result = inner(ONE_OF_EACH, "-pno:taskiq_flow.pytest_plugin")
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*fixture 'storage_adapter' not found*"])


def test_who_leaves_the_debugger_leaves_nothing(inner: InnerRun, temporary: Path) -> None:
    arguments = ["--pdb", "--setup-show", "--maxfail=1", "--runxfail", "-k", "differs or plain"]
    result = inner(ONE_OF_EACH, FAKES, *arguments)  # nobody types: the debugger reads the end of its input
    result.stdout.fnmatch_lines(["*SETUP    F _isolated_store*", "*entering PDB*", "*Exit: Quitting debugger*"])
    result.stdout.fnmatch_lines(["*= storage backends =*", "memory     1 passed in *"], consecutive=True)
    assert told(result) == {"memory": "1 passed", "sqlite": "1 failed"}
    assert not list(temporary.iterdir())


# --- pytest itself ----------------------------------------------------------------------------------------------------

OLDEST = """
import importlib, pkgutil, pytest

for name in ("Dir", "Directory", "FixtureDef", "HIDDEN_PARAM", "RaisesExc", "RaisesGroup", "TerminalReporter"):
    vars(pytest).pop(name, None)

import taskiq_flow.pytest_plugin as plugin

for module in pkgutil.walk_packages(plugin.__path__, f"{plugin.__name__}."):
    importlib.import_module(module.name)
"""


def test_no_name_is_needed_that_pytest_7_4_lacks() -> None:
    # The kit's tests need a newer one; but the plugin loads itself wherever the kit is installed.
    done = subprocess.run([sys.executable, "-c", OLDEST], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
