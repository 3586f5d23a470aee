"""The matrix as one HTML page that needs nothing else: no script, no network."""

from html import escape

from taskiq_flow.pytest_plugin.report.matrix import Matrix, Outcome

__all__ = ["page"]

_TITLE = "Storage matrix"
_WORDS = {
    "passed": "pass",
    "failed": "fail",
    "error": "error",
    "skipped": "skip",
    "xfailed": "xfail",
    "xpassed": "xpass",
}
_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d8dee4, #373e47); --soft: light-dark(#59636e, #9198a1);
  --back: light-dark(#ffffff, #0d1117); --panel: light-dark(#f6f8fa, #151b23);
  --passed: light-dark(#dafbe1, #12321d); --passed-ink: light-dark(#116329, #7ee787);
  --failed: light-dark(#ffcecb, #4c1a1c); --failed-ink: light-dark(#a40e26, #ffa198);
  --odd: light-dark(#fff1c2, #3b2e0a); --odd-ink: light-dark(#7d4e00, #e3b341); }
* { box-sizing: border-box; }
body { margin: 2rem auto; max-width: 90rem; padding: 0 1.5rem; background: var(--back);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { color: var(--soft); margin: .25rem 0 1rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .4rem .7rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child > * { border-bottom: 0; }
thead th { background: var(--panel); position: sticky; top: 0; white-space: nowrap; }
th small, td small { display: block; max-width: 13rem; color: var(--soft); font-weight: normal; font-size: .75rem;
  white-space: normal; }
tbody th { font: 13px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
tbody.tests th { min-width: 24rem; }
.mark { display: inline-block; min-width: 4.2rem; padding: .05rem .5rem; border: 0; border-radius: 5px;
  font: 600 13px/1.6 system-ui, sans-serif; text-align: center; }
button.mark { cursor: pointer; text-decoration: underline dotted; text-underline-offset: 3px; }
.passed { background: var(--passed); color: var(--passed-ink); }
.failed, .error { background: var(--failed); color: var(--failed-ink); }
.xfailed, .xpassed { background: var(--odd); color: var(--odd-ink); }
.skipped { color: var(--soft); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.diverges > th { border-left: 4px solid var(--failed-ink); }
body:has(#only:checked) tbody.tests tr:not(.diverges) { display: none; }
label { cursor: pointer; user-select: none; }
[popover] { width: min(70rem, 92vw); max-height: 85vh; padding: 1.2rem 1.5rem; border: 1px solid var(--line);
  border-radius: 10px; background: var(--back); color: inherit; box-shadow: 0 12px 48px rgb(0 0 0 / .35); }
[popover]::backdrop { background: rgb(0 0 0 / .35); }
pre { overflow: auto; padding: 1rem; border-radius: 6px; background: var(--panel);
  font: 12.5px/1.5 ui-monospace, monospace; }
"""


def page(matrix: Matrix) -> str:
    """Return the page: totals a storage, and the table of tests × storages, with each error on a click."""
    diverging = set(matrix.diverging())
    backends = matrix.backends
    head = "".join(f"<th>{escape(name)}<small>{escape(matrix.servers.get(name, ''))}</small></th>" for name in backends)
    rows = "\n".join(
        _row(test, number, [(name, outcomes.get(name)) for name in backends], test in diverging)
        for number, (test, outcomes) in enumerate(matrix.tests.items())
    )
    told = f"{_count(len(matrix.tests), 'test')} on {_count(len(backends), 'storage')}; "
    told += f"{_count(len(diverging), 'test')} did not do the same on every storage."
    only = '<label><input type="checkbox" id="only"> only tests that diverge</label>' if diverging else ""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_TITLE}</title>
<style>{_STYLE}</style>
<h1>{_TITLE}</h1>
<p>{told}</p>
<h2>Storages</h2>
<div class="scroll"><table>
<thead><tr><th>storage</th><th>server</th>{"".join(f'<th class="number">{word}</th>' for word in _WORDS)}\
<th class="number">seconds</th></tr></thead>
<tbody>
{"".join(_total(matrix, name) for name in backends)}</tbody>
</table></div>
<h2>Tests {only}</h2>
<div class="scroll"><table>
<thead><tr><th>test</th>{head}</tr></thead>
<tbody class="tests">
{rows}
</tbody>
</table></div>
</html>
"""


def _total(matrix: Matrix, backend: str) -> str:
    outcomes = [outcomes[backend] for outcomes in matrix.tests.values() if backend in outcomes]
    cells = ""
    for outcome in _WORDS:
        count = [each.outcome for each in outcomes].count(outcome)
        shown = f'<span class="mark {outcome}">{count}</span>' if count else ""
        cells += f'<td class="number">{shown}</td>'
    seconds = sum(each.seconds for each in outcomes)
    server = escape(matrix.servers.get(backend, ""))
    return f'<tr><th>{escape(backend)}</th><td>{server}</td>{cells}<td class="number">{seconds:.2f}</td></tr>\n'


def _row(test: str, number: int, outcomes: list[tuple[str, Outcome | None]], diverges: bool) -> str:
    cells = "".join(
        f"<td>{_cell(outcome, f'error-{number}-{name}', f'{test} on {name}') if outcome else ''}</td>"
        for name, outcome in outcomes
    )
    return f"<tr{' class=diverges' if diverges else ''}><th>{escape(test)}</th>{cells}</tr>"


def _cell(outcome: Outcome, identity: str, title: str) -> str:
    word = _WORDS[outcome.outcome]
    if not (outcome.reason or outcome.details):
        return f'<span class="mark {outcome.outcome}">{word}</span><small>{_seconds(outcome)}</small>'
    identity = escape(identity, quote=True)
    return (
        f'<button class="mark {outcome.outcome}" popovertarget="{identity}">{word}</button>'
        f"<small>{_seconds(outcome)}</small>"
        f'<div popover id="{identity}"><h2>{escape(title)}</h2><p>{escape(outcome.reason)}</p>'
        f"<pre>{escape(outcome.details or outcome.reason)}</pre></div>"
    )


def _seconds(outcome: Outcome) -> str:
    milliseconds = outcome.seconds * 1000
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{outcome.seconds:.2f} s"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
