"""The command itself: arguments, exit status, help and version."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from taskiq_flow import cli
from taskiq_flow.cli import main
from tests.cli.command import SCRIPT, run
from tests.test_architecture import HEAVY

SUBCOMMANDS = [file for file in Path(cli.__file__).parent.glob("*.py") if not file.name.startswith("_")]


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
def test_wrong_arguments_are_answered_with_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: taskiq-flow" in capsys.readouterr().err


def test_installed_command_is_the_same_as_the_module(unprintable: str) -> None:
    done = run("history", "--failed", "-n", "1", "--url", unprintable, PYTHONWARNINGS="error")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n1 result, 1 failed\n")
    done = run("history", "--url", "sqlite:///none.db")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "taskiq-flow: there is no database file 'none.db'\n"
    module = [sys.executable, "-m", "taskiq_flow.cli", "--help"]
    told = subprocess.run(module, capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout == run("--help").stdout


def test_closed_output_ends_the_command_quietly(unprintable: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [SCRIPT, "history", "--url", unprintable], stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_version_is_that_of_the_distribution() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"taskiq-flow-kit {metadata.version('taskiq-flow-kit')}\n")


@pytest.mark.parametrize("arguments", [["--help"], *([each.stem, "--help"] for each in SUBCOMMANDS)])
def test_help_loads_nothing_heavy(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code = f"""
import sys
from taskiq_flow import cli
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
