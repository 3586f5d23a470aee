"""A run's identity: what names say about who is alive."""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import freezegun
import pytest

from taskiq_flow.pytest_plugin import run as run_module
from taskiq_flow.pytest_plugin.run import Run, is_stale


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, on a system that has none in memory."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    monkeypatch.setattr(run_module, "_IN_MEMORY", tmp_path / "memory")
    return home


@pytest.fixture
def memory(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files in memory, with room, where nobody asked for another place."""
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1 << 30))
    (tmp_path / "memory").mkdir()
    return tmp_path / "memory"


def test_a_living_run_is_not_abandoned(home: Path) -> None:
    run = Run.begin()
    assert not is_stale(run.id)
    assert not is_stale(f"{run.id}_gw1_7:some:key")
    assert run.is_mine
    assert run.folder.stat().st_mode & 0o077 == 0
    run.remove_folders()
    assert list(home.iterdir()) == []


def test_worker_takes_part_and_owns_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.begin()
    monkeypatch.setattr(os, "getpid", lambda: run.owner_pid + 1)
    worker = Run.of_worker(run.shared())
    assert worker == run
    assert not worker.is_mine


def test_dead_owners_and_reused_numbers_are_seen(home: Path) -> None:
    host, pid, began, rest = Run.begin().id.removeprefix("tfk_").split("_")
    assert is_stale(f"tfk_{host}_4194999_{began}_{rest}"), "no process has this number"
    assert is_stale(f"tfk_{host}_{pid}_1_{rest}"), "the process is younger than the run"
    assert not is_stale(f"tfk_{host}_{pid}_0_{rest}"), "a system that does not tell when the run began"


def test_a_run_that_begins_at_a_frozen_time_is_alive(home: Path) -> None:
    with freezegun.freeze_time("2000-01-01"):
        run = Run.begin()
    assert not is_stale(run.id)


@pytest.mark.parametrize("differs", ["process_space", "this_boot"])
def test_processes_elsewhere_are_not_judged(home: Path, differs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, began, rest = Run.begin().id.removeprefix("tfk_").split("_")
    monkeypatch.setattr(run_module, differs, lambda: "elsewhere")
    host, *_ = Run.begin().id.removeprefix("tfk_").split("_")
    name = f"tfk_{host}_4194999_{began}_{rest}"
    assert is_stale(name)
    monkeypatch.undo()
    assert not is_stale(name), "a container or a machine of the same name has processes of its own"


def test_nothing_is_abandoned_where_nobody_can_tell(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, _, began, rest = Run.begin().id.removeprefix("tfk_").split("_")
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert not is_stale(f"tfk_{host}_4194999_{began}_{rest}")


def test_names_of_others_are_let_be(home: Path) -> None:
    _, _, began, rest = Run.begin().id.removeprefix("tfk_").split("_")
    for name in (
        f"tfk_000000_4194999_{began}_{rest}",
        "tfk_",
        "tfk_abc",
        "users",
        "taskiq_flow_storage",
        "tfk_1_2_3_4",
    ):
        assert not is_stale(name)


def test_folders_of_killed_runs_go_with_the_next(home: Path, memory: Path) -> None:
    run = Run.begin()
    host, _, began, rest = run.id.removeprefix("tfk_").split("_")
    for place in (home, memory):
        dead, theirs = place / f"tfk_{host}_4194999_{began}_{rest}_x", place / "tfk_theirs"
        dead.mkdir()
        theirs.mkdir()
        Run.begin()
        assert not dead.exists()
        assert theirs.exists()
    assert run.folder.exists()
    assert run.database_folder.exists()


def test_databases_are_in_memory_where_there_is_such_a_folder(home: Path, memory: Path) -> None:
    run = Run.begin()
    assert (run.folder.parent, run.database_folder.parent) == (home, memory)
    assert run.database_folder.stat().st_mode & 0o077 == 0
    run.remove_folders()
    assert [*home.iterdir(), *memory.iterdir()] == []


def test_databases_are_where_temporary_files_were_asked_to_be(
    home: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(home))
    assert Run.begin().database_folder.is_relative_to(home)


def test_databases_are_not_in_a_memory_that_they_would_fill(
    home: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=(1 << 30) - 1))
    assert Run.begin().database_folder.is_relative_to(home)
