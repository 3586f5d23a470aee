"""``taskiq-flow config``."""

from pathlib import Path

import pytest

from taskiq_flow.cli import main
from tests.cli.command import run


def rows(output: str) -> dict[str, tuple[str, str]]:
    """Return value and origin of each setting that has a value."""
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in output.splitlines()]
    return {name: (value, origin) for name, value, origin in (each for each in cells if len(each) == 3)}


def test_settings_are_shown_with_their_origins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "shop.env"
    file.write_text("DATABASE_URL=x\nTASKIQ_FLOW_STORAGE_TABLE=results\nTASKIQ_FLOW_STORAGE_TTL_SECONDS=60\n")
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_URL", "redis://user:s3c@ret@host/0")
    monkeypatch.setenv("taskiq_flow_storage_ttl_seconds", "90")
    assert main(["config", "--env-file", str(file), "--namespace", "shop"]) == 0
    output = capsys.readouterr()
    shown = rows(output.out)
    assert shown["storage_url"] == ("redis://user:***@host/0", "TASKIQ_FLOW_STORAGE_URL")
    assert shown["storage_ttl_seconds"] == ("90.0", "TASKIQ_FLOW_STORAGE_TTL_SECONDS")
    assert shown["storage_table"] == ("results", str(file))
    assert shown["storage_namespace"] == ("shop", "arguments")
    assert shown["storage_type"] == ("auto", "default")
    assert "\nstorage  RedisStorageAdapter(redis://user:***@host/0, namespace='shop')\n" in output.out
    assert "\ncache    RedisCacheAdapter(" in output.out
    assert "s3c" not in output.out
    assert "ret@" not in output.out
    assert output.err == ""


def test_unknown_variables_are_named_on_standard_error() -> None:
    done = run("config", TASKIQ_FLOW_STORAGE_URI="redis://:s3cret@h")
    assert done.returncode == 0
    assert done.stderr == (
        "taskiq-flow: the variable TASKIQ_FLOW_STORAGE_URI is not a setting of taskiq-flow-kit and has no effect; "
        "the nearest that it knows is TASKIQ_FLOW_STORAGE_URL\n"
    )
    assert "memory://" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "settings", "told"),
    [
        (["--env-file", "none.env"], {}, "there is no file 'none.env'"),
        ([], {"STORAGE_TYPE": "mongo"}, "cannot be 'mongo': use one of 'auto', 'memory', "),
        ([], {"STORAGE_URL": "redis://a", "STORAGE_REDIS_URL": "redis://b"}, "are both set and differ"),
    ],
)
def test_unusable_settings_are_told(
    arguments: list[str],
    settings: dict[str, str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"TASKIQ_FLOW_{name}", value)
    assert main(["config", *arguments]) == 2
    assert told in capsys.readouterr().err
