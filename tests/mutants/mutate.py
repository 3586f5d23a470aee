"""The mutants of one source file, made by mutmut: all in one file, of which each process switches one on.

Only mutmut's mutations are used; :mod:`tests.mutants.trials` says why not its runner. It leaves out what
Python evaluates once, when the module is imported: the constants of modules and classes, among them the tables of the
codec. Functions with a decorator, which it leaves out as well, are mutated here where the decorator is one of
:data:`_DECORATORS`: it is applied in a statement of its own.
"""

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from mutmut.mutation.file_mutation import mutate_file_contents

__all__ = ["Mutant", "mutate"]

_DECORATORS = {"asynccontextmanager", "contextmanager", "property"}

_SWITCH = "from mutmut.mutation.trampoline import wrap_in_trampoline as _mutmut_mutated, MutantDict"
_OUR_SWITCH = "from tests.mutants.switch import switched as _mutmut_mutated, MutantDict"


@dataclass(frozen=True)
class Mutant:
    """One change of one function."""

    name: str
    """What switches it on."""
    path: str
    """The source file, such as ``taskiq_flow/clock.py``."""
    function: str
    """The function that is changed, such as ``FrozenClock.tick``."""
    change: str
    """The lines that are removed and added."""
    fingerprint: str
    """Of the function as it was."""

    @property
    def key(self) -> str:
        """What names the mutant from run to run, whatever else in the file changes."""
        return f"{self.path} {self.function}\n{self.change}"

    @property
    def switch(self) -> str:
        """What mutmut calls the function while it notes which test calls what."""
        return self.name.rpartition("__mutmut_")[0]


def mutate(file: Path, path: str) -> list[Mutant]:
    """Rewrite ``file`` so that it holds all its mutants, and return them.

    :param path: where the file is in the repository.
    """
    mutated = mutate_file_contents(path, cst.parse_module(file.read_text()).visit(_Undecorated()).code)
    assert mutated.code.count(_SWITCH) == 1
    file.write_text(mutated.code.replace(_SWITCH, _OUR_SWITCH))
    lines = mutated.code.splitlines()
    mutants: dict[str, Mutant] = {}
    texts = set()
    for name in mutated.mutant_names:
        mangled = name.rpartition("_")[0]
        function = mangled.removesuffix("__mutmut").removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
        original, changed = (
            [line.strip().replace(which, function.rpartition(".")[2]) for line in lines[span.start - 1 : span.end]]
            for which in (f"{mangled}_orig", name)
            for span in (mutated.line_span_by_function_name[which],)
        )
        if (text := (function, "\n".join(changed))) in texts:
            continue  # two operators may make the same change
        texts.add(text)
        fingerprint = hashlib.sha256("\n".join(original).encode()).hexdigest()[:16]
        module = path.removesuffix(".py").replace("/", ".")
        mutant = Mutant(f"{module}.{name}", path, function, _change(original, changed), fingerprint)
        number = 1
        while mutant.key in mutants:  # the same line more than once in a function
            number += 1
            mutant = Mutant(mutant.name, path, function, f"{_change(original, changed)} # number {number}", fingerprint)
        mutants[mutant.key] = mutant
    return list(mutants.values())


def _change(original: list[str], changed: list[str]) -> str:
    marked = [line for line in difflib.ndiff(original, changed) if line.startswith(("- ", "+ "))]
    return "\n".join(sorted(marked, key=lambda line: line[0] == "+"))


class _Undecorated(cst.CSTTransformer):
    def leave_FunctionDef(  # noqa: N802 - libcst's name
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> "cst.FunctionDef | cst.FlattenSentinel[cst.BaseStatement]":
        if len(updated_node.decorators) != 1:
            return updated_node
        decorator = updated_node.decorators[0].decorator
        if not isinstance(decorator, cst.Name) or decorator.value not in _DECORATORS:
            return updated_node
        name = updated_node.name.value
        applied = cst.parse_statement(f"{name} = {decorator.value}({name})")
        return cst.FlattenSentinel([updated_node.with_changes(decorators=()), applied])
