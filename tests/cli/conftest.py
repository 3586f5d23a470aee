"""What the tests of the subcommands share."""

import asyncio
from pathlib import Path

import pytest

from taskiq_flow.config import TaskiqFlowConfig
from taskiq_flow.pipeline import Pipeline
from taskiq_flow.storage import SQLAlchemyStorageAdapter
from tests.test_history import Shop


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch, clean_environment: None) -> None:
    """A terminal of 200 columns, and no settings."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def storage_in_environment(monkeypatch: pytest.MonkeyPatch, storage_config: TaskiqFlowConfig) -> None:
    """Let the environment name this test's storage."""
    for name in ("storage_url", "storage_namespace", "storage_table"):
        monkeypatch.setenv(f"TASKIQ_FLOW_{name.upper()}", getattr(storage_config, name))


@pytest.fixture
def unprintable(tmp_path: Path) -> str:
    """The URL of a storage with errors whose texts a terminal would take for commands."""
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
