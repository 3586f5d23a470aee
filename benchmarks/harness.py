"""What the kit costs, beside its targets and its peers: ``make bench``, or ``python -m benchmarks.harness``.

Everything is measured on generated pytest projects (:mod:`benchmarks.projects`), each run being a process of its own in
a fresh folder. Runs of one kind are interleaved and repeated, and the quickest counts: whatever else the machine does
only ever adds. "CPU" is what the test process itself computed: far from the time, it waited, for the disk, a server or
its turn. Servers that the peers may flush are this run's own.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks import stopwatch
from benchmarks.projects import (
    ASYNC,
    ASYNCPG,
    BACKENDS,
    BARE_BROKER,
    BROKER,
    CLOCK,
    FREEZEGUN,
    KIT,
    POSTGRESQL,
    PROJECTS,
    REDIS_PY,
    REDISDB,
    SERVERS,
    STORAGE,
    UNCALLED,
    UNUSED,
    Project,
)
from taskiq_flow.pytest_plugin.run import Run
from taskiq_flow.pytest_plugin.servers import ServerPool, ServerSettings, ServerUnavailable
from taskiq_flow.pytest_plugin.stores import server_kind

ROOT = Path(__file__).parents[1]
RUN_TIMEOUT = 300.0


class Unmeasured(Exception):  # noqa: N818 - it is told in the table
    """Something could not be measured; the message says why."""


@dataclass(frozen=True)
class Effort:
    """How much is done: tests in a run, rounds of each run, and how often pytest is started empty."""

    tests: int
    rounds: int
    starts: int


THOROUGH, QUICK = Effort(tests=300, rounds=3, starts=15), Effort(tests=60, rounds=2, starts=5)


@dataclass(frozen=True)
class Row:
    """A line of the table; times in milliseconds."""

    what: str
    cost: float | None
    target: float | None = None
    cpu: float | None = None
    peers: Mapping[str, float | None] = field(default_factory=dict)
    note: str = ""
    is_failure: bool = False
    """Whether there is no cost for a reason that should not be."""


@dataclass(frozen=True)
class Outcome:
    """One run of pytest."""

    began: float
    seconds: float
    cpu: float
    tests: list[dict[str, float]]


# --- running pytest ---------------------------------------------------------------------------------------------------


def run_pytest(source: str, arguments: Sequence[str], environment: Mapping[str, str], *, alone: bool = True) -> Outcome:
    """Run a file of tests in a process of its own.

    :param alone: load the plugins only that ``arguments`` name, not all that are installed.
    :raises Unmeasured: not all of it passed.
    """
    with tempfile.TemporaryDirectory(prefix="taskiq-flow-bench-") as name:
        folder = Path(name)
        (folder / "test_bench.py").write_text(source)
        (folder / "pytest.ini").write_text(
            "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        )
        times = folder / "times.json"
        settings = {**environment, stopwatch.FILE: str(times), "PYTHONPATH": str(ROOT)}
        if alone:
            settings["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", stopwatch.__name__, *arguments]
        began, worked = time.monotonic(), cpu_of_children()
        done = subprocess.run(
            command, cwd=folder, env=settings, capture_output=True, text=True, timeout=RUN_TIMEOUT, check=False
        )
        seconds, cpu = time.monotonic() - began, cpu_of_children() - worked
        tests = json.loads(times.read_text()) if times.exists() else []
    if done.returncode or any(test["failed"] for test in tests):
        last = [line for line in (done.stdout or done.stderr).splitlines() if line.strip()][-3:]
        raise Unmeasured(" / ".join(last))
    return Outcome(began, seconds, cpu, tests)


def cpu_of_children() -> float:
    """Return the seconds that ended children of this process have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def plugins(*names: str) -> list[str]:
    """Return the arguments that load plugins."""
    return [argument for name in names for argument in ("-p", name)]


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what would change where servers come from, or how pytest runs; which
    images Docker has is another thing.
    """
    strange = ("TASKIQ_FLOW_", "PYTEST_", "COV_", "PYTHONDONTWRITEBYTECODE")
    return {
        name: value for name, value in os.environ.items() if name.endswith("_IMAGE") or not name.startswith(strange)
    }


def url_variable(kind: str) -> str:
    """Return the variable that tells the kit of a server."""
    return f"TASKIQ_FLOW_TEST_{kind.upper()}_URL"


@contextmanager
def private_servers() -> Iterator[dict[str, str]]:
    """Start the servers that the runs share, and yield the variables that lead to them; no server is no variable."""
    run = Run.begin()
    settings = {kind: ServerSettings(server_kind(kind), sources=("local", "wheel")) for kind in SERVERS}
    pool = ServerPool(run.folder, run.id, run.owner_pid, settings)
    urls = {}
    try:
        for kind in SERVERS:
            try:
                server = pool.get(kind)
            except ServerUnavailable as reason:
                tell(str(reason))
            else:
                tell(f"{kind}: {server.version}, {server.detail}")
                urls[url_variable(kind)] = server.url
        yield urls
    finally:
        pool.close()
        run.remove_folders()


# --- what a test pays -------------------------------------------------------------------------------------------------


@dataclass
class Costs:
    """What a test of each project took, in milliseconds, run for run."""

    taken: dict[str, list[float]] = field(default_factory=dict)
    computed: dict[str, list[float]] = field(default_factory=dict)
    median: dict[str, list[float]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def measure(self, project: Project, tests: int, environment: Mapping[str, str]) -> None:
        """Run a project once more."""
        if project.name in self.problems:
            return
        if project.backend in SERVERS and url_variable(project.backend) not in environment:
            self.problems[project.name] = f"no {project.backend} server"
            return
        arguments = ["-q", *plugins(*project.plugins)]
        if KIT in project.plugins and project.backend:
            arguments += [f"--storage-backends={project.backend}"]
        try:
            outcome = run_pytest(project.source(tests), arguments, environment)
        except Unmeasured as reason:
            self.problems[project.name] = str(reason)
            return
        rest = outcome.tests[1:]  # the first one also pays for imports and for the run's table
        taken = [1000 * (test["ended"] - test["began"]) for test in rest]
        self.taken.setdefault(project.name, []).append(mean(taken))
        self.median.setdefault(project.name, []).append(median(taken))
        self.computed.setdefault(project.name, []).append(mean(1000 * test["cpu"] for test in rest))

    def row(self, project: Project, target: float | None = None, *peers: Project) -> Row:
        """Return the line of a project."""
        problem = self.problems.get(project.name, "")
        return Row(
            f"{project.name}: a test",
            _more(self.taken, project),
            target,
            _more(self.computed, project),
            {peer.name: _more(self.taken, peer) for peer in peers},
            problem,
            bool(problem),
        )


def _more(times: Mapping[str, Sequence[float]], project: Project) -> float | None:
    """Return how much more a test of the project takes than the same without the fixture; None if unknown."""
    here, without = times.get(project.name), times.get(project.without.name)
    return min(here) - min(without) if here and without else None


def what_a_test_pays(effort: Effort, raw: dict[str, Any]) -> Iterator[Row]:
    """Measure the fixtures, and the peers' on the same servers."""
    costs = Costs()
    with private_servers() as urls:
        environment = {**clean_environment(), **urls}
        for turn in range(effort.rounds):
            for project in PROJECTS:
                tell(f"round {turn + 1} of {effort.rounds}: {project.name}")
                costs.measure(project, effort.tests, environment)
    raw["milliseconds of a test, in each run"] = asdict(costs)
    peers = {"redis": (REDIS_PY, REDISDB), "postgres": (ASYNCPG, POSTGRESQL)}
    for backend in BACKENDS:
        yield costs.row(STORAGE[backend], 4 if backend in {"postgres", "mysql"} else 2, *peers.get(backend, ()))
        yield costs.row(UNCALLED[backend])  # so that what the driver takes to connect can be told from the kit's part
    yield costs.row(CLOCK, 0.2, FREEZEGUN)
    for backend in BACKENDS:
        yield costs.row(BROKER[backend], None, *([BARE_BROKER] if backend == "memory" else []))
    yield costs.row(UNUSED)


# --- what a session pays ----------------------------------------------------------------------------------------------


def installed_and_unused(effort: Effort, raw: dict[str, Any]) -> Iterator[Row]:
    """Measure pytest on one empty test, with the plugin and without, among all that is installed and alone."""
    cases = {"among others": (False, [], ["-p", f"no:{KIT}"]), "alone": (True, ["-p", KIT], [])}
    empty = "def test_nothing():\n    pass\n"
    taken: dict[str, list[float]] = {}
    computed: dict[str, list[float]] = {}
    for turn in range(effort.starts):
        tell(f"start {turn + 1} of {effort.starts}")
        for case, (alone, *both) in cases.items():
            for arm, arguments in zip(("with", "without"), both, strict=True):
                outcome = run_pytest(empty, arguments, clean_environment(), alone=alone)
                taken.setdefault(f"{case}, {arm}", []).append(1000 * outcome.seconds)
                computed.setdefault(f"{case}, {arm}", []).append(1000 * outcome.cpu)
    raw["milliseconds of an empty session"] = {"taken": taken, "computed": computed}
    for case in cases:
        cost, cpu = (min(times[f"{case}, with"]) - min(times[f"{case}, without"]) for times in (taken, computed))
        whole = f"pytest without it: {shown(min(taken[f'{case}, without']))}"
        yield Row(f"installed and unused, {case}: a session", cost, 20, cpu, note=whole)


def first_test(effort: Effort, raw: dict[str, Any]) -> Iterator[Row]:
    """Measure the time from pytest's start to the end of the first test, on servers from each source."""
    arguments = ["-q", *plugins(KIT, ASYNC)]
    sources = [(kind, source) for kind in SERVERS for source in ("local", "wheel", "docker")]
    for kind, source in [("memory", ""), *sources]:
        what = f"first test on {kind}, {source or 'no server'}"
        if source and (reason := unavailable(kind, source)):
            yield Row(what, None, note=reason)
            continue
        chosen = [f"--storage-backends={kind}", *([f"--storage-servers={source}"] if source else [])]
        taken = []
        try:
            for turn in range(effort.rounds):
                tell(f"{what}, {turn + 1} of {effort.rounds}")
                outcome = run_pytest(STORAGE["memory"].source(10), [*arguments, *chosen], clean_environment())
                taken.append(1000 * (outcome.tests[0]["ended"] - outcome.began))
        except Unmeasured as reason:  # Docker is there, say, and cannot fetch the image
            yield Row(what, None, note=str(reason), is_failure=True)
            continue
        raw.setdefault("milliseconds to the first test", {})[what] = taken
        yield Row(what, min(taken))


def unavailable(kind: str, source: str) -> str:
    """Return why a source has no server of this kind here, or an empty string."""
    pool = ServerPool(Path(), "", os.getpid(), {kind: ServerSettings(server_kind(kind), sources=(source,))})
    plan = pool.plan(kind)
    return plan if plan.startswith("unavailable") else ""


def five_backends(effort: Effort, raw: dict[str, Any]) -> Iterator[Row]:
    """Measure a hundred tests on each of the default backends, by two workers, the start of the servers included."""
    arguments = ["-q", *plugins(KIT, ASYNC, "xdist.plugin"), "-n", "2", "--storage-require=all"]
    seconds = []
    for turn in range(effort.rounds):
        tell(f"five backends, {turn + 1} of {effort.rounds}")
        seconds.append(run_pytest(STORAGE["memory"].source(100), arguments, clean_environment()).seconds)
    raw["seconds of five backends"] = seconds
    yield Row("five backends × 100 tests, -n 2, servers started", 1000 * min(seconds), 8000)


# --- the table --------------------------------------------------------------------------------------------------------


def tell(what: str) -> None:
    """Say what goes on, beside the table."""
    print(what, file=sys.stderr, flush=True)


def shown(milliseconds: float | None, nothing: str = "—") -> str:
    """Return a time for people."""
    if milliseconds is None:
        return nothing
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.2f} s"
    return f"{milliseconds:.2f} ms" if milliseconds < 100 else f"{milliseconds:.0f} ms"


def verdict(row: Row) -> str:
    """Return whether a row's target is met, in a word."""
    if row.target is None or row.cost is None:
        return ""
    return "met" if row.cost < row.target else "**missed**"


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = ["| what | measured | CPU | target | | peers, in the same run | |", "|---|--:|--:|--:|---|---|---|"]
    for row in rows:
        target = (
            "" if row.target is None else f"< {row.target / 1000:g} s" if row.target >= 1000 else f"< {row.target:g} ms"
        )
        peers = ", ".join(f"{name} {shown(cost)}" for name, cost in row.peers.items())
        note = f"not measured: {row.note}" if row.is_failure else row.note
        cells = [row.what, shown(row.cost), shown(row.cpu, ""), target, verdict(row), peers, note]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print the table, and return the exit status: 1 where something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harness", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer tests and rounds: a minute or two, and less exact")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, and what they come from, to FILE")
    options = parser.parse_args()
    effort = QUICK if options.quick else THOROUGH
    rows: list[Row] = []
    raw: dict[str, Any] = {}
    for section in (what_a_test_pays, installed_and_unused, first_test, five_backends):
        try:
            rows.extend(section(effort, raw))
        except (Unmeasured, subprocess.TimeoutExpired) as reason:
            rows.append(Row(section.__name__.replace("_", " "), None, note=str(reason), is_failure=True))
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    print(f"{table(rows)}\n\n{machine}, load {os.getloadavg()[0]:.1f}; {effort}")
    if options.json:
        found = {"machine": machine, "effort": asdict(effort), "rows": [asdict(row) for row in rows], "raw": raw}
        options.json.write_text(json.dumps(found, indent=1))
    return int(any(row.is_failure for row in rows))


if __name__ == "__main__":
    sys.exit(main())
