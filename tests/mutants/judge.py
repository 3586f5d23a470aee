"""Judges the mutants of the copy that it is started in: ``python -m tests.mutants.judge [module or folder …]``."""

import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mutants.mutate import Mutant, mutate
from tests.mutants.trials import Trials

__all__ = ["SETTINGS", "main", "read_explanations"]

MUTATED = ("taskiq_flow/clock.py", "taskiq_flow/serialization.py", "taskiq_flow/storage", "taskiq_flow/cache")
PASS_MARK = 90
"""The least score of a module, in per cent."""

_EVERY = "contract/test_backends.py::TestEveryStorage::"
_CONTRACT = {
    name: rf"{_EVERY}.*[\[-]{name}[\]-]" for name in ("memory", "fakeredis", "sqlite", "redis", "postgres", "mysql")
}
JUDGES = {
    "taskiq_flow/clock.py": ["tests/test_clock.py", _CONTRACT["memory"]],
    "taskiq_flow/serialization.py": [
        "tests/test_serialization.py",
        "tests/contract/test_freezegun.py",
        "tests/fuzz/test_found.py",
        _CONTRACT["memory"],
    ],
    "taskiq_flow/storage/backend.py": [
        _CONTRACT["memory"],
        _CONTRACT["fakeredis"],
        "tests/test_redis_adapter.py",
        "tests/test_sqlalchemy_adapter.py",
        "tests/test_factory_secrets.py",
        "tests/test_clock.py",
        "tests/test_backend.py",
    ],
    "taskiq_flow/storage/base.py": ["tests/contract/test_clocks.py::TestWallClock", "tests/test_base.py"],
    "taskiq_flow/storage/entry.py": [_CONTRACT["memory"], "tests/test_base.py"],
    "taskiq_flow/storage/factory.py": ["tests/test_factory", "tests/test_config.py"],
    "taskiq_flow/storage/loops.py": ["tests/test_loops.py", "tests/test_connections.py"],
    "taskiq_flow/storage/memory.py": [_CONTRACT["memory"], "tests/test_factory.py", "tests/test_backend.py"],
    "taskiq_flow/storage/redis.py": [
        _CONTRACT["fakeredis"],
        _CONTRACT["redis"],
        "contract/test_backends.py::TestRedisClientHandedIn",
        "contract/test_backends.py::TestLongListings",
        r"faults/test_damaged.py::(?!.*hundred_megabytes).*[\[-]redis",
        r"faults/test_leaks.py::test_it_is_closed_while_calls_are_under_way\[sample-redis",
        "contract/test_cluster.py",
        r"tests/test_redis_cluster.py::test_(an_exchange|calls_that|cleanup|more_calls)",
        "tests/test_redis_adapter.py",
        "tests/test_backend.py",
        "tests/test_connections.py",
        "tests/test_factory",
    ],
    "taskiq_flow/storage/redis_broker.py": ["tests/test_factory.py"],
    "taskiq_flow/storage/rules.py": ["tests/test_rules.py", _CONTRACT["memory"]],
    "taskiq_flow/storage/sqlalchemy.py": [
        *(_CONTRACT[name] for name in ("sqlite", "postgres", "mysql")),
        "contract/test_backends.py::TestSQLiteInThreads",
        "tests/test_sql",
        "tests/test_connections.py",
        r"tests/test_backend.py.*[\[-](sqlite|postgres|mysql)",
        r"contract/test_sync_drivers.py",
        r"faults/test_cancelled.py.*[\[-](sqlite|postgres)",
        "tests/faults/test_sqlite_fails.py",
    ],
    "taskiq_flow/storage/statements.py": [
        *(_CONTRACT[name] for name in ("sqlite", "postgres", "mysql")),
        "tests/test_sql",
        r"contract/test_sync_drivers.py",
    ],
    "taskiq_flow/storage/threads.py": ["tests/test_threads.py", "tests/test_sqlalchemy_adapter.py"],
    "taskiq_flow/storage/urls.py": ["tests/test_config.py", "tests/test_factory.py", "tests/test_sql_details.py"],
    "taskiq_flow/cache": [
        r"contract/test_caches.py::.*(TestInMemory|\[memory)",
        "tests/test_cache_details.py",
        r"tests/test_cache.py::(?!test_of_200|.*[\[-](sqlite|redis|postgres|mysql)[\]-])",
        "tests/test_factory.py",
    ],
}
"""Which tests judge a module, or the modules of a folder: regular expressions for their ids. Of those, a mutant is
judged by the ones that call the function."""

_KILLED = {"killed", "timed out"}
# mutmut does nothing without.
SETTINGS = "[mutmut]\nsource_paths=taskiq_flow\n"


class Memory:
    """What came of each mutant, from run to run."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._outcomes: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}

    def note(self, mutant: Mutant, outcome: str, killer: str, seconds: float) -> None:
        """Keep what came of a mutant, and say so."""
        self._outcomes[mutant.key] = {
            "function": mutant.fingerprint,
            "outcome": outcome,
            "killer": killer,
            "seconds": round(seconds, 2),
        }
        if outcome not in _KILLED:
            print(f"{outcome}: {mutant.key}", flush=True)
        written = self._file.with_suffix(".new")
        written.write_text(json.dumps(self._outcomes, indent=1, ensure_ascii=False))
        written.replace(self._file)

    def outcome(self, mutant: Mutant) -> str:
        """Return what came of a mutant, unless its function has changed since."""
        known = self._outcomes.get(mutant.key)
        return str(known["outcome"]) if known and known["function"] == mutant.fingerprint else "not tried"

    def seconds(self, mutant: Mutant) -> float:
        """Return the seconds that it took."""
        return float(self._outcomes.get(mutant.key, {}).get("seconds", 0))


def main(chosen: list[str]) -> int:
    """Return the exit status."""
    paths = [str(file) for place in MUTATED for file in _files(Path(place)) if _is_chosen(str(file), chosen)]
    if not paths:
        print(f"nothing of {' '.join(chosen)} is mutated; there are: {', '.join(MUTATED)}")
        return 2
    Path("setup.cfg").write_text(SETTINGS)
    mutants = [mutant for path in paths for mutant in mutate(Path(path), path)]
    memory = Memory(Path("..") / "outcomes.json")
    explained = read_explanations(Path(__file__).with_name("survivors.txt").read_text())
    known = {mutant.key for mutant in mutants if memory.outcome(mutant) in _KILLED}
    known |= {mutant.key for mutant in mutants if memory.outcome(mutant) == "survived" and mutant.key in explained}
    waiting = [mutant for mutant in mutants if mutant.key not in known]
    print(f"{len(mutants)} mutants, {len(known)} of them killed before, or explained", flush=True)
    began = time.monotonic()
    if waiting and _try(waiting, memory) != pytest.ExitCode.OK:
        return 2
    print(f"{time.monotonic() - began:.0f} s")
    return report(mutants, memory, explained)


def _files(place: Path) -> Iterator[Path]:
    yield from [place] if place.is_file() else sorted(place.rglob("*.py"))


def _is_chosen(path: str, chosen: list[str]) -> bool:
    return not chosen or any(path.startswith(start) for start in chosen)


def _try(mutants: list[Mutant], memory: Memory) -> int:
    jobs = int(os.environ.get("JOBS") or os.cpu_count() or 1)
    patterns = {mutant.path: re.compile("|".join(_judges(mutant.path))) for mutant in mutants}
    trials = Trials(mutants, lambda mutant, test: patterns[mutant.path].search(test) is not None, jobs, memory.note)
    places = {judge.partition("::")[0] for path in patterns for judge in _judges(path)}
    files = [str(file) for file in Path("tests").rglob("test_*.py") if any(re.search(at, str(file)) for at in places)]
    # A test that takes so long waits for what its mutant never does.
    quiet = ["-q", "--no-header", "--tb=native", "-p", "no:cacheprovider", "-o", "timeout=20", "-m", "long or not long"]
    return pytest.main([*quiet, f"--storage-backends={','.join(_CONTRACT)}", *files], [trials])


def _judges(path: str) -> list[str]:
    return next(judges for start, judges in JUDGES.items() if path.startswith(start))


def report(mutants: list[Mutant], memory: Memory, explained: dict[str, str]) -> int:
    """Print the table and the survivors that nobody explained; return the exit status."""
    survivors = [mutant for mutant in mutants if memory.outcome(mutant) not in _KILLED]
    unexplained = [mutant for mutant in survivors if mutant.key not in explained]
    for mutant in unexplained:
        print(f"\n{mutant.key}\n  {memory.outcome(mutant)}")
    stale = explained.keys() - {mutant.key for mutant in survivors}
    for key in sorted(stale):
        if any(key.startswith(f"{mutant.path} ") for mutant in mutants):
            print(f"\n{key}\n  is explained, but does not survive any more")
    print(f"\n{'module':<40} mutants  killed  timed out  survived (explained)   score  seconds")
    by_path: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        by_path.setdefault(mutant.path, []).append(mutant)
    failed = False
    for path, own in [*by_path.items(), ("all", mutants)]:
        count = Counter(memory.outcome(mutant) for mutant in own)
        killed = count["killed"] + count["timed out"]
        score = 100 * killed / len(own)
        failed |= score < PASS_MARK
        survived = len(own) - killed
        told = sum(mutant in survivors and mutant.key in explained for mutant in own)
        seconds = sum(map(memory.seconds, own))
        print(
            f"{path:<40} {len(own):7} {count['killed']:7} {count['timed out']:10} {survived:9} {f'({told})':>11}"
            f" {score:6.1f} % {seconds:7.0f}"
        )
    return int(failed)


def read_explanations(text: str) -> dict[str, str]:
    """Return why each mutant survives, by its key.

    A line that begins with ``taskiq_flow/`` names a file and a function; the lines with ``-`` and then ``+`` after it
    are a change each, as are those after an empty line; a line with ``=`` says why all changes since the last such line
    make no difference.
    """
    explained: dict[str, str] = {}
    function = before = ""
    changes: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("taskiq_flow/"):
            function = line
        elif line.startswith("= "):
            explained |= {"\n".join([function, *change]): line[2:] for change in changes}
            changes = []
        elif line.startswith(("- ", "+ ")):
            if before[:2] == "- " or before[:2] == line[:2]:
                changes[-1].append(line)
            else:
                changes.append([line])
        before = line
    return explained


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
