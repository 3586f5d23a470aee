"""``taskiq-flow history``."""

import asyncio
import json
from datetime import timedelta, timezone
from pathlib import Path

import pytest

from taskiq_flow.cli import main
from taskiq_flow.clock import FrozenClock
from taskiq_flow.storage import BaseStorageAdapter, SQLAlchemyStorageAdapter
from tests.cli.command import run
from tests.test_history import FROZEN, Shop


def table(output: str) -> list[list[str]]:
    """Return the cells of a table; what separates them is at least two blanks."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in output.splitlines()]


@pytest.mark.usefixtures("storage_in_environment")
@FROZEN
def test_table_shows_the_newest_first(
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


@pytest.mark.usefixtures("storage_in_environment")
@FROZEN
def test_json_holds_results_and_what_is_unreadable(
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


@pytest.mark.parametrize("width", [200, 120, 80])
def test_control_characters_do_not_reach_the_terminal(
    unprintable: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["history", "--url", unprintable]) == 0
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert r"RuntimeError: \x1b[2Jgone" in output
    assert r"RuntimeError: \u202egone" in output
    assert "two ⏎ lines" in output
    lines = output.splitlines()
    assert len(lines) == (1 + 5) * (1 if width == 200 else 2) + 2
    assert all(len(line) + line.count("寿") + line.count("司") <= width for line in lines)


def test_narrow_terminal_gets_two_lines_for_a_result(
    unprintable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["history", "--url", unprintable]) == 0
    output = capsys.readouterr().out
    head, more, *_ = output.splitlines()
    assert head.split("  ")[0] == "when (UTC)"
    assert head.endswith("took")
    assert more == "    run  result"
    assert "  …sks.of.a.package.with.a.long.name:shout  failed  " in output
    assert "\n    3f2a74c0b1d84e5f9a7c6d2e8b4f1a3c  RuntimeError: xxxxxxxx" in output


@pytest.mark.storage_backends("memory")
@pytest.mark.usefixtures("storage_in_environment")
def test_short_results_stay_on_one_line(
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
def test_execution_time_is_shown_in_seconds_or_hours(
    seconds: float, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/results.db"

    async def fill() -> None:
        async with SQLAlchemyStorageAdapter(url) as storage:
            await Shop(storage).square.kicker().with_task_id("two").kiq(2)
            await storage.set("task:two", {**(await storage.get("task:two") or {}), "execution_time": seconds})

    asyncio.run(fill())
    assert main(["history", "--url", url]) == 0
    assert f"{shown}  two  4" in capsys.readouterr().out


def test_arguments_take_precedence_over_the_environment(
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
@pytest.mark.usefixtures("storage_in_environment")
def test_since_takes_local_time_or_an_offset(
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


def test_json_is_utf_8_whatever_the_encoding_of_the_output(unprintable: str) -> None:
    settings = {"TASKIQ_FLOW_STORAGE_URL": unprintable, "PYTHONIOENCODING": "ascii"}
    done = run("history", "--json", **settings)
    assert done.returncode == 0, done.stderr
    messages = [each["error"]["message"] for each in json.loads(done.stdout)["results"]]
    assert "寿司 " * 100 in messages
    done = run("history", **settings)
    assert done.returncode == 0, done.stderr
    assert r"two \u23ce lines" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ([], 2, "no storage is named: give --url, or set TASKIQ_FLOW_STORAGE_URL"),
        (["--url", "memory://"], 2, "a memory storage cannot be looked into from outside: "),
        (["--url", "sqlite:///not/there.db"], 2, "there is no database file 'not/there.db'"),
        (["--url", "bogus://user:secret@host"], 2, "bogus://user:***@host"),
        (["--url", "redis://user:secret@127.0.0.1:1/0"], 1, "127.0.0.1:1"),
        (["--url", "postgresql://user:secret@127.0.0.1:1/db"], 1, "127.0.0.1:1"),
        (["--url", "postgresql://user:secret@words@127.0.0.1:1/db"], 2, "has an '@' too many"),
        (["--url", "mysql://user@127.0.0.1:1/db?password=secret@words"], 2, "has an '@' too many"),
        (["--url", "redis://user:secret/words@127.0.0.1:1/0"], 2, "127.0.0.1:1"),
        (["--url", "redis://127.0.0.1:1", "--namespace", ""], 2, "namespace"),
    ],
)
def test_unusable_storage_is_told_without_a_traceback(
    arguments: list[str], status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", *arguments]) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("taskiq-flow: ")
    assert told in output.err
    assert "secret" not in output.err
    assert "words" not in output.err


@pytest.mark.parametrize(("name", "value"), [("URL", "memory://"), ("TYPE", "memory")])
def test_memory_storage_in_the_environment_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"TASKIQ_FLOW_STORAGE_{name}", value)
    assert main(["history"]) == 2
    assert "a memory storage cannot be looked into from outside: " in capsys.readouterr().err


def test_unusable_setting_is_told_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_TTL_SECONDS", "soon")
    assert main(["history", "--url", "sqlite://"]) == 2
    assert (
        "the setting 'storage_ttl_seconds' (TASKIQ_FLOW_STORAGE_TTL_SECONDS) cannot be used: "
        in capsys.readouterr().err
    )


def test_type_alone_creates_no_database_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_TYPE", "sqlite")
    assert main(["history"]) == 2
    assert "there is no database file 'taskiq-flow.db'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
