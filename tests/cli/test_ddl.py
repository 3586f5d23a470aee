"""``taskiq-flow ddl``."""

import sqlite3

import pytest

from taskiq_flow.cli import main
from tests.cli.command import run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url", "postgresql://u:secret@h/d"], ["CREATE TABLE taskiq_flow_storage", 'COLLATE "C"', "BIGINT"]),
        (["--url", "mysql://u:secret@h/d", "--table", "results"], ["CREATE TABLE results", "VARBINARY(1024)"]),
        (["--url", "postgresql://h/d", "--table", "tenant_a.results"], ["CREATE TABLE tenant_a.results"]),
    ],
)
def test_statement_is_printed(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ddl", *arguments]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.endswith(";\n")
    for word in words:
        assert word in output.out
    assert "secret" not in output.out


def test_statement_of_the_settings_can_be_executed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_TYPE", "sqlite")
    assert main(["ddl"]) == 0
    with sqlite3.connect(":memory:") as connection:
        connection.execute(capsys.readouterr().out)
        assert connection.execute("SELECT count(*) FROM taskiq_flow_storage").fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "no database is named: give --url"),
        (["--url", "redis://u:secret@h"], "redis"),
        (["--url", "postgresql://h/d", "--table", ""], "table"),
    ],
)
def test_unusable_database_is_told(arguments: list[str], told: str) -> None:
    done = run("ddl", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "secret" not in done.stderr
