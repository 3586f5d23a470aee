"""Arrows point one way (docs of the design: CONTRIBUTING), and what is imported costs only who needs it."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import taskiq_flow

PACKAGE = Path(taskiq_flow.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
KNOW_TASKIQ = {
    "records",
    "cli",
    "exceptions.py",
    "history.py",
    "pipeline.py",
    "middlewares",
    "pytest_plugin",
    "result_backend.py",
    "schedule_source.py",
    "schedules.py",
}
ABOVE_STORAGE = ("taskiq_flow.middlewares", "taskiq_flow.pipeline", "taskiq_flow.records.results")
HEAVY = ["taskiq", "redis", "fakeredis", "asyncpg", "asyncmy", "aiosqlite", "sqlalchemy", "pydantic", "docker"]


def imported(module: Path) -> Iterator[str]:
    """Yield the full names of what a module imports, anywhere in it, but for type checkers alone."""
    tree = ast.parse(module.read_text())
    for_types_only = [
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    ]
    for node in ast.walk(tree):
        if node in for_types_only:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.relative_to(PACKAGE.parent).with_suffix("").parts[: -node.level or None]
            yield ".".join([*(package if node.level else []), *([node.module] if node.module else [])])


def place(module: Path) -> str:
    """Return the part of the package that a module belongs to."""
    return module.relative_to(PACKAGE).parts[0]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_arrows_point_one_way(module: Path) -> None:
    for name in imported(module):
        if place(module) != "cli":
            assert not name.startswith("taskiq_flow.cli"), "the command line is the outermost layer"
        if place(module) not in {"pytest_plugin", "cli"}:
            assert not name.startswith("taskiq_flow.pytest_plugin"), "nothing outside the plugin knows it"
        if place(module) not in KNOW_TASKIQ:
            assert name.partition(".")[0] not in {"taskiq", "taskiq_pipelines", "taskiq_redis"}, f"{name}: see DESIGN"
        # The API page puts `create_default_middlewares` on the storage factory.
        if place(module) == "storage" and (module.name, name) != ("factory.py", "taskiq_flow.middlewares"):
            assert not name.startswith(ABOVE_STORAGE)
        if place(module) == "cache":
            assert not name.startswith(ABOVE_STORAGE)


LAZY = [module for module in MODULES if "lazy_names(" in module.read_text() and module.name == "__init__.py"]


@pytest.mark.parametrize("module", LAZY, ids=lambda module: str(module.relative_to(PACKAGE).parent))
def test_lazy_names_are_those_that_type_checkers_see(module: Path) -> None:
    name = ".".join(module.relative_to(PACKAGE.parent).parent.parts)
    package = importlib.import_module(name)
    [block] = [
        node
        for node in ast.parse(module.read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    [call] = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Dict)]
    lazy = {ast.literal_eval(key) for key in call.keys if key is not None}
    seen = {alias.name for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert lazy <= seen
    assert lazy <= set(package.__all__)
    for each in package.__all__:
        assert getattr(package, each).__class__, "it can be had"
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'Nonsense'"):
        package.Nonsense  # noqa: B018 - the mistake is the point


def names_in(module: Path) -> set[str]:
    """Return every name and attribute that a module speaks of."""
    nodes = list(ast.walk(ast.parse(module.read_text())))
    return {node.id for node in nodes if isinstance(node, ast.Name)} | {
        node.attr for node in nodes if isinstance(node, ast.Attribute)
    }


def test_one_module_changes_taskiqs_receiver() -> None:
    changing = [module for module in MODULES if "run_task" in names_in(module) and "Receiver" in names_in(module)]
    assert [module.relative_to(PACKAGE).as_posix() for module in changing] == ["middlewares/_receiver.py"]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_only_records_knows_the_stored_form_of_errors(module: Path) -> None:
    if place(module) in {
        "cache",
        "middlewares",
        "result_backend.py",
        "schedule_source.py",
        "history.py",
        "pipeline.py",
    }:
        assert not names_in(module) & {"asdict", "astuple", "TypeAdapter"}, "records.errors and records.results do that"


def loaded_by(statement: str) -> set[str]:
    """Return which of the heavy packages a statement loads, in a process of its own."""
    code = f"import sys; {statement}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import taskiq_flow", set()),
        ("import taskiq_flow.storage", set()),
        ("import taskiq_flow.middlewares", set()),
        ("import taskiq_flow.pytest_plugin", set()),
        ("from taskiq_flow.storage import InMemoryStorageAdapter", {"taskiq", "pydantic"}),
        ("from taskiq_flow.storage import RedisStorageAdapter", {"taskiq", "pydantic", "redis"}),
        ("from taskiq_flow.storage.factory import StorageAdapterFactory as F; F", {"taskiq", "pydantic"}),
    ],
)
def test_imports_load_no_more_than_is_needed(statement: str, allowed: set[str]) -> None:
    assert loaded_by(statement) <= allowed


def test_a_run_that_uses_no_storage_loads_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_plain=f"""
        import sys

        def test_plain():
            assert [name for name in {HEAVY!r} if name in sys.modules] == []
        """
    )
    pytester.makeini("[pytest]")
    arguments = ["-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:xdist"]
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=1)
