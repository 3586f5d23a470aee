"""``RuleCheck``: the check of one rule on one adapter, with a transcript of the calls and what they returned.

The tests are plain functions for pytest: :func:`rule` runs each with ``asyncio.run``, so that no plugin for
asynchronous tests is needed.
"""

import asyncio
import functools
import inspect
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn, TypeVar

import pytest

from taskiq_flow.pytest_plugin.contract.comparison import difference, shown
from taskiq_flow.pytest_plugin.contract.suite_clock import SuiteClock
from taskiq_flow.storage.entry import StorageEntry

__all__ = ["CallRecorder", "RuleCheck", "needs", "rule"]

E = TypeVar("E", bound=Exception)
Test = TypeVar("Test", bound=Callable[..., None])

_AT_ONCE = 8
_LINES = 12
"""How many lines of the transcript a failure shows: the last ones."""


class RuleBroken(AssertionError):  # noqa: N818 - it states what is the case
    """A rule of the contract does not hold; the message says what came back and what should have."""


def rule(test: Callable[..., Awaitable[None] | None]) -> Callable[..., None]:
    """Make a pytest test of ``test``, which may be asynchronous and whose docstring is the rule that it checks."""

    @functools.wraps(test)
    def run(self: object, check: "RuleCheck", **arguments: Any) -> None:
        check.verify(inspect.cleandoc(test.__doc__ or "").replace("``", ""), lambda: test(self, check, **arguments))

    return run


def needs(*capabilities: str) -> Callable[[Test], Test]:
    """Name the capabilities without which this test is skipped, with the reason."""

    def mark(test: Test) -> Test:
        test.contract_needs = capabilities  # type: ignore[attr-defined]  # read by the fixture `check`
        return test

    return mark


class RuleCheck:
    """The check of one rule.

    :param adapter: the adapter under test.
    :param make: makes another adapter on the same store; None if the test class has no such fixture.
    :param clock: the clock by which the adapter judges expiry.
    :param timeout: seconds that the whole test may take.
    :param name: what the adapter is called: "storage" or "cache".
    """

    def __init__(
        self, adapter: Any, make: Callable[..., Any] | None, clock: SuiteClock, timeout: float, name: str = "storage"
    ) -> None:
        self.adapter = adapter
        self.clock = clock
        self.timeout = timeout
        self.transcript: list[str] = []
        self._name = name
        self._make = make
        self._opened: list[CallRecorder] = []
        self.storage = self.cache = self.watch(adapter, name)

    @property
    def ttl(self) -> float:
        """The time to live, in seconds, of an entry that is to expire during the test."""
        return self.clock.ttl

    async def pass_time(self, seconds: float) -> None:
        """Let ``seconds`` pass for the storage."""
        self.transcript.append(f"{seconds:g} s pass")
        await self.clock.advance(seconds)

    async def until_just_before(self, ttl: float) -> None:
        """Move the clock to just before the expiry of an entry that is stored now with ``ttl`` seconds to live."""
        await self.pass_time(ttl - self.clock.step)

    async def until_expiry(self) -> None:
        """Move the clock from just before the expiry to the instant of the expiry."""
        await self.pass_time(self.clock.step)

    def another(self, name: str = "another", **settings: Any) -> "CallRecorder":
        """Return another adapter on the same store, with a default TTL or a namespace of its own."""
        if self._make is None:
            raise RuntimeError("a test that makes adapters must be marked @needs(...)")
        return self.watch(self._make(**settings), name)

    def watch(self, adapter: Any, name: str) -> "CallRecorder":
        """Record the calls of ``adapter`` too, and close it at the end."""
        recorder = CallRecorder(adapter, name, self.transcript)
        self._opened.append(recorder)
        return recorder

    async def store_many(self, number: int, ttl_seconds: float | None = None) -> list[str]:
        """Set ``number`` keys, some at a time, and return them sorted."""
        keys = sorted(f"key:{index}" for index in range(number))
        for start in range(0, number, _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            if hasattr(self.adapter, "set_many"):  # not all adapters that are tested have this package's base class
                await self.adapter.set_many(dict.fromkeys(some, 1), ttl_seconds)
            else:
                await asyncio.gather(*(self.adapter.set(key, 1, ttl_seconds) for key in some))
        self.transcript.append(f"({number:,} keys are set: {keys[0]!r} … {keys[-1]!r})")
        return keys

    def expect(self, actual: Any, expected: Any, note: str = "") -> None:
        """Compare what came back with what should have, types included."""
        if problem := difference(actual, expected):
            self.fail(came_back=shown(actual), should_be=shown(expected), note="; ".join(filter(None, (problem, note))))

    def expect_entry(self, actual: StorageEntry | None, key: str) -> StorageEntry:
        """Return the entry that came back, if one did."""
        if not isinstance(actual, StorageEntry):
            self.fail(came_back=shown(actual), should_be=f"the StorageEntry of key {key!r}")
        return actual

    async def raises(self, call: Awaitable[object], kind: type[E], *more: type[Exception], note: str = "") -> E:
        """Await a call that must raise an error which is of all these kinds, and return the error."""
        wanted = " and ".join(one.__name__ for one in (kind, *more))
        try:
            result = await call
        except Exception as error:  # noqa: BLE001 - any error is compared with what is wanted
            if isinstance(error, kind) and isinstance(error, more or kind):
                return error
            what = f"{type(error).__name__}: {shown(str(error), 300)}"
        else:
            what = f"no error, but {shown(result)}"
        return self.fail(came_back=what, should_be=wanted, note=note)

    def fail(self, *, came_back: str, should_be: str, note: str = "") -> NoReturn:
        """Say that the rule is broken."""
        lines = _column("came back", came_back) + _column("should be", should_be) + _column("", note)
        raise RuleBroken("\n".join(lines))

    def run(self, test: Coroutine[Any, Any, None], *, close: bool = True) -> None:
        """Run a test on an event loop of its own.

        :param close: whether to close the adapters at its end, on that loop.
        """

        async def whole() -> None:
            try:
                await asyncio.wait_for(test, self.timeout)
            finally:
                if close:
                    await self.close()

        asyncio.run(whole())

    async def close(self) -> None:
        """Close all adapters of this check."""
        for recorder in self._opened:
            await asyncio.wait_for(recorder.aclose(), self.timeout)

    def verify(self, text: str, test: Callable[[], Awaitable[None] | None]) -> None:
        """Run a test; if it shows the rule ``text`` broken, fail with the rule, the calls and what they returned."""
        __tracebackhide__ = True
        try:
            outcome = test()
            if inspect.iscoroutine(outcome):
                self.run(outcome)
        except RuleBroken as broken:
            problem = str(broken)
        except Exception as error:  # noqa: BLE001 - an error that the test did not expect breaks the rule as well
            timed_out = isinstance(error, TimeoutError)
            what = f"no answer within {self.timeout:g} s" if timed_out else f"{type(error).__name__}: {error}"
            problem = "\n".join(_column("came back", what) + _column("should be", "no error") + _trace(error))
        else:
            return
        asked = self.transcript[-_LINES:]
        if len(asked) < len(self.transcript):
            asked.insert(0, f"… {len(self.transcript) - len(asked)} calls before")
        pytest.fail(
            "\n".join(
                [
                    f"the {self._name} contract is broken:",
                    *_column("rule", text),
                    *_column("adapter", shown(self.adapter)),
                    *_column("asked", "\n".join(asked)),
                    problem,
                ]
            ),
            pytrace=False,
        )


class CallRecorder:
    """Passes every call on to an adapter and writes down what came of it."""

    def __init__(self, adapter: Any, name: str, transcript: list[str]) -> None:
        self.adapter = adapter
        self._name = name
        self._transcript = transcript

    # Typed loosely: the suites pass arguments that no adapter accepts, and do not trust what comes back.

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """Pass a call of an asynchronous method on and write down what came of it."""

        async def call(*arguments: Any, **named: Any) -> Any:
            told = [shown(argument, 60) for argument in arguments]
            told += [f"{name}={shown(argument, 60)}" for name, argument in named.items()]
            line = f"{self._name}.{method}({', '.join(told)})"
            try:
                result = await getattr(self.adapter, method)(*arguments, **named)
            except BaseException as error:
                self._transcript.append(f"{line}  raised {type(error).__name__}")
                raise
            self._transcript.append(f"{line}  → {shown(result, 60)}")
            return result

        return call


def _column(title: str, content: str) -> list[str]:
    lines = content.splitlines() if content else []
    return [f"  {title if index == 0 else '':<10} {line}" for index, line in enumerate(lines)]


def _trace(error: Exception) -> list[str]:
    """Return the traceback without the frames of this suite and of asyncio around it."""
    ours = (__file__, asyncio.runners.__file__, asyncio.base_events.__file__, asyncio.tasks.__file__)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in ours]
    return ["".join(traceback.format_list(frames)).rstrip()] if frames else []
