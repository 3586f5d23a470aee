"""``CacheMiddleware``: a task that carries a cache label is not run again as long as its result is cached.

taskiq has no hook that skips a task: what a middleware's ``pre_execute`` returns is always run. So the one method of
taskiq's receiver that runs a task, ``Receiver.run_task`` (the same from 0.11 to 0.13), is wrapped, once, when the first
``CacheMiddleware`` is given its broker. For brokers without one, and tasks without the label, the wrapper does nothing.
"""

import asyncio
import dataclasses
import functools
import hashlib
import inspect
import json
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import pydantic
from taskiq import AsyncBroker, TaskiqMessage, TaskiqMiddleware, TaskiqResult
from taskiq.exceptions import NoResultError
from taskiq.receiver import Receiver
from taskiq.utils import maybe_awaitable

from taskiq_flow import serialization
from taskiq_flow.cache.base import BaseCacheAdapter
from taskiq_flow.cache.memory import InMemoryCacheAdapter
from taskiq_flow.exceptions import ConfigurationError, InvalidKeyError, SerializationError
from taskiq_flow.middlewares.storage import LostResult
from taskiq_flow.records.errors import StoredError
from taskiq_flow.records.results import PIPELINE_ID, to_data
from taskiq_flow.storage import rules

__all__ = ["CACHE", "CACHED", "CACHE_ERRORS", "CACHE_KEY", "CACHE_TTL", "CacheMiddleware"]

logger = logging.getLogger(__name__)

CACHE = "cache"
"""The label of a task whose results are cached for the middleware's default time; False runs it in any case."""
CACHE_TTL = "cache_ttl"
"""The label of a task whose results are cached for that many seconds."""
CACHE_KEY = "cache_key"
"""The label with a key of one's own, instead of the task's arguments."""
CACHE_ERRORS = "cache_errors"
"""The label of a task whose errors are cached as well."""
CACHED = "cached"
"""The label, True, of a result that comes from the cache, or from a run of the same task at the same time."""

_LOCK_TIMEOUT = 300.0
_MAX_LOST = 1000
_GRACE = 0.5
"""Seconds from a run's time-out until those who wait for it have seen its end."""
# taskiq calls the hooks after a task first to last before 0.12, and last to first from then on.
_HOOKS_RUN_BACKWARDS = [int(part) for part in metadata.version("taskiq").split(".")[:2]] >= [0, 12]

Run = Callable[[], Awaitable[TaskiqResult[Any]]]


class _TaskError(Exception):
    """Tells those who wait for a run that the task raised what this error is raised from."""


class _NotShared(Exception):  # noqa: N818 - nobody sees it
    """Tells those who wait for a run that they have to run the task themselves."""


class _Outcome(NamedTuple):
    """What another run of a task ended with."""

    value: Any
    error: BaseException | None


class _Call:
    """One message, whose task is run here or not."""

    result: TaskiqResult[Any] | None = None
    """What the task's run here ended with."""
    raised: BaseException | None = None
    """What the task raised, whatever the hooks then put into the result."""
    crash: Exception | None = None
    """What a hook raised, which is nobody else's business: taskiq gives up the message then."""

    def __init__(self, message: TaskiqMessage, run_task: Run) -> None:
        self.message = message
        self._run_task = run_task

    async def run(self) -> TaskiqResult[Any]:
        """Run the task.

        :raises _NotShared: a hook failed.
        """
        try:
            self.result = await self._run_task()
        except Exception as error:  # noqa: BLE001 - a user's hook may raise anything
            self.crash = error
            raise _NotShared from None
        return self.result


class CacheMiddleware(TaskiqMiddleware):
    """Skips a task whose result is cached, and lets one worker run it where many are to at the same time.

    Tasks opt in by label: ``cache_ttl=60`` (seconds) or ``cache=True`` (for ``default_ttl``). The key is the task's
    name and arguments, of which what dependencies give is no part; with the label ``cache_key``, it is
    ``{task name}:{cache_key}``. On a hit neither the task's function nor its dependencies are called; result backend,
    other middlewares and pipelines see a normal result, with the label ``cached``. Models and the like are cached as
    data, which is what a result backend makes of them, too.

    An error is shared with those who wait for it at that moment, and is cached only where the label ``cache_errors`` is
    set and no retry is to follow. The ``on_error`` hooks run for each of them, so that each is retried. Whoever waits
    and has the label ``timeout`` runs the task when that time is over.

    What goes wrong with the cache never fails a task, which then simply runs, and never passes in silence: a cache that
    fails is logged once, and once more when it works again, and a task whose arguments or results cannot be cached once
    for each reason; each failure is counted, kept in :attr:`lost` and told to :attr:`on_failure`.

    :param cache: where results are kept; never closed here. Its ``lock_timeout`` should be longer than the tasks take.
        None makes an in-memory one, closed at shutdown.
    :param enabled: False runs every task; it may be changed at any time.
    :param default_ttl: seconds that results live with the label ``cache``; None for the cache's own default.
    :raises ConfigurationError: ``cache`` is no cache.
    :raises InvalidTTLError: ``default_ttl`` is no legal time to live.
    """

    failures: int
    """How many times the cache failed, or could not keep a result."""
    lost: "deque[LostResult]"
    """The last 1,000 results that were not cached, and why."""
    on_failure: "list[Callable[[LostResult], None]]"
    """Called with each, as it happens."""

    def __init__(
        self, cache: BaseCacheAdapter | None = None, enabled: bool = True, default_ttl: float | None = None
    ) -> None:
        super().__init__()
        if cache is not None and not isinstance(cache, BaseCacheAdapter):
            raise ConfigurationError(f"cache must be a BaseCacheAdapter or None, not {cache!r}")
        if default_ttl is not None:
            rules.ttl_ms(default_ttl)
        self._owns_cache = cache is None
        self.cache = InMemoryCacheAdapter(lock_timeout=_LOCK_TIMEOUT) if cache is None else cache
        self.enabled = enabled
        self.default_ttl = default_ttl
        self.failures = 0
        self.lost = deque(maxlen=_MAX_LOST)
        self.on_failure = []
        self._is_failing = False
        self._refusals_told: set[tuple[str, str]] = set()
        self._under_way: set[tuple[str, asyncio.Task[Any] | None]] = set()
        """Keys that the cache is being asked for, and by whom."""
        self._calls: dict[int, _Call] = {}
        """Those that run their task to be cached, by the identity of their messages."""

    def set_broker(self, broker: AsyncBroker) -> None:
        """Take a broker, whose receivers will ask this middleware before they run a task."""
        super().set_broker(broker)
        _wrap_receiver()

    def on_error(self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException) -> None:
        """Note what a task raised: in the result, a retry middleware puts something else in its place."""
        if (call := self._calls.get(id(message))) is not None:
            call.raised = exception

    async def shutdown(self) -> None:
        """Close the cache if it was made here."""
        if self._owns_cache:
            await self.cache.aclose()

    # --- instead of running a task ------------------------------------------------------------------------------------

    async def run(self, target: Callable[..., Any], message: TaskiqMessage, run_task: Run) -> TaskiqResult[Any]:
        """Return the result of a task: from the cache, from whoever runs it just now, or from ``run_task()``."""
        if not self.enabled or not _is_asked_for(message):
            return await run_task()
        try:
            key, ttl_seconds = _key(target, message), self._ttl_seconds(message)
        except SerializationError as error:
            self._refused(message, "its arguments cannot be compared", error)
            return await run_task()
        except ValueError as error:
            logger.warning(
                "task %s has an invalid label %s=%r, and is run without a cache: %s",
                message.task_name,
                CACHE_TTL,
                message.labels[CACHE_TTL],
                error,
            )
            return await run_task()

        me = (key, asyncio.current_task())
        if me in self._under_way:  # sent by its own run, on a broker that runs in place: it would wait for itself
            return await run_task()

        call = _Call(message, run_task)
        self._under_way.add(me)
        try:
            outcome = await self._ask(call, key, ttl_seconds)
            if call.result is None and outcome is not None and outcome.error is not None and _is_retry(message):
                # That may be the error of the very run that this is to make good: its end was not yet told.
                outcome = await self._ask(call, key, ttl_seconds)
        finally:
            self._under_way.discard(me)
        if call.crash is not None:
            raise call.crash
        if call.result is not None:
            return call.result
        return await run_task() if outcome is None else await self._skipped(message, outcome)

    async def _ask(self, call: _Call, key: str, ttl_seconds: float | None) -> _Outcome | None:
        """Ask the cache, which may run the task; return what another run of it ended with, None for nothing."""
        message = call.message

        async def create() -> dict[str, Any]:
            waiting.deadline = math.inf
            await anyio.lowlevel.checkpoint_if_cancelled()  # by a deadline that was over just before
            self._calls[id(message)] = call
            try:
                result = await call.run()
            finally:
                del self._calls[id(message)]
            return self._to_cache(message, result, call.raised)

        try:
            with anyio.move_on_after(_patience(message)) as waiting:
                outcome = _outcome(message, key, await self.cache.get_or_create(key, create, ttl_seconds))
                self._worked()
                return outcome
            self._failed(message, "another run of it, which it waited for, takes longer than its own time-out")
        except _TaskError as told:
            return None if told.__cause__ is None else _Outcome(None, told.__cause__)
        except _NotShared:
            pass
        except (InvalidKeyError, SerializationError) as error:
            self._refused(message, "the cache does not take it", error)
        except Exception as error:  # noqa: BLE001 - a cache of one's own may raise anything
            self._failed(message, str(error) or repr(error))
        return None

    def _to_cache(
        self, message: TaskiqMessage, result: TaskiqResult[Any], raised: BaseException | None
    ) -> dict[str, Any]:
        """Return what is cached of a result.

        :param raised: what the task raised.
        :raises _TaskError: it raised an error, which is for those who wait, and not cached.
        :raises _NotShared: there is nothing that could be shared.
        """
        if raised is None:
            try:
                return {"task": message.task_name, "value": _storable(result.return_value)}
            except SerializationError as error:
                self._refused(message, "what it returned cannot be cached", error)
                raise _NotShared from None
        if isinstance(raised, NoResultError) or not isinstance(raised, Exception):  # requeued; cancelled
            raise _NotShared
        if _is_true(message.labels.get(CACHE_ERRORS)) and result.error is raised:
            return {"task": message.task_name, "error": dataclasses.asdict(StoredError.of(raised))}
        raise _TaskError from raised

    async def _skipped(self, message: TaskiqMessage, outcome: _Outcome) -> TaskiqResult[Any]:
        """Return the result of a task that is not run; after an error, the hooks run that the receiver would call."""
        value, error = outcome
        result: TaskiqResult[Any] = TaskiqResult(
            is_err=error is not None,
            log=None,
            return_value=value,
            execution_time=0.0,
            labels={**message.labels, CACHED: True},
            error=error,
        )
        if error is not None:
            middlewares = self.broker.middlewares
            for middleware in reversed(middlewares) if _HOOKS_RUN_BACKWARDS else middlewares:
                if type(middleware).on_error is not TaskiqMiddleware.on_error:
                    await maybe_awaitable(middleware.on_error(message, result, error))
        return result

    def _ttl_seconds(self, message: TaskiqMessage) -> float | None:
        """Return the seconds that the task's label asks for; None for the cache's default.

        :raises ValueError: it is no number, or no legal time to live.
        """
        label = message.labels.get(CACHE_TTL)
        if label in _NOTHING:
            return self.default_ttl
        seconds = float(label) if isinstance(label, str) else label  # labels of pipeline steps arrive as text
        rules.ttl_ms(seconds)
        return float(seconds)

    # --- failures -----------------------------------------------------------------------------------------------------

    def _refused(self, message: TaskiqMessage, what: str, error: Exception) -> None:
        """Count a result that cannot be cached, though the cache works."""
        if (message.task_name, what) not in self._refusals_told:
            self._refusals_told.add((message.task_name, what))
            logger.error(
                "the result of task %s (%s) is not cached: %s: %s; more of the kind are counted, and not logged",
                message.task_name,
                message.task_id,
                what,
                error,
            )
        self._lose(message, f"{what}: {error}")

    def _failed(self, message: TaskiqMessage, reason: str) -> None:
        """Count a result that was not cached because the cache does not work."""
        if not self._is_failing:
            self._is_failing = True
            logger.error(
                "the result of task %s (%s) is not cached: %s; further failures are counted, and not logged until the "
                "cache works again",
                message.task_name,
                message.task_id,
                reason,
            )
        self._lose(message, reason)

    def _worked(self) -> None:
        if self._is_failing:
            self._is_failing = False
            logger.warning("the cache works again")

    def _lose(self, message: TaskiqMessage, reason: str) -> None:
        self.failures += 1
        lost = LostResult(message.task_id, message.task_name, message.labels.get(PIPELINE_ID), reason)
        self.lost.append(lost)
        for callback in self.on_failure:
            try:
                callback(lost)
            except Exception:
                logger.exception("the callback %r for results that are not cached failed", callback)


_STORED_ERROR = pydantic.TypeAdapter(StoredError)
_NOTHING = (None, "None")  # taskiq sends a None as text
_FALSE = {"", "0", "false", "no", "off", "none"}


def _wrap_receiver() -> None:
    """Let every receiver ask the ``CacheMiddleware`` of its broker, if there is one, before it runs a task."""
    original = Receiver.run_task
    if hasattr(original, "asks_the_cache"):
        return

    @functools.wraps(original)
    async def run_task(
        self: Receiver, target: Callable[..., Any], message: TaskiqMessage, *more: Any, **named: Any
    ) -> TaskiqResult[Any]:
        is_skipped = True

        async def run() -> TaskiqResult[Any]:
            nonlocal is_skipped
            is_skipped = False
            return await original(self, target, message, *more, **named)

        for middleware in self.broker.middlewares:
            if isinstance(middleware, CacheMiddleware):
                result = await middleware.run(target, message, run)
                if is_skipped:
                    await _acknowledge(self, message, *more, **named)
                return result
        return await original(self, target, message, *more, **named)

    run_task.asks_the_cache = True  # type: ignore[attr-defined]  # a note on the function
    Receiver.run_task = run_task  # type: ignore[method-assign]  # see the module's docstring


async def _acknowledge(
    receiver: Receiver, message: TaskiqMessage, ack_controller: Any = None, *_: Any, **__: Any
) -> None:
    """Acknowledge the message of a skipped task that would have done so itself: taskiq 0.13's ``ack_type="manual"``."""
    ack_type = message.labels.get("ack_type") or receiver.ack_time
    is_manual = str(getattr(ack_type, "value", ack_type)).lower() == "manual"
    if is_manual and ack_controller is not None and ack_controller.is_ackable:
        await ack_controller.ack()


def _is_asked_for(message: TaskiqMessage) -> bool:
    is_on = message.labels.get(CACHE)
    return message.labels.get(CACHE_TTL) not in _NOTHING if is_on in _NOTHING else _is_true(is_on)


def _is_true(label: Any) -> bool:
    """Return what a label says that may have become text on its way."""
    return label.strip().lower() not in _FALSE if isinstance(label, str) else bool(label)


def _is_retry(message: TaskiqMessage) -> bool:
    """Return whether one of taskiq's retry middlewares sent a message."""
    return bool(message.labels.get("_retries"))


def _patience(message: TaskiqMessage) -> float | None:
    """Return how many seconds a task waits for another run of it; None for as long as that takes."""
    try:
        return float(message.labels["timeout"]) + _GRACE
    except (KeyError, TypeError, ValueError):  # what cannot be used fails the task when it is run
        return None


def _key(target: Callable[..., Any], message: TaskiqMessage) -> str:
    """Return the key of a task's result: readable at its beginning, and short.

    :raises SerializationError: an argument cannot be encoded.
    """
    own = message.labels.get(CACHE_KEY)
    if own not in _NOTHING:
        return f"{message.task_name}:{own}"
    text = serialization.dumps(_arguments(target, message), "arguments")
    canonical = json.dumps(json.loads(text), sort_keys=True)
    return f"{message.task_name}:{hashlib.sha256(canonical.encode()).hexdigest()}"


def _arguments(target: Callable[..., Any], message: TaskiqMessage) -> Any:
    """Return the arguments by name, whether they were given by position or by name."""
    try:
        return dict(inspect.signature(target).bind_partial(*message.args, **message.kwargs).arguments)
    except (TypeError, ValueError):  # they do not fit, which the task's run will tell
        return [message.args, message.kwargs]


def _storable(value: Any) -> Any:
    """Return a return value as it can be stored: converted to data where it is none.

    :raises SerializationError: it cannot.
    """
    try:
        serialization.dumps(value)
    except SerializationError:
        value = to_data(value)
        serialization.dumps(value)
    return value


def _outcome(message: TaskiqMessage, key: str, found: Any) -> _Outcome:
    """Return what the cache holds of a task.

    :raises SerializationError: it holds something else under this key.
    """
    match found:
        case {"task": message.task_name, "value": value}:
            return _Outcome(value, None)
        case {"task": message.task_name, "error": dict(error)}:
            try:
                return _Outcome(None, _STORED_ERROR.validate_python(error).to_exception())
            except pydantic.ValidationError:
                pass
    raise SerializationError(f"cache key {key!r} holds no result of task {message.task_name}")
