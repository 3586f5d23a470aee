"""``History``: reads what ``StorageMiddleware`` stored."""

import glob
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from taskiq_pipelines.constants import CURRENT_STEP, PIPELINE_DATA

from taskiq_flow import clock
from taskiq_flow.records.results import StoredResult, result_key
from taskiq_flow.storage.base import BaseStorageAdapter

__all__ = ["Findings", "History", "Unreadable"]


@dataclass(frozen=True)
class Unreadable:
    """An entry that lies where results lie, and is none."""

    key: str
    reason: str


@dataclass(frozen=True)
class Findings:
    """What was found; iterating gives the results."""

    results: list[StoredResult]
    unreadable: list[Unreadable]
    """The entries that are damaged, or somebody else's, in the order of their keys: any may be what was asked for."""

    def __iter__(self) -> Iterator[StoredResult]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)


class History:
    """Finds the results that ``StorageMiddleware`` keeps, of all tasks and pipelines on a storage.

    All but :meth:`run` read every result that is stored: keys tell the run and the task's id, and nothing else.

    :param storage: where the results are; it is not closed here.
    """

    def __init__(self, storage: BaseStorageAdapter) -> None:
        self.storage = storage

    async def run(self, pipeline_id: str) -> Findings:
        """Return the results of a pipeline's run, in the order in which its tasks ended; its steps in theirs.

        :raises StorageError: if the storage failed.
        """
        return await self.find(pipeline_id=pipeline_id)

    async def last(self, count: int, task_name: str | None = None) -> Findings:
        """Return the last ``count`` results, of one task or of all, the newest first.

        :raises ValueError: if ``count`` is negative.
        :raises StorageError: if the storage failed.
        """
        return await self.find(task_name=task_name, last=count)

    async def failures(self, since: datetime | None = None) -> Findings:
        """Return the results of tasks that raised, or whose return value could not be stored, the newest first.

        :param since: leaves out what was stored before; an aware datetime.
        :raises ValueError: if ``since`` is naive.
        :raises StorageError: if the storage failed.
        """
        return await self.find(failed=True, since=since)

    async def find(
        self,
        *,
        pipeline_id: str | None = None,
        task_name: str | None = None,
        failed: bool = False,
        since: datetime | None = None,
        last: int | None = None,
    ) -> Findings:
        """Return the results to which all of this applies, the newest first; those of one run in its order.

        :param pipeline_id: the run that they are a part of.
        :param task_name: their task's name.
        :param failed: whether only those are meant that are an error.
        :param since: when they were stored, at the earliest; an aware datetime.
        :param last: how many at most; the newest.
        :raises ValueError: if ``since`` is naive, or ``last`` negative.
        :raises StorageError: if the storage failed.
        """
        earliest = None if since is None else clock.to_ms(since)
        if last is not None and last < 0:
            raise ValueError(f"last must be a number of results, not {last!r}")
        everything = await self._read(await self._keys(pipeline_id))
        results = [
            each
            for each in everything.results
            if pipeline_id in (None, each.pipeline_id)
            and task_name in (None, each.task_name)
            and not (failed and each.status == "completed")
            and (earliest is None or clock.to_ms(each.created_at) >= earliest)
        ]
        results = _in_order(results)
        if last is not None:
            results = results[len(results) - min(last, len(results)) :]
        if pipeline_id is None:
            results.reverse()
        return Findings(results, everything.unreadable)

    async def _keys(self, pipeline_id: str | None) -> list[str]:
        if pipeline_id is not None:
            return await self.storage.keys(result_key("*", glob.escape(pipeline_id)))
        return await self.storage.keys(result_key("*")) + await self.storage.keys(result_key("*", "*"))

    async def _read(self, keys: list[str]) -> Findings:
        # One after the other: together they would open connections for the occasion, which takes longer.
        found = [await self._read_one(key) for key in keys]
        return Findings(
            [each for each in found if isinstance(each, StoredResult)],
            sorted((each for each in found if isinstance(each, Unreadable)), key=lambda each: each.key),
        )

    async def _read_one(self, key: str) -> StoredResult | Unreadable | None:
        """Return what is under a key; None where it has expired since."""
        try:
            data = await self.storage.get(key)
            if data is None and not await self.storage.exists(key):
                return None
            result = StoredResult.from_data(key, data)
        except (TypeError, ValueError) as error:  # a SerializationError, or what a custom adapter has for it
            return Unreadable(key, str(error) or repr(error))
        if result.key != key:
            return Unreadable(key, f"the entry under key {key!r} is the task result of another key, {result.key!r}")
        return result


def _in_order(results: Iterable[StoredResult]) -> list[StoredResult]:
    """Return results in the order in which they were stored, but for those of a run among each other."""
    by_time = sorted(results, key=lambda each: (each.created_at, _step(each) is not None, each.task_id))
    runs = defaultdict[str | None, list[StoredResult]](list)
    for each in by_time:
        runs[each.pipeline_id].append(each)
    in_order = {run: iter(_run_in_order(by_time)) for run, by_time in runs.items()}
    return [next(in_order[each.pipeline_id]) for each in by_time]


def _run_in_order(by_time: list[StoredResult]) -> list[StoredResult]:
    """Return the results of a run with its first step first, and its steps in their order.

    A step may be stored after what it has sent. A run whose id was given may have been started many times, and one of
    a plain taskiq-pipelines has no id: then only the steps of each start are put into their order.
    """
    starts = defaultdict[str, list[StoredResult]](list)
    for each in by_time:
        if _step(each) is not None:
            starts[_start(each)].append(each)
    if len(starts) == 1 and by_time[0].pipeline_id is not None:
        by_time = sorted(by_time, key=lambda each: _step(each) != 0)
    in_order = {start: iter(sorted(steps, key=lambda each: _step(each) or 0)) for start, steps in starts.items()}
    return [each if _step(each) is None else next(in_order[_start(each)]) for each in by_time]


def _start(step: StoredResult) -> str:
    """Return what the steps of one start of a pipeline have in common: the engine's list of them, with their ids."""
    return repr(step.labels.get(PIPELINE_DATA))


def _step(result: StoredResult) -> int | None:
    """Return which step of its run a task is; None for one that is none, such as the sub-tasks of a mapped step."""
    try:
        return int(result.labels[CURRENT_STEP])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
