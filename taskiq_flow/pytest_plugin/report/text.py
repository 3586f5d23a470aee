"""The matrix as text: for the terminal, and as Markdown for the summary of a CI."""

from collections.abc import Iterator

from taskiq_flow._text import shortened
from taskiq_flow.pytest_plugin.report.matrix import Matrix, Outcome

__all__ = ["divergences", "markdown", "table"]

_SIGNS = {"passed": "✅", "failed": "❌", "error": "💥", "skipped": "–", "xfailed": "⚠️", "xpassed": "❓"}
_WIDEST = 100


def table(matrix: Matrix) -> Iterator[str]:
    """Yield the lines of the whole table: a row a test, a column a storage."""
    backends = matrix.backends
    widest = max(map(len, [*matrix.tests, "test"]))
    yield f"{'test':<{widest}}  " + "  ".join(f"{name:<9}" for name in backends).rstrip()
    for test, outcomes in matrix.tests.items():
        cells = [outcomes[name].outcome if name in outcomes else "" for name in backends]
        yield f"{test:<{widest}}  " + "  ".join(f"{cell:<9}" for cell in cells).rstrip()


def divergences(matrix: Matrix) -> Iterator[str]:
    """Yield a paragraph for each test that did not do the same everywhere: what it did on each storage, and why."""
    backends = matrix.backends
    for test in matrix.diverging():
        yield f"{test} diverges"
        for name in backends:
            if name in (outcomes := matrix.tests[test]):
                outcome = outcomes[name]
                yield f"    {name:<10} {outcome.outcome:<8} {shortened(outcome.reason, _WIDEST)}".rstrip()


def markdown(matrix: Matrix) -> str:
    """Return the matrix as Markdown: what differs, the totals, and the whole table, folded."""
    backends, diverging = matrix.backends, list(matrix.diverging())
    signs = {test: [_sign(outcomes.get(name)) for name in backends] for test, outcomes in matrix.tests.items()}
    lines = ["# Storage matrix", ""]
    lines += [f"{len(matrix.tests)} tests on {len(backends)} storages; {len(diverging)} diverge.", ""]
    lines += _rows(["storage", "server", *_SIGNS], [_totals(matrix, name) for name in backends])
    if diverging:
        rows = [[_code(test), *signs[test], _reasons(matrix.tests[test], backends)] for test in diverging]
        lines += ["", "## Tests that diverge", "", *_rows(["test", *backends, "why"], rows)]
    lines += ["", "<details><summary>All tests</summary>", ""]
    lines += _rows(["test", *backends], [[_code(test), *signs[test]] for test in matrix.tests])
    return "\n".join([*lines, "", "</details>", ""])


def _reasons(outcomes: dict[str, Outcome], backends: list[str]) -> str:
    """Return why a test did not pass, storage by storage."""
    told = {name: outcomes[name].reason for name in backends if name in outcomes}
    return "<br>".join(f"{name}: {_code(shortened(reason, _WIDEST))}" for name, reason in told.items() if reason)


def _totals(matrix: Matrix, backend: str) -> list[str]:
    outcomes = [outcomes[backend].outcome for outcomes in matrix.tests.values() if backend in outcomes]
    return [backend, matrix.servers.get(backend, ""), *(str(outcomes.count(outcome) or "") for outcome in _SIGNS)]


def _sign(outcome: Outcome | None) -> str:
    return _SIGNS[outcome.outcome] if outcome else ""


def _rows(head: list[str], rows: list[list[str]]) -> list[str]:
    titles = [f"{_SIGNS[title]} {title}" if title in _SIGNS else title for title in head]
    return [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(head), *rows)]


def _code(text: str) -> str:
    """Return text that means itself within a table of Markdown."""
    shown = text.replace("`", "'").replace("|", "\\|")
    return f"`{shown}`" if shown else ""
