"""The settings: where they come from, and that they show no password."""

import pickle
from collections.abc import Callable

import pytest

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.exceptions import ConfigurationError

pytestmark = pytest.mark.usefixtures("clean_environment")

ENVIRONMENT = {
    "storage_type": ("redis", "redis"),
    "storage_url": ("redis://h/1", "redis://h/1"),
    "storage_redis_url": ("redis://h/2", "redis://h/2"),
    "storage_async_mode": ("false", False),
    "storage_ttl_seconds": ("1.5", 1.5),
    "storage_namespace": ("shop", "shop"),
    "storage_table": ("results", "results"),
    "storage_connect_timeout": ("2", 2.0),
    "storage_operation_timeout": ("3", 3.0),
}
DEFAULTS = {
    "storage_type": "auto",
    "storage_url": None,
    "storage_redis_url": None,
    "storage_async_mode": True,
    "storage_ttl_seconds": None,
    "storage_namespace": "taskiq_flow",
    "storage_table": "taskiq_flow_storage",
    "storage_connect_timeout": 5.0,
    "storage_operation_timeout": 30.0,
}


def test_defaults() -> None:
    settings = TaskiqFlowConfig().model_dump()
    assert {name: value for name, value in settings.items() if name.startswith("storage_")} == DEFAULTS


@pytest.mark.parametrize("case", [str.upper, str.lower])
def test_every_setting_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, case: Callable[[str], str]) -> None:
    assert ENVIRONMENT.keys() == DEFAULTS.keys()
    for name, (text, _) in ENVIRONMENT.items():
        monkeypatch.setenv(case(f"TASKIQ_FLOW_{name}"), text)
    settings = TaskiqFlowConfig().model_dump()
    assert {name: settings[name] for name in ENVIRONMENT} == {name: value for name, (_, value) in ENVIRONMENT.items()}


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


@pytest.mark.parametrize("name", ["storage_url", "storage_redis_url"])
@pytest.mark.parametrize("show", [repr, str, "{}".format])
def test_passwords_are_hidden(name: str, show: Callable[[object], str]) -> None:
    config = TaskiqFlowConfig.model_validate({name: "redis://user:s3cret@host:1/2?password=s3cret"})
    assert "s3cret" not in show(config)
    assert "redis://user:***@host:1/2?***" in show(config)
    assert getattr(config, name) == "redis://user:s3cret@host:1/2?password=s3cret"
