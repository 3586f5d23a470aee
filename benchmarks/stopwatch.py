"""A pytest plugin, loaded into the measured runs: writes how long each test took, phase by phase, as JSON.

Moments are those of ``time.monotonic``, which all processes of a machine share.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

FILE = "TASKIQ_FLOW_BENCH_FILE"
"""The variable that says where to write."""

_tests: list[dict[str, float]] = []


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Time the whole of a test: its phases and what reporting them costs."""
    test = {"began": time.monotonic(), "failed": 0.0}
    _tests.append(test)
    worked = time.process_time()
    try:
        return (yield)
    finally:
        test["ended"] = time.monotonic()
        test["cpu"] = time.process_time() - worked


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a phase."""
    if _tests:  # not in the controller of xdist, which runs no tests itself
        _tests[-1][str(report.when)] = report.duration
        _tests[-1]["failed"] += not report.passed


def pytest_sessionfinish() -> None:
    """Write it all."""
    if file := os.environ.get(FILE):
        Path(file).write_text(json.dumps(_tests))
