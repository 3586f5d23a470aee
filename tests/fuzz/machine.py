"""The state machine: the same calls on an adapter and on the plain model, every answer compared."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import wraps
from itertools import count
from time import perf_counter
from typing import Any, NamedTuple

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from taskiq_flow import clock
from taskiq_flow.storage import BaseStorageAdapter, StorageEntry
from taskiq_flow.storage.base import ABSENT
from tests.fuzz import strategies
from tests.fuzz.answers import Raised, canonical
from tests.fuzz.model import EPOCH, PlainAdapter, Server

STEPS_AN_EXAMPLE = 40
_EXAMPLES_A_RUN = 50  # Hypothesis remembers, until its run is over, what each example was made of
_START = datetime.fromisoformat("2026-01-01T00:00:00.123456+00:00")
_MICROSECOND = timedelta(microseconds=1)
_LATEST = 6000 * 366 * 24 * 3600 * 1000  # milliseconds: from there on 100 years still end within datetime's range


class Mismatch(AssertionError):  # noqa: N818 - what is found, not what went wrong
    """An adapter gave another answer than the model."""


@dataclass(frozen=True)
class Storage:
    """What is compared with the model."""

    name: str
    make: Callable[..., BaseStorageAdapter]
    """Makes an adapter: ``make(ttl_seconds=…, namespace=…)``."""
    is_shared: bool = True
    """Whether its adapters work on one store, which outlives them."""


@dataclass
class Tally:
    """What a run did."""

    steps: int = 0
    examples: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    """How often each method gave each kind of answer."""
    seconds: float = 0.0

    def __str__(self) -> str:
        calls = sum(self.answers.values())
        return f"{self.steps:,} steps, {calls:,} calls compared, {self.examples:,} examples, {self.seconds:.1f} s"


class Worker(NamedTuple):
    namespace: str
    adapter: BaseStorageAdapter
    model: PlainAdapter


def step(**drawn: Any) -> Callable[[Callable[..., None]], Any]:
    """Make a rule of a method, and count how often it runs."""
    as_rule: Callable[..., Any] = rule(**drawn)

    def decorate(work: Callable[..., None]) -> Any:
        @wraps(work)
        def counted(self: "StorageMachine", **arguments: Any) -> None:
            self.tally.steps += 1
            work(self, **arguments)

        return as_rule(counted)

    return decorate


class StorageMachine(RuleBasedStateMachine):
    """Two adapters on one namespace, one of them with a default time to live, and a third on another namespace."""

    _examples = count(1)

    def __init__(self, storage: Storage, tally: Tally) -> None:
        super().__init__()
        self.storage = storage
        self.tally = tally
        self.server = Server(now=(_START - EPOCH) // _MICROSECOND)
        self.workers: list[Worker] = []
        self.pool: list[str] = []
        self._agrees = True
        self._loop = asyncio.new_event_loop()
        self._clean_up = ExitStack()
        self._clock = self._clean_up.enter_context(clock.freeze(_START))

    # --- rules ----------------------------------------------------------------------------------------------------

    # What is drawn depends on the example's own keys and deadlines: `runner()` gives this object.
    _worker = st.integers(0, 2)
    _key = st.runner().flatmap(lambda self: strategies.keys(self.pool))
    _pattern = st.runner().flatmap(lambda self: strategies.patterns(self.pool))
    _reading = st.sampled_from(["get", "exists", "get_entry"])
    _deadline = st.runner().flatmap(lambda self: st.sampled_from(self.deadlines()))

    @initialize(
        pool=strategies.key_pools(), beside=st.sampled_from(strategies.NAMESPACES), ttl_seconds=strategies.legal_ttls
    )
    def open(self, pool: list[str], beside: str, ttl_seconds: float) -> None:
        number = next(self._examples)
        self.pool = pool
        own = f"a{number}"
        self._open(own, None)
        if self.storage.is_shared:
            self._open(own, ttl_seconds)
            self._open(beside.format(number), None)
        self.tally.examples += 1

    @step(worker=_worker, key=_key, value=strategies.values, ttl=strategies.ttls)
    def set(self, worker: int, key: Any, value: Any, ttl: Any) -> None:
        self._compare(worker, "set", key, value, ttl)
        self._all_see(worker, key)

    @step(
        worker=_worker,
        key=_key,
        guess=st.sampled_from(["right", "right", "nothing", "other"]),
        other=strategies.values,
        value=strategies.mostly(strategies.values, st.just(ABSENT), one_in=4),
        ttl=strategies.ttls,
    )
    def compare_and_set(  # noqa: PLR0917 - called with keywords
        self, worker: int, key: Any, guess: str, other: Any, value: Any, ttl: Any
    ) -> None:
        expected = {"right": self._there(worker, key), "nothing": ABSENT, "other": other}[guess]
        self._compare(worker, "compare_and_set", key, expected, value, ttl)
        self._all_see(worker, key)

    @step(entries=st.lists(st.tuples(_worker, _key, strategies.small_values, strategies.legal_ttls), max_size=5))
    def set_several(self, entries: list[tuple[int, Any, Any, float]]) -> None:
        for worker, key, value, ttl in entries:
            self._compare(worker, "set", key, value, ttl)

    @step(worker=_worker, key=_key, method=_reading)
    def read(self, worker: int, key: Any, method: str) -> None:
        self._compare(worker, method, key)

    @step(worker=_worker, key=_key)
    def delete(self, worker: int, key: Any) -> None:
        self._compare(worker, "delete", key)

    @step(patterns=st.lists(_pattern, min_size=1, max_size=4))
    def keys(self, patterns: list[Any]) -> None:
        for pattern in patterns:
            for index in range(len(self.workers)):
                self._compare(index, "keys", pattern)

    @step(worker=_worker, arguments=st.sampled_from([(), (0,), (1,), (-1,), (10**9,)]))
    def cleanup(self, worker: int, arguments: tuple[int, ...]) -> None:
        self._compare(worker, "cleanup", *arguments)

    @step(
        worker=_worker,
        key=_key,
        value=strategies.values,
        created_at=strategies.moments,
        expires_at=st.none()
        | strategies.moments
        | st.sampled_from([-1_000_000, -1000, -1, 0, 1, 999, 1000, 2_000_000]),
        metadata=strategies.metadata,
    )
    def set_entry(  # noqa: PLR0917 - called with keywords
        self,
        worker: int,
        key: Any,
        value: Any,
        created_at: datetime,
        expires_at: datetime | int | None,  # a number: so many microseconds from now
        metadata: dict[str, Any],
    ) -> None:
        if isinstance(expires_at, int):
            expires_at = EPOCH + (self.server.now + expires_at) * _MICROSECOND
        self._compare(worker, "set_entry", StorageEntry(key, value, created_at, expires_at, metadata))

    @step(to=strategies.times)
    def move_clock(self, to: datetime | int) -> None:
        if isinstance(to, datetime):
            self._move_to((to - EPOCH) // _MICROSECOND)
        else:
            self._clock.tick(timedelta(microseconds=to))
            self.server.now += to

    @precondition(lambda self: self.deadlines())
    @step(
        deadline=_deadline,
        microseconds=st.sampled_from([0, -1, 1, -1000, 1000]),
        method=st.sampled_from(["get", "exists", "delete", "get_entry"]),
    )
    def meet_deadline(self, deadline: int, microseconds: int, method: str) -> None:
        self._move_to(deadline * 1000 + microseconds)
        for index, worker in enumerate(self.workers):
            self._compare(index, "keys")
            for key in worker.model.ending_at(deadline):
                self._compare(index, method, key)

    @step(worker=_worker, in_another_loop=st.booleans())
    def close_and_go_on(self, worker: int, in_another_loop: bool) -> None:
        if self.storage.is_shared:
            self._run(self.workers[worker].adapter.aclose())
        if in_another_loop:
            self._close_loop()
            self._loop = asyncio.new_event_loop()

    @step()
    def compare_everything(self) -> None:
        for index, worker in enumerate(self.workers):
            self._compare(index, "keys")
            for key in worker.model.live():
                self._compare(index, "get_entry", key)

    def teardown(self) -> None:
        try:
            if self._agrees:
                self._leave_nothing()
        finally:
            for worker in self.workers:
                if not self._agrees:
                    self._run(_emptied(worker.adapter))
                self._run(worker.adapter.aclose())
            self._close_loop()
            self._clean_up.close()

    # --- machinery --------------------------------------------------------------------------------------------------

    def deadlines(self) -> list[int]:
        """Return the moments at which an entry ends or has ended, in milliseconds, and the clock can be moved to."""
        return [deadline for deadline in self.server.deadlines() if 0 < deadline < _LATEST]

    def _open(self, namespace: str, ttl_seconds: float | None) -> None:
        adapter = self.storage.make(ttl_seconds=ttl_seconds, namespace=namespace)
        self.workers.append(Worker(namespace, adapter, PlainAdapter(self.server, namespace, ttl_seconds)))

    def _compare(self, index: int, method: str, *arguments: Any) -> None:
        worker = self.workers[index % len(self.workers)]
        handed_in = deepcopy(arguments)
        cause: Exception | None = None
        try:
            actual = self._run(getattr(worker.adapter, method)(*handed_in))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            actual, cause = Raised(type(error)), error
        expected = _answer(getattr(worker.model, method), *arguments)
        self.tally.answers[f"{method}: {_kind(expected)}"] += 1
        if canonical(actual) != canonical(expected):
            self._agrees = False
            raise Mismatch(
                f"{self.storage.name}: {method}{_shown(arguments)} in namespace {worker.namespace!r}\n"
                f"  model:   {_shown(expected)}\n"
                f"  adapter: {_shown(actual)}"
            ) from cause
        # What is stored is a copy: nothing that is done to these objects may be seen later.
        _spoil(handed_in)
        _spoil(actual)

    def _all_see(self, index: int, key: Any) -> None:
        """Compare what all workers on the same namespace find under ``key``."""
        namespaces = [worker.namespace for worker in self.workers]
        for other, namespace in enumerate(namespaces):
            if namespace == namespaces[index % len(namespaces)]:
                self._compare(other, "exists", key)
                self._compare(other, "get", key)

    def _there(self, index: int, key: Any) -> Any:
        """Return the value under ``key``, or ABSENT."""
        live = self.workers[index % len(self.workers)].model.live()
        return live[key].value if isinstance(key, str) and key in live else ABSENT

    def _leave_nothing(self) -> None:
        """End the example: compare once more, and leave no entry on the server to slow the next examples down."""
        self.compare_everything()
        for index, worker in enumerate(self.workers):
            for key in worker.model.live():
                self._compare(index, "delete", key)
            self._compare(index, "cleanup")
            self._compare(index, "cleanup")

    def _move_to(self, microseconds: int) -> None:
        self._clock.move_to(EPOCH + microseconds * _MICROSECOND)
        self.server.now = microseconds

    def _run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(call)

    def _close_loop(self) -> None:
        self._run(self._loop.shutdown_asyncgens())
        self._run(self._loop.shutdown_default_executor())
        self._loop.close()


def explore(storage: Storage, tally: Tally, *, steps: int, seed: int, shrink: bool = True) -> None:
    """Run the machine on ``storage`` for at least so many steps.

    :raises Mismatch: with the shortest example that was found.
    """
    chosen = settings(
        stateful_step_count=STEPS_AN_EXAMPLE,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )

    def machine() -> StorageMachine:
        return StorageMachine(storage, tally)

    start = perf_counter()
    try:
        while (missing := steps - tally.steps) > 0:
            limit = settings(chosen, max_examples=min(-(-missing // STEPS_AN_EXAMPLE), _EXAMPLES_A_RUN))
            seeded: Any = hypothesis.seed(seed + tally.steps)(machine)
            run_state_machine_as_test(seeded, settings=limit)
    finally:
        tally.seconds += perf_counter() - start


async def _emptied(adapter: BaseStorageAdapter) -> None:
    """Remove what can be removed through an adapter that was found broken, so that no later example stumbles on it."""
    with suppress(Exception):
        await adapter.cleanup()
        for key in await adapter.keys():
            await adapter.delete(key)


def _answer(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the model answers; it raises only what the contract knows."""
    try:
        return call(*arguments)
    except (ValueError, TypeError) as error:
        return Raised(type(error))


def _kind(answer: Any) -> str:
    if isinstance(answer, Raised):
        return answer.kind.__name__
    return repr(answer) if answer is None or isinstance(answer, bool) else "nothing" if not answer else "something"


def _spoil(thing: Any) -> None:
    """Change every part of a value that can be changed."""
    if isinstance(thing, StorageEntry):
        _spoil([thing.value, thing.metadata])
    elif isinstance(thing, (list, tuple, dict)):
        for part in list(thing.values() if isinstance(thing, dict) else thing):
            if part is not thing:
                _spoil(part)
    if type(thing) in {list, dict, set}:
        thing.clear()


def _shown(thing: object, limit: int = 1000) -> str:
    shown = ascii(thing)
    return shown if len(shown) <= limit else f"{shown[:limit]}… ({len(shown):,} characters)"
