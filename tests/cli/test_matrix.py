"""``taskiq-flow matrix``."""

import subprocess
import sys
from pathlib import Path

import pytest

from taskiq_flow.cli import main
from taskiq_flow.pytest_plugin.report.matrix import Matrix, Outcome


@pytest.fixture
def reports(tmp_path: Path) -> list[str]:
    """The reports of two jobs: what one storage does, the other does not."""
    jobs = [
        Matrix({"sqlite": "SQLite 3"}, {"t.py::test": {"sqlite": Outcome("passed", 0.1)}}),
        Matrix({"redis": "Redis 7"}, {"t.py::test": {"redis": Outcome("failed", 1.0, "ERR unknown", "Traceback …")}}),
    ]
    files = [tmp_path / f"{number}.json" for number in range(len(jobs))]
    for file, matrix in zip(files, jobs, strict=True):
        file.write_text(matrix.to_json())
    return [str(file) for file in files]


def test_reports_are_merged(reports: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["matrix", *reports]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.splitlines() == [
        "test        sqlite     redis",
        "t.py::test  passed     failed",
        "",
        "t.py::test diverges",
        "    sqlite     passed",
        "    redis      failed   ERR unknown",
    ]
    assert main(["matrix", reports[0]]) == 0
    assert capsys.readouterr().out.endswith("\n\nno test diverges\n")


def test_the_merged_report_is_written(reports: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "new" / name for name in ("page.html", "summary.md", "merged.json")]
    assert main(["matrix", *reports, *(argument for file in files for argument in ("-o", str(file)))]) == 0
    assert capsys.readouterr() == ("", "")
    page, summary, merged = files
    assert "ERR unknown" in page.read_text(encoding="utf-8")
    assert summary.read_text(encoding="utf-8").startswith("# Storage matrix\n\n1 tests on 2 storages; 1 diverge.")
    assert Matrix.read(merged).backends == ["sqlite", "redis"]


def test_unreadable_report_is_told(reports: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.json").write_text("{}")
    for file, told in ("other.json", "is no report that --storage-report=….json wrote"), ("none.json", "No such file"):
        assert main(["matrix", *reports, str(tmp_path / file), "-o", str(tmp_path / "page.html")]) == 1
        output = capsys.readouterr()
        assert output.err.startswith("taskiq-flow: ")
        assert told in output.err
        assert file in output.err
    assert main(["matrix", *reports, "-o", str(tmp_path / "page.pdf")]) == 2
    assert "page.pdf' must end in one of .json, .md, .html" in capsys.readouterr().err
    assert main(["matrix", *reports, "-o", f"{reports[0]}/page.md"]) == 1
    assert "0.json" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_missing_package_names_the_extra(reports: list[str]) -> None:
    code = f"""
import sys
sys.modules["pytest"] = None
from taskiq_flow.cli import main
sys.exit(main({["matrix", *reports]!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("taskiq-flow: taskiq-flow matrix needs the package 'pytest', which is not installed")
    assert "taskiq-flow-kit[pytest]" in done.stderr
