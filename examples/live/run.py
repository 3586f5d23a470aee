"""Starts a worker and a scheduler as processes of their own, lets a client use them, and shows the history.

``python run.py`` takes the servers from ``LIVE_REDIS_URL`` and ``TASKIQ_FLOW_STORAGE_URL``; where these are not set,
the test kit finds or starts a Redis and a PostgreSQL, which end with this program.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from taskiq_flow.pytest_plugin.servers import ServerPool, ServerSettings
from taskiq_flow.pytest_plugin.stores import server_kind

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("LIVE_SECONDS", "8"))
TASKIQ = [sys.executable, "-m", "taskiq"]
HISTORY = [sys.executable, "-m", "taskiq_flow.cli", "history"]


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """Give the environment in which the application finds its servers."""
    given = {name: os.environ[name] for name in ("LIVE_REDIS_URL", "TASKIQ_FLOW_STORAGE_URL") if name in os.environ}
    if len(given) == 2:
        yield {**os.environ}
        return
    pool = ServerPool(
        Path(tempfile.mkdtemp(prefix="taskiq-flow-live-")),
        f"live_{os.getpid()}",
        os.getpid(),
        {kind: ServerSettings(server_kind(kind)) for kind in ("redis", "postgres")},
    )
    try:
        found = {kind: pool.get(kind) for kind in ("redis", "postgres")}
        for server in found.values():
            print(f"{server.version}, {server.detail}", flush=True)
        urls = {"LIVE_REDIS_URL": found["redis"].url, "TASKIQ_FLOW_STORAGE_URL": found["postgres"].url}
        yield {**os.environ, **urls, **given}
    finally:
        pool.close()


@contextmanager
def running(*command: str, environment: dict[str, str]) -> Iterator[None]:
    """Run a process for as long as the block takes."""
    process = subprocess.Popen(command, cwd=HERE, env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    with ExitStack() as stack:
        environment = stack.enter_context(servers())
        worker = [*TASKIQ, "worker", "app:broker", "--workers", "2", "--log-level", "WARNING"]
        stack.enter_context(running(*worker, environment=environment))
        scheduler = [*TASKIQ, "scheduler", "app:scheduler", "--update-interval", "1", "--log-level", "WARNING"]
        stack.enter_context(running(*scheduler, environment=environment))
        client = [sys.executable, "client.py"]
        subprocess.run(client, cwd=HERE, env=environment, check=True)
        time.sleep(SECONDS)  # for what is scheduled
        for question in (["--run", "italy"], ["--task", "heartbeat"]):
            print(f"\n$ taskiq-flow history {' '.join(question)}", flush=True)
            subprocess.run([*HISTORY, *question], env=environment, check=True)


if __name__ == "__main__":
    main()
