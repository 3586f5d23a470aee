"""What ``make mutants`` rests on, on a module of a few lines."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mutants.judge import SETTINGS, read_explanations
from tests.mutants.mutate import Mutant, mutate
from tests.mutants.switch import called, switch_on

SOURCE = """
from contextlib import contextmanager


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    @property
    def next(self):
        return self.count + 1

    @classmethod
    def at_ten(cls):
        return cls(10)


@contextmanager
def doubled(number):
    yield number * 2
"""


@pytest.fixture
def mutants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Mutant]]:
    (tmp_path / "setup.cfg").write_text(SETTINGS)
    file = tmp_path / "counting.py"
    file.write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield mutate(file, "counting.py")
    switch_on("")


def test_each_mutant_can_be_switched_on(mutants: list[Mutant]) -> None:
    counting: Any = importlib.import_module("counting")

    def outcome() -> tuple[object, ...]:
        with counting.doubled(8) as doubled:
            return counting.Counter().next, counting.Counter.at_ten().count, doubled

    assert outcome() == (1, 10, 16), "none is on"
    outcomes = {}
    for mutant in mutants:
        switch_on(mutant.name)
        try:
            outcomes[mutant.key] = outcome()
        except TypeError:
            outcomes[mutant.key] = ()
    assert outcomes["counting.py Counter.next\n- return self.count + 1\n+ return self.count - 1"] == (-1, 10, 16)
    assert outcomes["counting.py Counter.at_ten\n- return cls(10)\n+ return cls(11)"] == (1, 11, 16)
    assert outcomes["counting.py doubled\n- yield number * 2\n+ yield number / 2"] == (1, 10, 4)
    assert (1, 10, 16) not in outcomes.values(), "none survives this test"
    assert called >= {mutant.switch for mutant in mutants}


def test_survivors_are_explained_by_their_change() -> None:
    text = """
# A remark.
taskiq_flow/a.py one
- x = 1
+ x = 2
- y = (
-     1)
+ y = 2
= Nobody asks.

taskiq_flow/a.py two
- z
+ None
= Nobody knows.
"""
    assert read_explanations(text) == {
        "taskiq_flow/a.py one\n- x = 1\n+ x = 2": "Nobody asks.",
        "taskiq_flow/a.py one\n- y = (\n-     1)\n+ y = 2": "Nobody asks.",
        "taskiq_flow/a.py two\n- z\n+ None": "Nobody knows.",
    }
