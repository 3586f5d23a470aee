"""The settings: where they come from, and that they show no password."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import ConfigurationError, ConfigurationWarning

pytestmark = pytest.mark.usefixtures("clean_environment")

ENVIRONMENT = {
    "storage_enabled": ("false", False),
    "storage_type": ("redis", "redis"),
    "storage_url": ("redis://h/1", "redis://h/1"),
    "storage_redis_url": ("redis://h/2", "redis://h/2"),
    "storage_sqlite_url": ("sqlite:///a.db", "sqlite:///a.db"),
    "storage_sqlalchemy_url": ("postgresql://h/d", "postgresql://h/d"),
    "storage_async_mode": ("false", False),
    "storage_ttl_seconds": ("1.5", 1.5),
    "storage_namespace": ("shop", "shop"),
    "storage_table": ("results", "results"),
    "storage_connect_timeout": ("2", 2.0),
    "storage_operation_timeout": ("3", 3.0),
    "storage_cleanup_interval": ("60", 60.0),
    "storage_max_connections": ("8", 8),
    "cache_enabled": ("false", False),
    "cache_type": ("memory", "memory"),
    "cache_url": ("redis://h/3", "redis://h/3"),
    "cache_redis_url": ("redis://h/4", "redis://h/4"),
    "cache_default_ttl": ("4", 4.0),
    "cache_lock_timeout": ("5", 5.0),
}
DEFAULTS = {
    "storage_enabled": True,
    "storage_type": "auto",
    "storage_url": None,
    "storage_redis_url": None,
    "storage_sqlite_url": None,
    "storage_sqlalchemy_url": None,
    "storage_async_mode": True,
    "storage_ttl_seconds": None,
    "storage_namespace": "taskiq_flow",
    "storage_table": "taskiq_flow_storage",
    "storage_connect_timeout": 5.0,
    "storage_operation_timeout": 5.0,
    "storage_cleanup_interval": 600.0,
    "storage_max_connections": None,
    "cache_enabled": True,
    "cache_type": "auto",
    "cache_url": None,
    "cache_redis_url": None,
    "cache_default_ttl": 3600,
    "cache_lock_timeout": None,
}


def test_defaults() -> None:
    assert TaskiqFlowConfig().model_dump() == DEFAULTS


@pytest.mark.filterwarnings("ignore:.*is a name of taskiq-flow 1.2.2")
@pytest.mark.parametrize("case", [str.upper, str.lower])
def test_every_setting_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, case: Callable[[str], str]) -> None:
    assert ENVIRONMENT.keys() == DEFAULTS.keys()
    for name, (text, _) in ENVIRONMENT.items():
        monkeypatch.setenv(case(f"TASKIQ_FLOW_{name}"), text)
    assert TaskiqFlowConfig().model_dump() == {name: value for name, (_, value) in ENVIRONMENT.items()}


def test_arguments_take_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_NAMESPACE", "of the environment")
    assert TaskiqFlowConfig(storage_namespace="shop").storage_namespace == "shop"


@pytest.mark.parametrize("name", list(ENVIRONMENT))
def test_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"TASKIQ_FLOW_{name.upper()}", "")
    assert getattr(TaskiqFlowConfig(), name) == DEFAULTS[name]


def test_copy_may_be_changed() -> None:
    config = TaskiqFlowConfig(storage_namespace="shop")
    copy = config.model_copy(update={"storage_namespace": "other"})
    assert (config.storage_namespace, copy.storage_namespace) == ("shop", "other")
    assert pickle.loads(pickle.dumps(config)) == config


def test_unusable_value_is_refused_by_name_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_TTL_SECONDS", "s3cret")
    with pytest.raises(
        ConfigurationError, match=r"'storage_ttl_seconds' \(TASKIQ_FLOW_STORAGE_TTL_SECONDS\) cannot be used: "
    ) as raised:
        TaskiqFlowConfig()
    assert "s3cret" not in str(raised.value)


def test_unknown_choice_is_refused_with_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_TYPE", "mongo")
    with pytest.raises(ConfigurationError) as raised:
        TaskiqFlowConfig()
    assert str(raised.value) == (
        "the setting 'storage_type' (TASKIQ_FLOW_STORAGE_TYPE) cannot be 'mongo': "
        "use one of 'auto', 'memory', 'redis', 'sqlite' or 'sqlalchemy'"
    )


@pytest.mark.parametrize("name", [name for name in DEFAULTS if name.endswith("_url")])
@pytest.mark.parametrize("show", [repr, str, "{}".format])
def test_passwords_are_hidden(name: str, show: Callable[[object], str]) -> None:
    config = TaskiqFlowConfig.model_validate({name: "redis://user:s3cret@host:1/2?password=s3cret"})
    assert "s3cret" not in show(config)
    assert "redis://user:***@host:1/2?***" in show(config)
    assert getattr(config, name) == "redis://user:s3cret@host:1/2?password=s3cret"


# --- what is not understood -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("STORAGE_URI", "STORAGE_URL"),
        ("STORAGE_NAMESPCE", "STORAGE_NAMESPACE"),
        ("STRAGE_TTL_SECONDS", "STORAGE_TTL_SECONDS"),
        ("CACHE_TTL", "CACHE_DEFAULT_TTL"),
        ("storage_tabel", "STORAGE_TABLE"),
        ("CASH_TYPE", "CACHE_TYPE"),
    ],
)
def test_unknown_variable_is_warned_of_with_the_nearest_known_one(
    name: str, nearest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"TASKIQ_FLOW_{name}", "s3cret")
    with pytest.warns(ConfigurationWarning) as caught:
        TaskiqFlowConfig()
    [warning] = caught
    assert str(warning.message) == (
        f"the variable TASKIQ_FLOW_{name.upper()} is not a setting of taskiq-flow-kit and has no effect; "
        f"the nearest that it knows is TASKIQ_FLOW_{nearest}"
    )
    assert warning.filename == __file__, "it is warned of where the settings were asked for"


@pytest.mark.parametrize("name", ["TEST_SERVERS", "TEST_REDIS_URL", "REDIS_IMAGE", "MINE_IMAGE", "STORAGE_URL"])
def test_variables_of_the_plugin_are_not_warned_of(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TASKIQ_FLOW_{name}", "memory://")
    TaskiqFlowConfig()


@pytest.mark.parametrize("name", ["STORAGE_SQLITE_URL", "STORAGE_SQLALCHEMY_URL"])
def test_old_name_of_a_variable_is_warned_of_with_the_new_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TASKIQ_FLOW_{name}", "sqlite:///a.db")
    with pytest.warns(ConfigurationWarning, match=f"{name} is a name of .*: it works, and is called .*STORAGE_URL now"):
        config = TaskiqFlowConfig()
    assert getattr(config, name.lower()) == "sqlite:///a.db"


def test_old_names_of_arguments_are_not_warned_of() -> None:
    TaskiqFlowConfig(storage_sqlite_url="sqlite:///a.db", storage_sqlalchemy_url="sqlite:///a.db")


def test_env_file_may_hold_an_applications_other_variables(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(
        "DATABASE_URL=postgresql://shop\nSECRET_KEY=s3cret\nSTORAGE_URL=x\n"
        "TASKIQ_FLOW_STORAGE_URL=redis://cache\nTASKIQ_FLOW_TEST_SERVERS=docker\n"
    )
    config = TaskiqFlowConfig(_env_file=file)
    assert config.storage_url == "redis://cache"
    assert config.storage_redis_url is None


def test_unknown_variable_in_an_env_file_is_warned_of_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "shop.env"
    file.write_text("TASKIQ_FLOW_STORAGE_URI=redis://cache\n")
    with pytest.warns(ConfigurationWarning, match=r"TASKIQ_FLOW_STORAGE_URI in .*shop\.env is not a setting"):
        TaskiqFlowConfig(_env_file=file)


def test_environment_takes_precedence_over_an_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".env"
    file.write_text("TASKIQ_FLOW_STORAGE_NAMESPACE=file\nTASKIQ_FLOW_STORAGE_TABLE=file\n")
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_NAMESPACE", "environment")
    config = TaskiqFlowConfig(_env_file=file)
    assert (config.storage_namespace, config.storage_table) == ("environment", "file")


def test_unknown_variable_is_told_once_by_a_process_that_asks_often() -> None:
    code = "from taskiq_flow import StorageAdapterFactory as F\nfor _ in range(3): F.create_storage_adapter()"
    environment = {**os.environ, "TASKIQ_FLOW_STORAGE_URI": "x"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr.count("TASKIQ_FLOW_STORAGE_URI") == 1


@pytest.mark.parametrize("blank", ["\n", " ", "\r\n", "\t"])
@pytest.mark.parametrize(
    "name", ["storage_type", "storage_url", "storage_namespace", "storage_async_mode", "cache_type"]
)
def test_blanks_around_a_variable_are_stripped(name: str, blank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = ENVIRONMENT[name]
    monkeypatch.setenv(f"TASKIQ_FLOW_{name.upper()}", f"{blank}{text}{blank}")
    assert getattr(TaskiqFlowConfig(), name) == value


def test_blanks_around_a_url_are_stripped() -> None:
    assert TaskiqFlowConfig(storage_url=" redis://h\n").storage_url == "redis://h"


def test_secrets_directory_is_read_as_pydantic_does(tmp_path: Path) -> None:
    (tmp_path / "taskiq_flow_storage_url").write_text("redis://h\n")
    assert TaskiqFlowConfig(_secrets_dir=tmp_path).storage_url == "redis://h"


def test_subclass_with_settings_of_its_own_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings(TaskiqFlowConfig):
        shop_name: str = "shop"

    monkeypatch.setenv("TASKIQ_FLOW_SHOP_NAME", "bakery")
    assert Settings().shop_name == "bakery"
