"""Tests that pytest cannot run once for each storage: they run on one, or are refused."""

import pytest

from tests.inner import InnerRun

TEST_CASES = """
    import asyncio
    import unittest

    import pytest


    class TestPlain(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def storage(self, storage_adapter, storage_backend):
            self.adapter, self.backend = storage_adapter, storage_backend

        def test_it(self):
            asyncio.run(self.adapter.set("key", 1))
            print("plain on", self.backend.name)


    class TestAsync(unittest.IsolatedAsyncioTestCase):
        @pytest.fixture(autouse=True)
        def storage(self, storage_adapter, storage_backend):
            self.adapter, self.backend = storage_adapter, storage_backend

        async def test_it(self):
            await self.adapter.set("key", 1)
            print("async on", self.backend.name)


    def test_asked_for_later(request):
        print("later on", request.getfixturevalue("storage_backend").name)


    async def test_parametrized(storage_adapter): ...
"""


def test_test_cases_and_late_requests_run_on_the_first_storage_of_the_run(inner: InnerRun) -> None:
    result = inner(TEST_CASES, "-s", "--storage-backends=fakeredis,sqlite", "-p", "no:randomly")
    result.assert_outcomes(passed=5)
    text = result.stdout.str()
    assert [f"{what} on fakeredis" in text for what in ("plain", "async", "later")] == [True] * 3
    result.stdout.fnmatch_lines(
        [
            "fakeredis  4 passed *",
            "sqlite     1 passed *",
            "3 tests ran on fakeredis only: pytest cannot run a TestCase*",
        ]
    )


@pytest.mark.parametrize("by_ini", [False, True])
def test_the_storage_for_them_can_be_chosen(inner: InnerRun, by_ini: bool) -> None:
    option = [] if by_ini else ["--storage-fallback=sqlite"]
    ini = "storage_fallback = sqlite\n" if by_ini else ""
    result = inner(TEST_CASES, "--storage-backends=memory,sqlite", *option, ini=ini)
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["3 tests ran on sqlite only: *"])


def test_they_can_be_refused(inner: InnerRun) -> None:
    result = inner(TEST_CASES, "--storage-backends=memory,sqlite", "--storage-fallback=error")
    result.assert_outcomes(passed=2, failed=1, errors=2)
    assert "pytest cannot run it once for each" in result.stdout.str()
    assert " only: pytest" not in result.stdout.str()


@pytest.mark.parametrize("name", ["redis", "default", "nonsense"])
def test_another_name_is_a_usage_error(inner: InnerRun, name: str) -> None:
    result = inner(TEST_CASES, "--storage-backends=memory,sqlite", f"--storage-fallback={name}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    expected = f"--storage-fallback: '{name}' must be one of this run's storage backends (memory, sqlite), or 'error'"
    assert expected in result.stderr.str()


def test_a_marker_chooses_for_them_too(inner: InnerRun) -> None:
    code = """
        import pytest

        @pytest.mark.storage_backends("sqlite")
        def test_one(request):
            assert request.getfixturevalue("storage_backend").name == "sqlite"

        @pytest.mark.storage_backends("redis")
        def test_none(request):
            request.getfixturevalue("storage_backend")
    """
    result = inner(code, "--storage-backends=memory,sqlite", "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*its marker leaves none of this run's storages (memory, sqlite)"])


def test_doctests_run_on_one_storage_under_an_autouse_fixture(inner: InnerRun, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(autouse=True)
        def stored(storage_adapter): ...
        """
    )
    pytester.makepyfile(module="def one():\n    '''\n    >>> one()\n    1\n    '''\n    return 1\n")
    result = inner("def test_it(): ...", "--doctest-modules", "--storage-backends=memory,sqlite")
    result.assert_outcomes(passed=3)


def test_the_matrix_has_them_in_that_storages_column(inner: InnerRun) -> None:
    result = inner(TEST_CASES, "--storage-backends=memory,sqlite", "--storage-matrix")
    result.stdout.re_match_lines([r"test_inner.py::TestPlain::test_it    passed$"])
