"""``CacheMiddleware`` in real worker processes."""

import asyncio
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests import redis_servers
from tests.cached_tasks import is_cached


async def test_real_workers_run_it_once_for_a_hundred_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    log.touch()

    def noted() -> dict[str, list[str]]:
        """Return the processes of each event."""
        found: dict[str, list[str]] = {}
        for line in log.read_text().splitlines():
            event, process = line.split()
            found.setdefault(event, []).append(process)
        return found

    with redis_servers.standalone(tmp_path / "redis") as port:
        monkeypatch.setenv("CACHED_APP_URL", f"redis://127.0.0.1:{port}")
        monkeypatch.setenv("CACHED_APP_LOG", str(log))
        app = importlib.import_module("tests.cached_app")
        command = [sys.executable, "-m", "taskiq", "worker", "tests.cached_app:broker", "--workers", "2"]
        with (tmp_path / "worker.log").open("wb") as output:
            worker = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)  # noqa: ASYNC220
        try:

            async def until(condition: Callable[[], Awaitable[bool]]) -> None:
                while not await condition():
                    assert worker.poll() is None, (tmp_path / "worker.log").read_text()
                    await asyncio.sleep(0.02)  # other processes have no clock but the real one

            async def both_started() -> bool:
                return len(noted().get("started", [])) == 2

            await until(both_started)
            await app.broker.startup()
            sent = [await app.square.kiq(12) for _ in range(100)]
            for task in sent:
                await until(task.is_ready)
            results = [await task.get_result() for task in sent]
            await app.broker.shutdown()
        finally:
            os.killpg(worker.pid, signal.SIGKILL)  # asked to end, they wait for a last message first
            worker.wait()
    assert {result.return_value for result in results} == {144}
    assert sum(map(is_cached, results)) == 99
    assert len(noted()["ran"]) == 1
    assert len(set(noted()["handled"])) == 2, "both processes took part"
