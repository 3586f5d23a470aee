"""``taskiq-flow cleanup``."""

import asyncio
import sys

import pytest

from taskiq_flow.cli import cleanup, main
from taskiq_flow.clock import FrozenClock
from taskiq_flow.storage import BaseStorageAdapter
from tests.cli.command import run


async def fill(storage: BaseStorageAdapter) -> None:
    for number in range(5):
        await storage.set(f"old:{number}", number, ttl_seconds=10)
    await storage.set("new", 1, ttl_seconds=100)
    await storage.set("for ever", 1)


@pytest.mark.usefixtures("storage_in_environment")
def test_expired_entries_are_removed_and_counted(
    storage_adapter: BaseStorageAdapter, frozen_clock: FrozenClock, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(fill(storage_adapter))
    frozen_clock.tick(10)
    assert main(["cleanup"]) == 0
    assert capsys.readouterr() == ("removed 5 expired entries\n", "")
    assert main(["cleanup"]) == 0
    assert capsys.readouterr() == ("removed 0 expired entries\n", "")
    assert asyncio.run(storage_adapter.keys()) == ["for ever", "new"]
    frozen_clock.tick(100)
    assert main(["cleanup", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert asyncio.run(storage_adapter.cleanup()) == 0


@pytest.mark.storage_backends("sqlite", "postgres", "mysql")
@pytest.mark.usefixtures("storage_in_environment")
def test_long_work_shows_a_bar_on_a_terminal(
    storage_adapter: BaseStorageAdapter,
    frozen_clock: FrozenClock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def fill_two_pieces() -> None:
        for number in range(600):
            await storage_adapter.set(f"key:{number:03}", number, ttl_seconds=10)

    asyncio.run(fill_two_pieces())
    frozen_clock.tick(10)
    monkeypatch.setattr(cleanup, "_SHOWN_AFTER", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["cleanup"]) == 0
    output = capsys.readouterr()
    assert output.out == "removed 600 expired entries\n"
    assert f"\r[{'#' * 25}{' ' * 5}]  83%  500 entries, 500 removed" in output.err
    assert f"\r[{'#' * 30}] 100%  600 entries, 600 removed" in output.err
    assert output.err.endswith(" \r"), "it is gone in the end"


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ([], 2, "no storage is named"),
        (["--url", "sqlite:///none.db"], 2, "there is no database file 'none.db'"),
        (["--url", "redis://user:secret@127.0.0.1:1"], 1, "127.0.0.1:1"),
    ],
)
def test_unusable_storage_is_told(arguments: list[str], status: int, told: str) -> None:
    done = run("cleanup", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert told in done.stderr
    assert "secret" not in done.stderr
