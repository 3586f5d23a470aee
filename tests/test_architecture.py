"""The shape of the package that CONTRIBUTING.md describes: layers, who knows what, sizes, and what an import loads."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import taskiq_flow
from tests.tree import named

PACKAGE = Path(taskiq_flow.__file__).parent
ROOT = PACKAGE.parent


@dataclass(frozen=True)
class Module:
    """A module of the package, parsed."""

    name: str
    path: Path

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All of it, but for what only type checkers read."""
        tree = ast.parse(self.path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body.clear()
        return list(ast.walk(tree))

    @cached_property
    def imports(self) -> dict[str, str]:
        """What its imports, at the top or inside functions, bind: local name → full name."""
        bound: dict[str, str] = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                bound |= {alias.asname or alias.name: alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                bound |= {alias.asname or alias.name: f"{self._source(node)}.{alias.name}" for alias in node.names}
        return bound

    @property
    def layer(self) -> str:
        """The part of the package that it belongs to: ``storage``, ``clock`` …"""
        return self.name.partition(".")[2].partition(".")[0]

    def _source(self, node: ast.ImportFrom) -> str:
        package = self.name.split(".") if self.path.name == "__init__.py" else self.name.split(".")[:-1]
        start = package[: len(package) + 1 - node.level] if node.level else []
        return ".".join([*start, *([node.module] if node.module else [])])


def _modules() -> Iterator[Module]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield Module(".".join(parts[:-1] if path.name == "__init__.py" else parts), path)


MODULES = {module.name: module for module in _modules()}

KNOW_TASKIQ = {
    "records",
    "_label_types",
    "cli",
    "exceptions",
    "history",
    "pipeline",
    "middlewares",
    "pytest_plugin",
    "result_backend",
    "schedule_source",
    "schedules",
}
ABOVE_STORAGE = ("taskiq_flow.middlewares", "taskiq_flow.pipeline", "taskiq_flow.records.results")
# `create_default_middlewares` belongs to the storage factory, by the package's public interface.
MAKES_MIDDLEWARES = ("taskiq_flow.storage.factory", "taskiq_flow.middlewares")
# One in production, and one in the kit while something is adopted; each restores what it changed.
PATCH_TASKIQ = {"taskiq_flow.middlewares._receiver", "taskiq_flow.pytest_plugin.broker.adoption.kicker"}


def within(name: str, *packages: str) -> bool:
    """Return whether a full name is one of these packages, or in one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def against_the_layers(module: Module, name: str) -> str:
    """Return which rule the import of ``name`` breaks; empty if none."""
    if module.layer != "cli" and within(name, "taskiq_flow.cli"):
        return "nothing imports the command line"
    if module.layer not in {"pytest_plugin", "cli"} and within(name, "taskiq_flow.pytest_plugin"):
        return "nothing outside the plugin imports it"
    if module.layer not in KNOW_TASKIQ and within(name, "taskiq", "taskiq_pipelines", "taskiq_redis"):
        return "storage knows nothing of taskiq"
    is_exception = module.name == MAKES_MIDDLEWARES[0] and within(name, MAKES_MIDDLEWARES[1])
    if module.layer in {"storage", "cache"} and within(name, *ABOVE_STORAGE) and not is_exception:
        return "storage knows nothing of what is built on it"
    return ""


def test_layers_import_only_what_is_below_them() -> None:
    found = [
        f"{module.name} imports {name}: {problem}"
        for module in MODULES.values()
        for name in module.imports.values()
        if (problem := against_the_layers(module, name))
    ]
    assert found == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {}
    for module in MODULES.values():
        # What is no module is a name in one.
        sources = {name if name in MODULES else name.rpartition(".")[0] for name in module.imports.values()}
        graph[module.name] = sources & MODULES.keys() - {module.name}
    TopologicalSorter(graph).prepare()  # raises CycleError, which shows the circle


def test_only_records_knows_the_stored_form() -> None:
    """Elsewhere a stored record is passed on, but neither made of its parts nor taken apart."""
    stored = {
        f"{module.name}.{node.name}"
        for module in MODULES.values()
        if module.layer == "records"
        for node in module.nodes
        if isinstance(node, ast.ClassDef) and node.name.startswith("Stored")
    }
    assert stored
    found = [
        f"{module.name}: {ast.unparse(call)}"
        for module in MODULES.values()
        if module.layer != "records"
        for call in module.nodes
        if isinstance(call, ast.Call) and ast.unparse(call.func) != "isinstance"
        for used in [call.func, *map(_root, call.args)]
        if isinstance(used, ast.Name) and module.imports.get(used.id) in stored
    ]
    assert found == []


def _root(node: ast.AST) -> ast.AST:
    """Return ``a`` of ``a.b(…).c``."""
    while isinstance(node, (ast.Attribute, ast.Call)):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return node


def test_taskiq_is_patched_by_no_other_module() -> None:
    found = [
        f"{module.name}: {ast.unparse(changed)}"
        for module in MODULES.values()
        if module.name not in PATCH_TASKIQ
        for node in module.nodes
        for changed in _changed(node)
        if within(module.imports.get(ast.unparse(changed), ""), "taskiq", "taskiq_pipelines", "taskiq_redis")
    ]
    assert found == []


def _changed(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the objects whose attributes a statement or a call changes."""
    targets = []
    if isinstance(node, (ast.Assign, ast.Delete)):
        targets = node.targets
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
        targets = [node.target]
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"setattr", "delattr"}:
        yield node.args[0]
    yield from (target.value for target in targets if isinstance(target, ast.Attribute))


def test_contributing_names_every_module() -> None:
    modules = {
        str(path.relative_to(ROOT))
        for folder in ("taskiq_flow", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if path.stat().st_size
    }
    listed = {path for path in named() if path.endswith(".py") and path.startswith(("taskiq_flow/", "tests/"))}
    assert listed == modules, "make tree writes it anew"


LAZY = [
    module
    for module in MODULES.values()
    if module.path.name == "__init__.py" and "taskiq_flow._lazy.lazy_names" in module.imports.values()
]


@pytest.mark.parametrize("module", LAZY, ids=lambda module: module.name)
def test_lazy_names_are_those_that_type_checkers_see(module: Module) -> None:
    package = importlib.import_module(module.name)
    tree = ast.parse(module.path.read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    [table] = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    lazy = {ast.literal_eval(key) for key in table.keys if key is not None}
    seen = {alias.name for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert lazy <= seen
    assert lazy <= set(package.__all__)
    for each in package.__all__:
        assert getattr(package, each).__class__, "it can be had"
    with pytest.raises(AttributeError, match=f"module '{module.name}' has no attribute 'Nonsense'"):
        package.Nonsense  # noqa: B018 - the mistake is the point


@pytest.mark.parametrize(("folder", "limit"), [("taskiq_flow", 400), ("tests", 500)])
def test_no_module_is_long_without_a_reason(folder: str, limit: int) -> None:
    reasons = (ROOT / "CONTRIBUTING.md").read_text().partition("## Long modules")[2]
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > limit
    }
    assert {path: lines for path, lines in long.items() if f"`{path}`: " not in reasons} == {}


HEAVY = ["taskiq", "redis", "fakeredis", "asyncpg", "asyncmy", "aiosqlite", "sqlalchemy", "pydantic", "docker"]


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


def test_a_run_that_uses_no_storage_loads_nothing_heavy(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # other plugins may load what they like
    pytester.makepyfile(
        test_plain=f"""
        import sys

        def test_plain():
            assert [name for name in {HEAVY!r} if name in sys.modules] == []
        """
    )
    pytester.makeini("[pytest]")
    pytester.runpytest_subprocess("-p", "taskiq_flow.pytest_plugin").assert_outcomes(passed=1)
