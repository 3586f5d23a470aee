"""What a contract test class may say of its adapter, and what its users are told."""

import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.inner import RunPytest

SETTINGS = "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
ADAPTER = """
import asyncio

import pytest

from taskiq_flow.pytest_plugin import StorageAdapterContract
from taskiq_flow.storage import BaseStorageAdapter, InMemoryStorageAdapter


class SixMethods(BaseStorageAdapter):
    def __init__(self):
        self.inner = InMemoryStorageAdapter()

    async def get(self, key):
        return await self.inner.get(key)

    async def set(self, key, value, ttl_seconds=None):
        await self.inner.set(key, value, ttl_seconds)

    async def delete(self, key):
        return await self.inner.delete(key)

    async def exists(self, key):
        return await self.inner.exists(key)

    async def keys(self, pattern="*"):
        return await self.inner.keys(pattern)

    async def cleanup(self, ttl_seconds=3600):
        return await self.inner.cleanup(ttl_seconds)


class Six(StorageAdapterContract):
    lacks = {"entries": "it keeps values only"}

    @pytest.fixture
    def storage_adapter(self):
        return SixMethods()
"""
FINE = f"{ADAPTER}\n\nclass TestSix(Six):\n    pass\n"
TROUBLE = f"""{ADAPTER}

class TestUndeclared(Six):
    lacks = {{}}


class TestDeclaredWrongly(Six):
    @pytest.fixture
    def storage_adapter(self):
        return InMemoryStorageAdapter()


class TestUnknownCapability(Six):
    lacks = {{"entrys": "typing error"}}


class TestUnknownClock(Six):
    expiry_clock = "moon"


class Other(SixMethods):
    async def exists(self, key):
        return await self.get(key)


class TestOther(Six):
    @pytest.fixture
    def storage_adapter(self):
        return Other()


class Crashing(SixMethods):
    async def exists(self, key):
        return 1 / 0


class TestCrashing(Six):
    @pytest.fixture
    def storage_adapter(self):
        return Crashing()


class Hanging(SixMethods):
    async def exists(self, key):
        await asyncio.sleep(1000)


class TestHanging(Six):
    timeout = 0.2

    @pytest.fixture
    def storage_adapter(self):
        return Hanging()
"""


@pytest.mark.parametrize(
    "arguments",
    [("-p", "no:asyncio", "-W", "ignore::pytest.PytestConfigWarning"), ("-o", "asyncio_mode=auto"), ()],
    ids=["no plugin", "pytest-asyncio in auto mode", "pytest-asyncio in strict mode"],
)
def test_no_plugin_for_asynchronous_tests_is_needed_and_none_is_in_the_way(
    pytester: pytest.Pytester, run_pytest: RunPytest, arguments: tuple[str, ...]
) -> None:
    pytester.makepyfile(FINE)
    pytester.makeini(SETTINGS)
    result = run_pytest("-v", "-rs", "-p", "no:cacheprovider", "-p", "no:randomly", *arguments)
    outcomes = result.parseoutcomes()
    assert result.ret == 0
    assert outcomes["passed"] > 80
    # Once each: not once for every backend of the plugin.
    assert sum(outcomes.values()) == len([line for line in result.outlines if "::TestSix::" in line])
    assert "[memory]" not in str(result.stdout)
    for reason in (
        "TestSix has no make_storage_adapter, which this rule needs (several adapters on one store: *",
        "TestSix has no read_raw, which this rule needs (what is stored, behind the adapter's back: *",
        "TestSix lacks entries: it keeps values only",
    ):
        result.stdout.fnmatch_lines([f"SKIPPED * {reason}"])


@pytest.fixture(scope="module")
def troubles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return what is printed of each class that fails."""
    folder = tmp_path_factory.mktemp("troubles")
    Path(folder, "test_trouble.py").write_text(TROUBLE)
    Path(folder, "pytest.ini").write_text(SETTINGS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:hypothesispytest",
        "-p",
        "no:randomly",
        "-k",
        "clearly_refused or none_may_be",
    ]
    lines = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.splitlines()
    headings = [number for number, line in enumerate(lines) if line.startswith("___")]
    printed: dict[str, list[str]] = {}
    for start, end in zip(headings, [*headings[1:], len(lines)], strict=True):
        heading = lines[start].strip("_ ").removeprefix("ERROR at setup of ")
        printed.setdefault(heading.partition(".")[0], []).extend(lines[start + 1 : end])
    return printed


def told(lines: list[str], *patterns: str) -> bool:
    """Return whether these lines are there, in this order, one directly after the other."""
    windows = zip(*(lines[start:] for start in range(len(patterns))), strict=False)
    return any(all(map(fnmatch, window, patterns)) for window in windows)


def test_six_methods_must_be_declared(troubles: dict[str, list[str]]) -> None:
    assert told(
        troubles["TestUndeclared"],
        "  came back  UnsupportedOperationError: SixMethods keeps values only*",
        "  should be  no error",
        '             if it cannot, declare so: TestUndeclared.lacks = {"entries": "why"}',
    )


def test_what_is_declared_lacking_must_be_lacking_clearly(troubles: dict[str, list[str]]) -> None:
    assert told(
        troubles["TestDeclaredWrongly"],
        "  came back  no error, but None",
        "  should be  UnsupportedOperationError and NotImplementedError",
    )


def test_an_unknown_capability_is_an_error_that_lists_the_known(troubles: dict[str, list[str]]) -> None:
    known = "entries, compare_and_set, default_ttl, shared_store, namespaces, event_loops, server, raw_access"
    message = f"TestUnknownCapability.lacks names 'entrys'; the capabilities are: {known}"
    assert told(troubles["TestUnknownCapability"], message)


def test_an_unknown_clock_is_an_error_that_lists_the_known(troubles: dict[str, list[str]]) -> None:
    message = "TestUnknownClock.expiry_clock is 'moon'; it must be one of: storage, wall, server"
    assert told(troubles["TestUnknownClock"], message)


def test_a_failure_says_which_rule_what_was_asked_what_came_back_and_what_should_have(
    troubles: dict[str, list[str]],
) -> None:
    assert told(
        troubles["TestOther"],
        "the storage contract is broken:",
        "  rule       None may be stored: get returns None, exists returns True, and keys lists it.",
        "  adapter    <test_trouble.Other object at *",
        "  asked      storage.set('key', None)  → None",
        "             storage.get('key')  → None",
        "             storage.exists('key')  → None",
        "             storage.aclose()  → None",
        "  came back  None",
        "  should be  True",
        "             it is of type NoneType, not bool",
    )


def test_an_unexpected_error_is_shown_with_its_place(troubles: dict[str, list[str]]) -> None:
    assert told(troubles["TestCrashing"], "  came back  ZeroDivisionError: division by zero", "  should be  no error")
    assert told(troubles["TestCrashing"], '  File "*test_trouble.py", line *, in exists', "    return 1 / 0*")


def test_an_adapter_that_hangs_is_given_up(troubles: dict[str, list[str]]) -> None:
    assert told(troubles["TestHanging"], "  came back  no answer within 0.2 s", "  should be  no error")
