"""The command ``taskiq-flow``: what it prints, and how it exits."""

import asyncio
import json
import os
import subprocess
import sys
from datetime import timedelta, timezone
from pathlib import Path

import pytest

from taskiq_flow.cli import main
from taskiq_flow.clock import FrozenClock
from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.pytest_plugin.report.matrix import Matrix, Outcome
from taskiq_flow.storage import BaseStorageAdapter, SQLAlchemyStorageAdapter
from tests.test_architecture import HEAVY
from tests.test_history import FROZEN, Shop


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


# --- history ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_the_command_line(monkeypatch: pytest.MonkeyPatch, storage_config: TaskiqFlowConfig) -> None:
    """Let the environment name this test's storage."""
    for name in ("storage_url", "storage_namespace", "storage_table"):
        monkeypatch.setenv(f"TASKIQ_FLOW_{name.upper()}", getattr(storage_config, name))


@pytest.fixture
def no_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "REDIS_URL", "TYPE", "NAMESPACE", "TABLE"):
        monkeypatch.delenv(f"TASKIQ_FLOW_STORAGE_{name}", raising=False)


def table(output: str) -> list[list[str]]:
    """Return the cells of a table; what separates them is at least two blanks."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in output.splitlines()]


@pytest.mark.usefixtures("on_the_command_line")
@FROZEN
def test_the_table(
    storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fill() -> None:
        shop = Shop(storage_adapter)
        await shop.square.kiq(3)
        frozen_clock.tick(61)
        await shop.run("run-42", 0)
        frozen_clock.tick(60)
        await shop.square.kicker().with_task_id("short").kiq(-1)
        await storage_adapter.set("task:list", ["wash", "cook"])

    asyncio.run(fill())
    assert main(["history"]) == 0
    output = capsys.readouterr()
    head, newest, *_, oldest, _, total = table(output.out)
    assert head == ["when (UTC)", "task", "status", "took", "run", "id", "result"]
    assert newest[:3] == ["2025-01-02 03:06:06", "square", "failed"]
    assert newest[-2:] == ["short", "ValueError: -1 is below 0"]
    assert oldest[:3] == ["2025-01-02 03:04:05", "square", "completed"]
    assert oldest[-1] == "9"
    assert total == ["5 results, 1 failed"]
    assert output.err.startswith("taskiq-flow: not a result: the entry under key 'task:list' is no stored task result")

    assert main(["history", "--run", "run-42"]) == 0
    rows = table(capsys.readouterr().out)
    assert (rows[1][1], rows[1][4], rows[1][-1], rows[3][1]) == ("numbers", "run-42", "[]", "total")
    assert main(["history", "--task", "square", "-n", "1"]) == 0
    assert table(capsys.readouterr().out)[1][-2] == "short"
    assert main(["history", "--failed", "--since", "60s"]) == 0
    assert capsys.readouterr().out.endswith("\n1 result, 1 failed\n")
    for nothing in (["--since", "2025-01-02T03:07:00Z"], ["--task", "nobody's"], ["--run", "nobody's"]):
        assert main(["history", *nothing]) == 0
        assert capsys.readouterr().out == "no results\n"


@pytest.mark.usefixtures("on_the_command_line")
@FROZEN
def test_the_results_as_json(
    storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fill() -> None:
        shop = Shop(storage_adapter)
        await shop.square.kiq(-1)
        await shop.square.kicker().with_labels(storage_ttl=60).with_task_id("two").kiq(2)
        await storage_adapter.set("task:list", ["wash", "cook"])

    asyncio.run(fill())
    assert main(["history", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    [two] = [each for each in document["results"] if each["task_id"] == "two"]
    assert (two["task_name"], two["status"], two["result"], two["error"]) == ("square", "completed", 4, None)
    assert two["created_at"] == "2025-01-02T03:04:05+00:00"
    [failed] = [each for each in document["results"] if each["status"] == "failed"]
    assert (failed["error"]["name"], failed["error"]["message"]) == ("ValueError", "-1 is below 0")
    assert [each["key"] for each in document["unreadable"]] == ["task:list"]
    assert main(["history", "--task", "nobody's", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"] == []


@pytest.fixture
def shouts(tmp_path: Path) -> str:
    """A storage with the errors of a task that says what a terminal should not hear; return its URL."""
    url = f"sqlite:///{tmp_path}/results.db"

    async def fill() -> None:
        async with SQLAlchemyStorageAdapter(url) as storage:
            shop = Shop(storage)

            @shop.broker.task(task_name="shop.tasks.of.a.package.with.a.long.name:shout")
            def shout(text: str) -> str:
                raise RuntimeError(text)

            for text in ("\x1b[2Jgone", "two\nlines", "寿司 " * 100, "x" * 500, "\u202egone"):
                await Pipeline(shop.broker, shout, pipeline_id="3f2a74c0b1d84e5f9a7c6d2e8b4f1a3c").kiq(text)

    asyncio.run(fill())
    return url


@pytest.mark.parametrize("width", [200, 120, 80])
def test_other_peoples_words_do_not_move_the_cursor(
    shouts: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["history", "--url", shouts]) == 0
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert r"RuntimeError: \x1b[2Jgone" in output
    assert r"RuntimeError: \u202egone" in output
    assert "two ⏎ lines" in output
    lines = output.splitlines()
    assert len(lines) == (1 + 5) * (1 if width == 200 else 2) + 2
    assert all(len(line) + line.count("寿") + line.count("司") <= width for line in lines)


def test_a_narrow_terminal(shouts: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["history", "--url", shouts]) == 0
    output = capsys.readouterr().out
    head, more, *_ = output.splitlines()
    assert head.split("  ")[0] == "when (UTC)"
    assert head.endswith("took")
    assert more == "    run  result"
    assert "  …sks.of.a.package.with.a.long.name:shout  failed  " in output
    assert "\n    3f2a74c0b1d84e5f9a7c6d2e8b4f1a3c  RuntimeError: xxxxxxxx" in output


@pytest.mark.storage_backends("memory")
@pytest.mark.usefixtures("on_the_command_line")
def test_what_is_short_stays_on_one_line(
    storage_adapter: BaseStorageAdapter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    asyncio.run(Shop(storage_adapter).run("run-42"))
    assert main(["history", "--task", "square"]) == 0
    head, *rows = table(capsys.readouterr().out)
    assert head == ["when (UTC)", "task", "status", "took", "run", "id", "result"]
    assert sorted(row[-1] for row in rows[:3]) == ["0", "1", "4"]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.5, "0.50 s"), (59.99, "59.99 s"), (3725, "1:02:05"), (1e300, "10000000000…")]
)
def test_how_long_it_took(seconds: float, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/results.db"

    async def fill() -> None:
        async with SQLAlchemyStorageAdapter(url) as storage:
            await Shop(storage).square.kicker().with_task_id("two").kiq(2)
            await storage.set("task:two", {**(await storage.get("task:two") or {}), "execution_time": seconds})

    asyncio.run(fill())
    assert main(["history", "--url", url]) == 0
    assert f"{shown}  two  4" in capsys.readouterr().out


def test_the_environment_gives_way_to_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/results.db"

    async def fill() -> None:
        for namespace, table, number in (("a", "one", 1), ("b", "one", 2), ("a", "two", 3)):
            async with SQLAlchemyStorageAdapter(url, namespace=namespace, table=table) as storage:
                await Shop(storage).square.kiq(number)

    asyncio.run(fill())
    settings = {"URL": url, "NAMESPACE": "a", "TABLE": "one"}
    for name, value in settings.items():
        monkeypatch.setenv(f"TASKIQ_FLOW_STORAGE_{name}", value)
    for arguments, value in ([], "1"), (["--namespace", "b"], "4"), (["--table", "two"], "9"):
        assert main(["history", *arguments]) == 0
        rows = table(capsys.readouterr().out)
        assert (rows[1][-1], rows[-1]) == (value, ["1 result, 0 failed"])
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_URL", "redis://127.0.0.1:1")
    assert main(["history", "--url", url]) == 0


@FROZEN
@pytest.mark.storage_backends("memory")
@pytest.mark.usefixtures("on_the_command_line")
def test_since_a_moment_in_local_time_or_with_an_offset(
    storage_adapter: BaseStorageAdapter,
    frozen_clock: FrozenClock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asyncio.run(Shop(storage_adapter).square.kiq(3))
    local = frozen_clock.now().astimezone().replace(tzinfo=None)
    tokyo = frozen_clock.now().astimezone(timezone(timedelta(hours=9)))
    for moment in (local, tokyo):
        for later, found in (timedelta(0), 1), (timedelta(milliseconds=1), 0):
            assert main(["history", "--json", "--since", (moment + later).isoformat()]) == 0
            assert len(json.loads(capsys.readouterr().out)["results"]) == found


def run(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run the installed command."""
    script = str(Path(sys.executable).with_name("taskiq-flow"))
    return subprocess.run(
        [script, *arguments], env={**os.environ, **settings}, capture_output=True, encoding="utf-8", timeout=60
    )


def test_json_is_utf_8_wherever_it_goes(shouts: str) -> None:
    settings = {"TASKIQ_FLOW_STORAGE_URL": shouts, "PYTHONIOENCODING": "ascii"}
    done = run("history", "--json", **settings)
    assert done.returncode == 0, done.stderr
    messages = [each["error"]["message"] for each in json.loads(done.stdout)["results"]]
    assert "寿司 " * 100 in messages
    done = run("history", **settings)
    assert done.returncode == 0, done.stderr
    assert r"two \u23ce lines" in done.stdout


@pytest.mark.usefixtures("no_storage")
@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ([], 2, "no storage is named: give --url, or set TASKIQ_FLOW_STORAGE_URL"),
        (["--url", "memory://"], 2, "a memory storage cannot be looked into from outside: "),
        (["--url", "sqlite:///not/there.db"], 2, "there is no database file 'not/there.db'"),
        (["--url", "bogus://user:secret@host"], 2, "bogus://user:***@host"),
        (["--url", "redis://user:secret@127.0.0.1:1/0"], 1, "127.0.0.1:1"),
        (["--url", "postgresql://user:secret@127.0.0.1:1/db"], 1, "127.0.0.1:1"),
        (["--url", "redis://127.0.0.1:1", "--namespace", ""], 2, "namespace"),
    ],
)
def test_what_cannot_be_shown(arguments: list[str], status: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", *arguments]) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("taskiq-flow: ")
    assert told in output.err
    assert "secret" not in output.err


@pytest.mark.usefixtures("no_storage")
@pytest.mark.parametrize(("name", "value"), [("URL", "memory://"), ("TYPE", "memory")])
def test_a_memory_storage_in_the_environment(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"TASKIQ_FLOW_STORAGE_{name}", value)
    assert main(["history"]) == 2
    assert "a memory storage cannot be looked into from outside: " in capsys.readouterr().err


@pytest.mark.usefixtures("no_storage")
def test_a_setting_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_TTL_SECONDS", "soon")
    assert main(["history", "--url", "sqlite://"]) == 2
    assert "the setting TASKIQ_FLOW_STORAGE_TTL_SECONDS cannot be used: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bogus"],
        ["history", "--last", "-1"],
        ["history", "--since", "soon"],
        ["history", "--since", "9999999w"],
        ["history", "--since", "0001-01-01T00:00+14:00"],
        ["matrix"],
    ],
)
def test_arguments_that_are_wrong(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: taskiq-flow" in capsys.readouterr().err


def test_a_storage_that_is_named_by_its_type_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_TYPE", "sqlite")
    assert main(["history"]) == 2
    assert "there is no database file 'taskiq-flow.db'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_installed_command(shouts: str) -> None:
    done = run("history", "--failed", "-n", "1", "--url", shouts, PYTHONWARNINGS="error")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n1 result, 1 failed\n")
    done = run("history", "--url", "sqlite:///none.db")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "taskiq-flow: there is no database file 'none.db'\n"
    module = [sys.executable, "-m", "taskiq_flow.cli", "--help"]
    told = subprocess.run(module, capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout == run("--help").stdout


def test_a_reader_that_has_seen_enough(shouts: str) -> None:
    script = str(Path(sys.executable).with_name("taskiq-flow"))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [script, "history", "--url", shouts], stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("arguments", [["--help"], ["history", "--help"], ["matrix", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code = f"""
import sys
from taskiq_flow.cli import main
try:
    main({arguments!r})
except SystemExit:
    assert not {{*sys.modules}} & {{"pytest", *{HEAVY!r}}}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: taskiq-flow")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


# --- matrix -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reports(tmp_path: Path) -> list[str]:
    """The reports of two jobs: what one storage does, the other does not."""
    jobs = [
        Matrix({"sqlite": "SQLite 3"}, {"t.py::test": {"sqlite": Outcome("passed", 0.1)}}),
        Matrix({"redis": "Redis 7"}, {"t.py::test": {"redis": Outcome("failed", 1.0, "ERR unknown", "Traceback …")}}),
    ]
    files = [tmp_path / f"{number}.json" for number in range(len(jobs))]
    for file, matrix in zip(files, jobs, strict=True):
        file.write_text(matrix.to_json())
    return [str(file) for file in files]


def test_reports_are_merged(reports: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["matrix", *reports]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.splitlines() == [
        "test        sqlite     redis",
        "t.py::test  passed     failed",
        "",
        "t.py::test diverges",
        "    sqlite     passed",
        "    redis      failed   ERR unknown",
    ]
    assert main(["matrix", reports[0]]) == 0
    assert capsys.readouterr().out.endswith("\n\nno test diverges\n")


def test_the_merged_report_is_written(reports: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "new" / name for name in ("page.html", "summary.md", "merged.json")]
    assert main(["matrix", *reports, *(argument for file in files for argument in ("-o", str(file)))]) == 0
    assert capsys.readouterr() == ("", "")
    page, summary, merged = files
    assert "ERR unknown" in page.read_text(encoding="utf-8")
    assert summary.read_text(encoding="utf-8").startswith("# Storage matrix\n\n1 tests on 2 storages; 1 diverge.")
    assert Matrix.read(merged).backends == ["sqlite", "redis"]


def test_what_cannot_be_merged(reports: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.json").write_text("{}")
    for file, told in ("other.json", "is no report that --storage-report=….json wrote"), ("none.json", "No such file"):
        assert main(["matrix", *reports, str(tmp_path / file), "-o", str(tmp_path / "page.html")]) == 1
        output = capsys.readouterr()
        assert output.err.startswith("taskiq-flow: ")
        assert told in output.err
        assert file in output.err
    assert main(["matrix", *reports, "-o", str(tmp_path / "page.pdf")]) == 2
    assert "page.pdf' must end in one of .json, .md, .html" in capsys.readouterr().err
    assert main(["matrix", *reports, "-o", f"{reports[0]}/page.md"]) == 1
    assert "0.json" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_a_package_of_the_plugins_that_is_missing(reports: list[str]) -> None:
    code = f"""
import sys
sys.modules["pytest"] = None
from taskiq_flow.cli import main
sys.exit(main({["matrix", *reports]!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("taskiq-flow: taskiq-flow matrix needs the package 'pytest', which is not installed")
    assert "taskiq-flow-kit[pytest]" in done.stderr
