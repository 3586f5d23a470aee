"""``make mutants``: mutation testing of the code that every storage rests on.

``python -m tests.mutants [module or folder …]`` copies the project to ``build/mutants``, starts real servers once, and
has the mutants judged there by :mod:`tests.mutants.judge`. It prints what came of each module's mutants and the
survivors that ``survivors.txt`` does not explain, and fails where a module's score is below 90 %. A mutant that was
killed, or whose survival is explained, is not tried again until its function changes: a run that was interrupted goes
on where it was. ``make clean`` forgets all.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from taskiq_flow.pytest_plugin.run import Run
from taskiq_flow.pytest_plugin.servers import ServerPool, ServerSettings, ServerUnavailable
from tests import redis_servers

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "mutants"
KINDS = ("redis", "postgres", "mysql")


def main() -> int:
    """Return the exit status."""
    copy = WORK / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    for name in ("taskiq_flow", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "tests.mutants.judge", *sys.argv[1:]]
    with servers(), TemporaryDirectory() as folder, redis_servers.cluster(Path(folder)) as ports:
        os.environ["TASKIQ_FLOW_CLUSTER_PORTS"] = " ".join(map(str, ports))
        return subprocess.run(command, cwd=copy, check=False).returncode


@contextmanager
def servers() -> Iterator[None]:
    """Start a server of each kind, and tell their URLs to the processes that this one starts."""
    run = Run.begin()
    variables = {kind: f"TASKIQ_FLOW_TEST_{kind.upper()}_URL" for kind in KINDS}
    settings = {kind: ServerSettings(kind, os.environ.get(variables[kind])) for kind in KINDS}
    pool = ServerPool(run.folder, run.id, run.owner_pid, settings)
    try:
        for kind in KINDS:
            try:
                os.environ[variables[kind]] = pool.get(kind).url
            except ServerUnavailable as reason:
                print(f"without {kind}, which weighs on the score: {reason}")
        yield
    finally:
        pool.close()
        run.remove_folders()


if __name__ == "__main__":
    sys.exit(main())
