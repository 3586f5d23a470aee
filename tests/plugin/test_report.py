"""What the end of a run says of storages: totals, divergences, the matrix, and the files it is written to."""

import json
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from taskiq_flow.pytest_plugin.report import write
from taskiq_flow.pytest_plugin.report.matrix import Matrix, Outcome, UnreadableReport, test_name
from taskiq_flow.pytest_plugin.report.text import table
from tests.inner import InnerRun

SHOP = """
import pytest

async def test_same(storage_adapter):
    await storage_adapter.set("key", 1)

@pytest.mark.parametrize("number", [1, 2])
async def test_differs(storage_adapter, storage_backend, number):
    assert storage_backend.name == "fakeredis" or number == 1, "<b>only | the fake</b>"

async def test_skips(storage_backend):
    if storage_backend.name == "memory":
        pytest.skip("not in memory")

@pytest.mark.xfail(reason="known gap")
async def test_gap(storage_backend):
    assert storage_backend.name == "sqlite"

@pytest.fixture
def broken(storage_backend):
    yield
    assert storage_backend.name != "sqlite", "teardown went wrong"

async def test_errs(broken):
    pass

def test_without_storage():
    assert True
"""
OUTCOMES = {
    "test_same": ["passed", "passed", "passed"],
    "test_differs[1]": ["passed", "passed", "passed"],
    "test_differs[2]": ["failed", "passed", "failed"],
    "test_skips": ["skipped", "passed", "passed"],
    "test_gap": ["xfailed", "xfailed", "xpassed"],
    "test_errs": ["passed", "passed", "error"],
}
BACKENDS = ["memory", "fakeredis", "sqlite"]


@pytest.fixture(params=["-p no:xdist", "-n 2"])
def run(request: pytest.FixtureRequest, inner: InnerRun) -> pytest.RunResult:
    reports = [f"--storage-report=out/report{form}" for form in (".md", ".json", ".html")]
    return inner(
        SHOP,
        "--storage-backends=fakes",
        "--storage-matrix",
        "--junitxml=junit.xml",
        *reports,
        *request.param.split(maxsplit=1),
    )


def test_a_run_tells_where_storages_differ(run: pytest.RunResult, pytester: pytest.Pytester) -> None:
    run.assert_outcomes(passed=13, failed=2, skipped=1, xfailed=2, xpassed=1, errors=1)
    # --- terminal
    run.stdout.fnmatch_lines(
        [
            "memory     3 passed, 1 failed, 1 skipped, 1 xfailed in *s  in this process",
            "fakeredis  5 passed, 1 xfailed in *s  fakeredis *",
            "sqlite     3 passed, 1 failed, 1 error, 1 xpassed in *s  SQLite *",
        ]
    )
    told = run.stdout.str()
    paragraphs = re.findall(r"^\S*::(\S+) diverges\n((?: +.*\n)+)", told, re.MULTILINE)
    assert {test for test, _ in paragraphs} == {"test_differs[2]", "test_gap", "test_errs"}
    why = dict(paragraphs)["test_differs[2]"]
    assert re.search(r"memory +failed +AssertionError: <b>only \| the fake</b>\n +fakeredis +passed\n", why)
    for test, outcomes in OUTCOMES.items():
        assert re.search(rf"^\S+::{re.escape(test)} +{' +'.join(outcomes)}$", told, re.MULTILINE)
    # --- JSON
    matrix = Matrix.read(pytester.path / "out" / "report.json")
    assert matrix.backends == BACKENDS
    seen = {test.partition("::")[2]: [told[name].outcome for name in BACKENDS] for test, told in matrix.tests.items()}
    assert seen == OUTCOMES
    assert list(seen) == list(OUTCOMES), "in the order of the file, whichever worker came first"
    (differs,) = (told for test, told in matrix.tests.items() if test.endswith("test_differs[2]"))
    assert differs["memory"].reason == "AssertionError: <b>only | the fake</b>"
    assert "def test_differs" in differs["memory"].details
    assert differs["memory"].seconds > 0
    # --- Markdown
    markdown = (pytester.path / "out" / "report.md").read_text()
    assert "6 tests on 3 storages; 3 diverge." in markdown
    assert "memory: `AssertionError: <b>only \\| the fake</b>`" in markdown
    # --- HTML
    page = (pytester.path / "out" / "report.html").read_text()
    assert "6 tests on 3 storages; 3 tests did not do the same on every storage." in page
    assert "<b>only" not in page, "what a test says is shown as it is"
    assert "&lt;b&gt;only | the fake" in page
    assert "http" not in page.replace("http-equiv", ""), "it needs nothing else"
    # --- JUnit
    cases = ET.parse(pytester.path / "junit.xml").getroot().iter("testcase")
    properties = {
        case.get("name"): {each.get("name"): each.get("value") for each in case.iter("property")} for case in cases
    }
    assert properties["test_same[sqlite]"]["storage_backend"] == "sqlite"


def test_nothing_is_said_where_nothing_differs(inner: InnerRun) -> None:
    result = inner("async def test_it(storage_adapter): ...", "--storage-backends=fakes")
    assert "diverges" not in result.stdout.str()
    assert "storage matrix" not in result.stdout.str()
    result = inner("def test_it(): ...")
    assert "storage backends ===" not in result.stdout.str()


def test_what_did_not_run_is_told(inner: InnerRun) -> None:
    code = "async def test_it(storage_adapter): ..."
    result = inner(code, "--storage-backends=memory,redis", "--storage-servers=url")
    result.stdout.fnmatch_lines(
        [
            "redis      1 skipped in *s",
            "           DID NOT RUN: storage backend redis cannot run: *",
        ]
    )


def test_a_test_that_is_run_again_counts_once(inner: InnerRun, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            first = runtestprotocol(item, nextitem=nextitem, log=False)
            for report in first:
                if report.failed:
                    report.outcome = "rerun"  # as pytest-rerunfailures does
                item.ihook.pytest_runtest_logreport(report=report)
            if any(report.outcome == "rerun" for report in first):
                item._initrequest()
                runtestprotocol(item, nextitem=nextitem)
            return True
        """
    )
    code = """
        attempts = []

        async def test_flaky(storage_adapter):
            attempts.append(1)
            assert len(attempts) > 1
    """
    result = inner(code, "--storage-backends=memory")
    result.stdout.fnmatch_lines(["memory     1 passed in *"])


WORKERS = pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["one process", "xdist"])


@WORKERS
def test_a_fixture_that_fails_before_the_storage_is_opened(inner: InnerRun, workers: tuple[str, ...]) -> None:
    code = """
        import pytest

        @pytest.fixture
        def before(request):
            assert "sqlite" not in request.node.name, "not here"

        async def test_it(before, storage_adapter): ...
    """
    result = inner(code, "--storage-backends=fakes", *workers)
    result.stdout.fnmatch_lines(["* diverges", "    memory     passed", "*", "    sqlite     error    *not here"])


def test_a_fixture_that_crashes_a_worker(inner: InnerRun) -> None:
    code = """
        import os
        import pytest

        @pytest.fixture
        def before(request):
            if "sqlite" in request.node.name:
                os._exit(3)

        async def test_it(before, storage_adapter): ...
    """
    result = inner(code, "--storage-backends=fakes", "-p", "xdist", "-n", "2")
    result.stdout.fnmatch_lines(["* diverges", "    memory     passed", "*", "    sqlite     failed   *crashed*"])


def test_parameters_of_the_users_own_that_are_called_like_storages(inner: InnerRun, pytester: pytest.Pytester) -> None:
    code = """
        import pytest

        @pytest.fixture(params=["sqlite-file", "memory"])
        def source(request):
            return request.param

        @pytest.mark.parametrize("target", ["sqlite", "memory"])
        async def test_it(source, storage_backend, target):
            assert (source, target, storage_backend.name) != ("sqlite-file", "memory", "sqlite")
    """
    result = inner(code, "--storage-backends=memory,sqlite", "--storage-report=report.json")
    result.assert_outcomes(passed=7, failed=1)
    matrix = Matrix.read(pytester.path / "report.json")
    assert {tuple(outcomes) for outcomes in matrix.tests.values()} == {("memory", "sqlite")}
    (diverging,) = matrix.diverging()
    assert matrix.tests[diverging]["sqlite"].outcome == "failed"


def test_a_property_of_the_users_own_is_no_storage(inner: InnerRun) -> None:
    code = """
        def test_it(record_property):
            record_property("storage_backend", "production")
    """
    assert "storage backends ===" not in inner(code).stdout.str()


def test_what_is_required_and_marked_to_fail_has_not_run(inner: InnerRun) -> None:
    code = """
        import pytest

        @pytest.mark.xfail(reason="bug 12")
        async def test_it(storage_adapter): ...
    """
    result = inner(code, "--storage-backends=redis", "--storage-servers=url", "--storage-require=redis")
    result.assert_outcomes(errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*DID NOT RUN: storage backend redis cannot run: *"])
    result = inner(code, "--storage-backends=memory,sqlite", "--storage-require=all")
    result.assert_outcomes(xpassed=2)


def test_what_is_required_and_no_test_uses_is_told(inner: InnerRun) -> None:
    code = """
        import pytest

        @pytest.mark.storage_backends("memory")
        async def test_it(storage_adapter): ...
    """
    result = inner(code, "--storage-backends=fakes", "--storage-require=memory,sqlite")
    result.stdout.fnmatch_lines(["required, but no test ran on: sqlite"])


def test_a_skipped_test_is_no_storage_that_did_not_run(inner: InnerRun) -> None:
    code = """
        import pytest

        @pytest.mark.skip(reason="later")
        async def test_it(storage_adapter): ...
    """
    told = inner(code, "--storage-backends=memory").stdout.str()
    assert "memory     1 skipped" in told
    assert "DID NOT RUN" not in told


@WORKERS
def test_a_report_that_cannot_be_written_hides_nothing(
    inner: InnerRun, pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    (pytester.path / "file").touch()
    reports = ["--storage-report=file/report.md", "--storage-report=report.html", *workers]
    result = inner("async def test_it(storage_adapter): ...", "--storage-backends=memory", *reports)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["storage report: *report.md COULD NOT BE WRITTEN: *", "storage report: *report.html"])
    assert (pytester.path / "report.html").exists()
    result = inner("async def test_it(storage_adapter): assert 1 == 2", "--storage-backends=memory", *reports)
    result.stdout.fnmatch_lines(["*assert 1 == 2*", "*COULD NOT BE WRITTEN*", "*1 failed*"])


def test_a_folder_is_no_report(inner: InnerRun, pytester: pytest.Pytester) -> None:
    (pytester.path / "report.md").mkdir()
    result = inner("def test_it(): ...", "--storage-report=report.md")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--storage-report: 'report.md' is a folder"])


def test_words_that_are_no_plain_text(inner: InnerRun, pytester: pytest.Pytester) -> None:
    code = """
        import pytest

        async def test_colours(storage_backend):
            assert storage_backend.name == "memory", "\\x1b[31mred\\x1b[0m\\x00 alert"

        async def test_lines(storage_backend):
            if storage_backend.name == "memory":
                pytest.skip("one\\ntwo")
            pytest.xfail("three\\nfour")
    """
    reports = [f"--storage-report=report{form}" for form in (".md", ".html", ".json")]
    result = inner(code, "--storage-backends=memory,sqlite", *reports)
    result.assert_outcomes(failed=1, passed=1, skipped=1, xfailed=1)
    rows = (pytester.path / "report.md").read_text()
    assert "AssertionError: red alert" in rows
    assert all(line.count("|") in {4, 5} for line in rows.splitlines() if "`" in line), "each row is one line"
    page = (pytester.path / "report.html").read_text()
    assert "\x1b" not in page + rows
    assert "red alert" in page


def test_words_that_cannot_be_encoded(inner: InnerRun, pytester: pytest.Pytester) -> None:
    code = """
        async def test_surrogate(storage_adapter):
            raise RuntimeError("half \\udc80")
    """
    reports = [f"--storage-report=report{form}" for form in (".md", ".html", ".json")]
    result = inner(code, "--storage-backends=memory", *reports, "-qq", "--tb=no", "-rN")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    merge = ["-m", "taskiq_flow.cli", "matrix", "report.json", "-o", "merged.html", "-o", "merged.md"]
    merged = pytester.run(sys.executable, *merge)
    assert merged.ret == 0
    for page in ("report.html", "merged.html"):
        assert "half \\udc80" in (pytester.path / page).read_text()


@pytest.mark.parametrize("name", ["report.pdf", "report"])
def test_other_forms_are_refused(inner: InnerRun, name: str) -> None:
    result = inner("def test_it(): ...", f"--storage-report={name}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--storage-report: '{name}' must end in one of .json, .md, .html"])


# --- the matrix itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [
        ("t.py::test[memory]", "t.py::test"),
        ("t.py::test[memory-1]", "t.py::test[1]"),
        ("t.py::test[a-memory-b]", "t.py::test[a-b]"),
        ("t.py::test[memory-memory]", "t.py::test[memory]"),
        ("t.py::test[memory leak]", "t.py::test[memory leak]"),
        ("t.py::test", "t.py::test"),
    ],
)
def test_names_without_their_storage(nodeid: str, name: str) -> None:
    assert test_name(nodeid, "memory") == name


def test_reports_of_several_jobs_are_merged(tmp_path: Path) -> None:
    one = Matrix({"redis": "Redis 7"}, {"a": {"redis": Outcome("passed", 1.0)}, "b": {"redis": Outcome("skipped")}})
    two = Matrix(
        {"redis": "Redis 8", "mine": "Mine 1"},
        {
            "a": {"redis": Outcome("failed", 2.0, "why", "all of it"), "mine": Outcome("passed")},
            "c": {"mine": Outcome("passed")},
        },
    )
    (tmp_path / "one.json").write_text(one.to_json())
    merged = Matrix.read(tmp_path / "one.json")
    merged.merge(two)
    assert merged.backends == ["redis", "mine"]
    merged.merge(two)
    assert merged.servers == {"redis": "Redis 7; Redis 8", "mine": "Mine 1"}, "each server that had a part in it"
    assert merged.tests["a"]["redis"] == Outcome("failed", 2.0, "why", "all of it")
    assert set(merged.tests) == {"a", "b", "c"}
    assert list(merged.diverging()) == ["a"]


def test_a_table_of_many_tests_takes_time_with_its_length_only(tmp_path: Path) -> None:
    def seconds(tests: int) -> float:
        outcomes = {name: Outcome("passed") for name in ("memory", "sqlite", "redis")}
        matrix = Matrix(tests={f"t.py::test[{number}]": outcomes for number in range(tests)})
        began = time.process_time()
        for form in (".md", ".html"):
            write(matrix, tmp_path / f"report{form}")
        list(table(matrix))
        return time.process_time() - began

    few, many = (min(seconds(tests) for _ in range(3)) for tests in (1000, 8000))
    assert many < 24 * few, "of eight times as many"


def test_tests_stand_in_the_order_of_their_collection() -> None:
    matrix = Matrix(tests={"c": {}, "b": {}, "new": {}, "a": {}})
    matrix.sort(["a", "a", "b", "c"])
    assert list(matrix.tests) == ["a", "b", "c", "new"]


def test_reasons_stand_in_the_order_of_the_storages(tmp_path: Path) -> None:
    outcomes = {
        "redis": Outcome("failed", reason="theirs"),
        "memory": Outcome("failed", reason="ours"),
        "sqlite": Outcome("passed"),
    }
    write(Matrix(tests={"test": outcomes}), tmp_path / "report.md")
    assert "| memory: `ours`<br>redis: `theirs` |" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no JSON",
        "[]",
        "{}",
        '{"taskiq_flow_matrix": 1}',
        '{"taskiq_flow_matrix": 1, "servers": {}, "tests": {"a": {"redis": {"outcome": "fine"}}}}',
        "[" * 100_000,
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "report.json"
    file.write_text(content)
    with pytest.raises(UnreadableReport, match=re.escape(f"{file} is no report")):
        Matrix.read(file)


def test_reports_of_other_versions_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text(json.dumps({"taskiq_flow_matrix": 99}))
    with pytest.raises(UnreadableReport, match="another version"):
        Matrix.read(file)


@pytest.mark.skipif(not shutil.which("chromium"), reason="no browser to look at the page with: chromium is not on PATH")
def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    outcomes = {
        "memory": Outcome("passed", 0.001),
        "redis": Outcome("failed", 1.5, "ERR <unknown>", "the whole\nstory"),
    }
    page = tmp_path / "page.html"
    write(Matrix({"redis": "Redis 7"}, {"t.py::test_it": outcomes}), page)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    shot = tmp_path / "shot.png"
    shooting = [*command, f"--screenshot={shot}", "--window-size=900,600", page.as_uri()]
    subprocess.run(shooting, check=True, capture_output=True, timeout=60)
    assert shot.read_bytes().startswith(b"\x89PNG")
    assert shot.stat().st_size > 10_000, "an empty page is smaller"
    dumped = subprocess.run([*command, "--dump-dom", page.as_uri()], check=True, capture_output=True, timeout=60)
    dom = dumped.stdout.decode()
    assert dom.count("<table>") == dom.count("</table>") == 2
    assert '<button class="mark failed" popovertarget="error-0-redis">fail</button>' in dom
    assert "<pre>the whole\nstory</pre>" in dom


def test_a_tests_own_failure_is_shown_before_that_of_its_teardown(inner: InnerRun) -> None:
    code = """
        import pytest

        @pytest.fixture
        def cleaned():
            yield
            raise RuntimeError("the teardown fails on all")

        async def test_it(cleaned, storage_adapter, storage_backend):
            assert storage_backend.name != "sqlite", "THE REASON"
    """
    result = inner(code, "--storage-backends=memory,sqlite")
    result.assert_outcomes(passed=1, failed=1, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*::test_it diverges",
            "*memory *error *RuntimeError: the teardown fails on all",
            "*sqlite *failed *AssertionError: THE REASON",
        ]
    )
