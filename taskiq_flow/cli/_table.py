"""A table of results for a person at a terminal."""

import unicodedata
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

from taskiq_flow import serialization
from taskiq_flow.records.results import StoredResult

__all__ = ["on_one_line", "table"]

_ENOUGH = 40
"""How many cells a long result must have beside all else; where it has less, results get lines of their own."""
_NARROWEST = 20
_ID_LENGTH = 8
_LONGEST_TIME = 12
_LONGEST = 10_000
"""How many characters of a text are looked at: more than any terminal is wide."""


class _Row(NamedTuple):
    when: str
    task: str
    status: str
    took: str
    run: str
    id: str
    result: str


_HEAD = _Row("when (UTC)", "task", "status", "took", "run", "id", "result")


def table(results: Sequence[StoredResult], width: int) -> Iterator[str]:
    """Yield the lines of a table of results, and a last line that counts them.

    :param width: how many cells a line may have. Where that is little, a result takes two lines, and the ids of tasks
        are left out.
    """
    if not results:
        yield "no results"
        return
    rows = [_HEAD, *map(_row, results)]
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    needed = min(_ENOUGH, max(map(_cells, columns[-1])))
    yield from _aligned(columns, width) if width - _taken(columns[:-1]) >= needed else _in_two_lines(rows, width)
    failed = sum(each.status != "completed" for each in results)
    yield ""
    yield f"{len(results)} result{'' if len(results) == 1 else 's'}, {failed} failed"


def on_one_line(text: str) -> str:
    """Return text without what would move the cursor, or worse: results are other people's words."""
    return "".join(
        char if char.isprintable() else {"\n": " ⏎ ", "\t": " "}.get(char) or char.encode("unicode_escape").decode()
        for char in text[:_LONGEST]
    )


def _row(result: StoredResult) -> _Row:
    error = result.error
    value = serialization.dumps(result.result) if error is None else f"{error.name}: {error.message}"
    return _Row(
        result.created_at.strftime("%Y-%m-%d %H:%M:%S"),
        on_one_line(result.task_name),
        result.status,
        _took(result.execution_time),
        on_one_line(result.pipeline_id or ""),
        _cut(on_one_line(result.task_id), _ID_LENGTH),
        on_one_line(value),
    )


def _took(seconds: float) -> str:
    """Return how long a task took; taskiq tells hundredths of a second."""
    if not 60 <= seconds < timedelta.max.total_seconds():
        return _cut(f"{seconds:5.2f} s", _LONGEST_TIME)
    return str(timedelta(seconds=round(seconds)))


def _in_two_lines(rows: Sequence[_Row], width: int) -> Iterator[str]:
    when, task, status, took, *_ = zip(*rows, strict=True)
    room = max(_NARROWEST, width - _taken([when, status, took]) - 2)
    firsts = _aligned([when, [_cut_in_front(name, room) for name in task], status, took], width)
    for first, row in zip(firsts, rows, strict=True):
        yield first
        yield _cut(f"    {'  '.join(filter(None, (row.run, row.result)))}", width)


def _aligned(columns: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Yield the lines of a table, the last column cut to what is left."""
    *fixed, last = columns
    room = max(_NARROWEST, width - _taken(fixed))
    padded = [_padded(column) for column in fixed]
    for cells in zip(*padded, (_cut(cell, room) for cell in last), strict=True):
        yield "  ".join(cells).rstrip()


def _taken(columns: Sequence[Sequence[str]]) -> int:
    """Return how many cells columns take, with the blanks behind them."""
    return sum(max(map(_cells, column)) + 2 for column in columns)


def _padded(column: Sequence[str]) -> list[str]:
    width = max(map(_cells, column))
    return [cell + " " * (width - _cells(cell)) for cell in column]


def _cut(text: str, width: int) -> str:
    if len(text) <= width and _cells(text) <= width:
        return text
    text = text[: width - 1]
    while _cells(text) >= width:
        text = text[:-1]
    return f"{text}…"


def _cut_in_front(text: str, width: int) -> str:
    """Return text without its beginning, where it is too long: the end of a task's name says most."""
    return _cut(text[::-1], width)[::-1]


def _cells(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text)
