"""The settings: where they come from, and that they show no password."""

import os
import pickle
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.storage.urls import masked

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


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("TASKIQ_FLOW_STORAGE"):
            monkeypatch.delenv(name)


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


def test_arguments_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_NAMESPACE", "of the environment")
    assert TaskiqFlowConfig(storage_namespace="shop").storage_namespace == "shop"


@pytest.mark.parametrize("name", list(ENVIRONMENT))
def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"TASKIQ_FLOW_{name.upper()}", "")
    assert getattr(TaskiqFlowConfig(), name) == DEFAULTS[name]


def test_a_copy_may_be_changed() -> None:
    config = TaskiqFlowConfig(storage_namespace="shop")
    copy = config.model_copy(update={"storage_namespace": "other"})
    assert (config.storage_namespace, copy.storage_namespace) == ("shop", "other")
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_bad_value_is_told_by_name_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_STORAGE_TTL_SECONDS", "s3cret")
    with pytest.raises(ValidationError, match="storage_ttl_seconds") as raised:
        TaskiqFlowConfig()
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("name", ["storage_url", "storage_redis_url"])
@pytest.mark.parametrize("show", [repr, str, "{}".format])
def test_passwords_are_hidden(name: str, show: Callable[[object], str]) -> None:
    config = TaskiqFlowConfig.model_validate({name: "redis://user:s3cret@host:1/2?password=s3cret"})
    assert "s3cret" not in show(config)
    assert "redis://user:***@host:1/2?***" in show(config)
    assert getattr(config, name) == "redis://user:s3cret@host:1/2?password=s3cret"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://", "memory://"),
        ("memory://shared", "memory://shared"),
        ("redis://host", "redis://host"),
        ("redis://host:1/2", "redis://host:1/2"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://:s3cret@[::1]:6379/0", "redis://:***@[::1]:6379/0"),
        ("rediss://user:s3cret@host:1/2", "rediss://user:***@host:1/2"),
        ("redis://user@host", "redis://user:***@host"),
        ("unix:///run/redis@1.sock?password=s3cret", "unix:///run/redis@1.sock?***"),
        ("unix://user:s3cret@/run/redis.sock", "unix://user:***@/run/redis.sock"),
        ("redis://a:s3cret@h:1,b:s3cret@i:2/0", "redis://a:***@i:2/0"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("sqlite:////folder/a@b.db", "sqlite:////folder/a@b.db"),
        ("postgresql+asyncpg://u:s3cret@h/d?password=s3cret", "postgresql+asyncpg://u:***@h/d?***"),
        ("redis://u:s3cret@h/0?next=redis://i", "redis://u:***@h/0?***"),
        ("redis://h?password=s3@cret", "redis://***"),
        ("user:s3cret@host/db?x", "host/db"),
        ("localhost", "localhost"),
        ("", ""),
    ],
)
def test_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize("sign", list("/#?@[]:% \\"))
@pytest.mark.parametrize("scheme", ["redis", "postgresql+asyncpg"])
def test_a_password_that_was_not_quoted_is_hidden_too(scheme: str, sign: str) -> None:
    shown = masked(f"{scheme}://user:s3c{sign}ret@host/0")
    assert "s3c" not in shown
    assert "ret" not in shown
    assert shown.startswith(f"{scheme}://")
    assert sign == "?" or shown == f"{scheme}://user:***@host/0"


@pytest.mark.parametrize("url", ["unix://user@/run/redis.sock?password=s3@cret", "redis://h?password=s3@cret"])
def test_a_query_is_hidden_whatever_it_says(url: str) -> None:
    assert "s3" not in masked(url)
    assert "cret" not in masked(url)
