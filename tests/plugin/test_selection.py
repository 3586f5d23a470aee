"""Which backends a test runs on: option, ini, marker, groups; and what is said where it cannot."""

import pytest

from tests.inner import InnerRun

ONE_TEST = """
async def test_one(storage_adapter):
    await storage_adapter.set("key", 1)
"""

FAKES = ["memory", "fakeredis", "sqlite"]


def ran(result: pytest.RunResult) -> list[str]:
    """Return the backends in the order in which their tests passed."""
    lines = [line for line in result.outlines if "PASSED" in line and "::" in line]
    return [line.partition("[")[2].partition("]")[0] for line in lines]


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("memory", ["memory"]),
        ("sqlite,memory", ["memory", "sqlite"]),
        ("fakes", FAKES),
        ("fakeredis sqlite", ["fakeredis", "sqlite"]),
    ],
)
def test_option_selects_backends(inner: InnerRun, option: str, expected: list[str]) -> None:
    assert ran(inner(ONE_TEST, "-v", f"--storage-backends={option}")) == expected


def test_ini_selects_backends_and_option_goes_before_it(inner: InnerRun) -> None:
    result = inner(ONE_TEST, "-v", ini="storage_backends = memory, sqlite")
    assert ran(result) == ["memory", "sqlite"]
    result.stdout.fnmatch_lines(["storage backends: memory, sqlite [[]ini storage_backends]"])
    result.stdout.no_fnmatch_line("storage servers:*")
    assert ran(inner(ONE_TEST, "-v", "--storage-backends=fakeredis", ini="storage_backends = memory")) == ["fakeredis"]


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "1")], ids=["one process", "xdist"])
def test_where_servers_will_come_from_is_said_before_the_tests(inner: InnerRun, workers: tuple[str, ...]) -> None:
    result = inner(ONE_TEST, *workers, "--storage-backends=memory,redis,postgres", "--storage-servers=url")
    result.stdout.fnmatch_lines(
        [
            "storage backends: memory, redis, postgres *",
            "storage servers: redis (unavailable: url: none given), postgres (unavailable: *",
        ]
    )


def test_servers_that_no_test_needs_are_not_mentioned(inner: InnerRun) -> None:
    inner("def test_it(): pass", "-v").stdout.no_fnmatch_line("storage servers:*")
    inner(ONE_TEST, "-q").stdout.no_fnmatch_line("storage servers:*")


def test_marker_narrows_the_selection(inner: InnerRun) -> None:
    code = """
        import pytest

        @pytest.mark.storage_backends("sqlite", "memory")
        async def test_named(storage_adapter):
            await storage_adapter.set("key", 1)

        @pytest.mark.storage_backends("fakes", exclude=("memory",))
        async def test_without_memory(storage_adapter):
            await storage_adapter.set("key", 1)

        @pytest.mark.storage_backends(exclude="sqlite")
        class TestClass:
            async def test_inherits(self, storage_adapter):
                await storage_adapter.set("key", 1)
    """
    result = inner(code, "-v", "--storage-backends=fakes")
    assert ran(result) == ["memory", "sqlite", "fakeredis", "sqlite", "memory", "fakeredis"]


def test_marker_that_leaves_nothing_is_a_visible_skip(inner: InnerRun) -> None:
    code = """
        import pytest

        @pytest.mark.storage_backends("redis")
        async def test_real_only(storage_adapter):
            await storage_adapter.set("key", 1)
    """
    result = inner(code, "-rs", "--storage-backends=memory,sqlite")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*the marker wants redis, and this run has only memory, sqlite"])


@pytest.mark.parametrize(
    ("arguments", "ini", "words"),
    [
        (["--storage-backends=memroy"], "", ["--storage-backends", "'memroy'", "memory, fakeredis, sqlite", "real"]),
        ([], "storage_backends = mongo", ["ini storage_backends", "'mongo'", "known backends"]),
        (["--storage-require=mysql9"], "", ["--storage-require", "'mysql9'", "known backends"]),
        (
            ["--storage-backends=memory", "--storage-require=redis"],
            "",
            ["--storage-require names redis", "--storage-backends", "leaves out"],
        ),
        (["--storage-servers=cloud"], "", ["--storage-servers", "'cloud'", "url, docker, local, wheel"]),
        ([], "frozen_clock = all", ["frozen_clock", "'all'", "storage, everything"]),
        (["--storage-backends="], "", ["--storage-backends has no value"]),
        (["--storage-backends=, "], "", ["--storage-backends names nothing: ', '"]),
        (["--storage-require= "], "", ["--storage-require has no value"]),
        (["--storage-servers=,"], "", ["--storage-servers names nothing"]),
        (["--storage-redis-url="], "", ["--storage-redis-url has no value"]),
        (
            ["--storage-redis-url=http://:secret@127.0.0.1:1"],
            "",
            ["--storage-redis-url: http://:***@127.0.0.1:1 cannot be used: its scheme is not one of redis://"],
        ),
        (
            ["--storage-redis-url=127.0.0.1:6379"],
            "",
            ["--storage-redis-url: 127.0.0.1:6379 cannot be used: its scheme is not one of redis://"],
        ),
        (
            ["--storage-redis-url=redis://127.0.0.1", "--storage-servers=local,docker"],
            "",
            ["--storage-redis-url names a server, but servers may come from local, docker only: add 'url' to them"],
        ),
        (
            ["--storage-mysql-url=mysql://root@127.0.0.1/test"],
            "",
            [
                "--storage-mysql-url is for mysql, which the default leaves out",
                "--storage-backends=memory,fakeredis,sqlite,redis,postgres,mysql",
            ],
        ),
        (["--storage-valkey-image=valkey/valkey"], "", ["--storage-valkey-image is for valkey"]),
    ],
)
def test_bad_setting_is_a_usage_error(inner: InnerRun, arguments: list[str], ini: str, words: list[str]) -> None:
    result = inner(ONE_TEST, *arguments, ini=ini)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    for word in words:
        assert word in result.stderr.str(), f"{word!r} is not in: {result.stderr.str()}"


def test_settings_may_be_there_for_other_runs(inner: InnerRun, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("MYSQL", "REDIS"):
        monkeypatch.setenv(f"TASKIQ_FLOW_TEST_{kind}_URL", "nonsense")
    ini = "storage_valkey_url = valkey://127.0.0.1:1"
    inner(ONE_TEST, "--storage-backends=memory", "--storage-mysql-image=x", ini=ini).assert_outcomes(passed=1)


def test_a_misspelt_variable_is_a_usage_error(inner: InnerRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKIQ_FLOW_TEST_REDIS_URI", "redis://:secret@127.0.0.1:1")
    result = inner(ONE_TEST)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    told = "unknown environment variable TASKIQ_FLOW_TEST_REDIS_URI; did you mean TASKIQ_FLOW_TEST_REDIS_URL? Known: "
    result.stderr.fnmatch_lines([f"ERROR: {told}*"])
    assert "secret" not in result.stderr.str()


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ('storage_backends("oracle")', ["test_inner.py", "'oracle'", "known backends"]),
        ('storage_backends(exlude="memory")', ["test_inner.py", "'exlude'", "known: exclude"]),
        (
            'storage_backends(["memory"])',
            ["test_inner.py", "a name of a storage backend must be a string, not ['memory']"],
        ),
    ],
)
def test_bad_marker_stops_the_collection(inner: InnerRun, marker: str, words: list[str]) -> None:
    result = inner(f"import pytest\n@pytest.mark.{marker}\nasync def test_one(storage_adapter): pass\n")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    for word in words:
        assert word in result.stdout.str()


def test_names_in_toml_may_be_a_list(inner: InnerRun, pytester: pytest.Pytester) -> None:
    (pytester.path / "pyproject.toml").write_text(
        """
        [tool.pytest.ini_options]
        asyncio_mode = "auto"
        asyncio_default_fixture_loop_scope = "function"
        storage_backends = ["memory", "sqlite"]
        storage_require = "memory,  sqlite"
        """
    )
    assert ran(inner(ONE_TEST, "-v", "-c", "pyproject.toml")) == ["memory", "sqlite"]


def test_group_all_of_required_means_those_of_the_run(inner: InnerRun) -> None:
    inner(ONE_TEST, "--storage-backends=fakes", "--storage-require=all").assert_outcomes(passed=3)


NOBODY = "redis://:secret@127.0.0.1:1/0"


def test_backend_that_cannot_run_is_skipped_with_the_reason(inner: InnerRun) -> None:
    result = inner(ONE_TEST, "-rs", "--storage-backends=redis", "--storage-servers=url")
    result.assert_outcomes(skipped=1)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["SKIPPED*storage backend redis cannot run:*url: none given*"])


def test_required_backend_that_cannot_run_fails(inner: InnerRun) -> None:
    arguments = ["--storage-backends=memory,redis", "--storage-require=redis", "--storage-servers=url"]
    result = inner(ONE_TEST, *arguments)
    result.assert_outcomes(passed=1, errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*storage backend redis cannot run:*", "*--storage-require makes this a failure*"])


@pytest.mark.parametrize("origin", ["--storage-redis-url", "TASKIQ_FLOW_TEST_REDIS_URL", "ini storage_redis_url"])
def test_a_server_that_was_given_is_used_or_the_run_fails(
    inner: InnerRun, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, ini = ["--storage-backends=memory,redis"], ""
    if origin.startswith("--"):
        arguments.append(f"{origin}={NOBODY}")
    elif origin.startswith("ini"):
        ini = f"storage_redis_url = {NOBODY}"
    else:
        monkeypatch.setenv(origin, NOBODY)
    result = inner(ONE_TEST, *arguments, ini=ini)
    result.assert_outcomes(passed=1, errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [f"*storage backend redis cannot run:*{origin}*127.0.0.1:1*", f"*({origin} makes this a failure*"]
    )
    assert "secret" not in result.stdout.str()


def test_no_source_of_servers_gives_its_reasons(inner: InnerRun) -> None:
    result = inner(ONE_TEST, "-rs", "--storage-backends=redis", "--storage-servers=url")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*storage backend redis cannot run:*url*"])


def test_plugin_by_name_and_beside_autoload(
    inner: InnerRun, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner(ONE_TEST, "-p", "taskiq_flow.pytest_plugin", "--storage-backends=memory").assert_outcomes(passed=1)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    arguments = ["-p", "pytest_asyncio.plugin", "-p", "taskiq_flow.pytest_plugin", "--storage-backends=memory"]
    inner(ONE_TEST, *arguments).assert_outcomes(passed=1)


def test_totals_tell_each_backend(inner: InnerRun) -> None:
    code = """
        import pytest

        async def test_differs(storage_adapter, storage_backend):
            assert storage_backend.name != "sqlite"

        async def test_passes(storage_adapter): pass

        async def test_is_skipped(storage_adapter, storage_backend):
            if storage_backend.name == "memory":
                pytest.skip("not here")
    """
    result = inner(code, "--storage-backends=fakes")
    result.stdout.fnmatch_lines(
        [
            "*= storage backends =*",
            "memory     2 passed, 1 skipped in *s  in this process",
            "fakeredis  3 passed in *s  fakeredis *, in this process",
            "sqlite     2 passed, 1 failed in *s  SQLite *, a file",
        ]
    )


def test_a_run_without_storage_tests_prints_no_totals(inner: InnerRun) -> None:
    result = inner("def test_plain(): pass")
    assert "= storage backends =" not in result.stdout.str()


def test_namesake_is_told(inner: InnerRun, pytester: pytest.Pytester) -> None:
    folder = pytester.mkdir("taskiq_flow-1.2.0.dist-info")
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: taskiq-flow\nVersion: 1.2.0\n")
    result = inner("def test_plain(): pass", "-W", "default")
    result.stdout.fnmatch_lines(["*two distributions that both own the package 'taskiq_flow'*"])
