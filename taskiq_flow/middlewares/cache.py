"""``CacheMiddleware``: a task that carries a cache label is not run again as long as its result is cached."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
from taskiq import AsyncBroker, TaskiqMessage, TaskiqResult
from taskiq.exceptions import NoResultError

from taskiq_flow.cache.base import BaseCacheAdapter
from taskiq_flow.cache.memory import InMemoryCacheAdapter
from taskiq_flow.exceptions import ConfigurationError, InvalidKeyError, SerializationError
from taskiq_flow.middlewares import _labels, _receiver
from taskiq_flow.middlewares._cache_keys import ResultKeys
from taskiq_flow.middlewares._cache_labels import (
    CACHE,
    CACHE_ERRORS,
    CACHE_KEY,
    CACHE_TTL,
    CACHED,
    caches_errors,
    is_cached,
    is_retry,
    waiting_seconds,
)
from taskiq_flow.middlewares._losses import Losses, LostResult
from taskiq_flow.middlewares._receiver import Run, RunsTasks
from taskiq_flow.records.cached import CachedOutcome
from taskiq_flow.storage import rules

__all__ = ["CACHE", "CACHED", "CACHE_ERRORS", "CACHE_KEY", "CACHE_TTL", "CacheMiddleware"]

logger = logging.getLogger(__name__)


class _TaskError(Exception):
    """Tells those who wait for a run that the task raised what this error is raised from."""


class _NotShared(Exception):  # noqa: N818 - nobody sees it
    """Tells those who wait for a run that they have to run the task themselves."""


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


class CacheMiddleware(RunsTasks):
    """Skips a task whose result is cached, and lets one worker run it where many are to at the same time.

    Tasks opt in by label: ``cache_ttl=60`` (seconds) or ``cache=True`` (for ``default_ttl``). The key is the task's
    name and arguments, of which what dependencies give is no part; a default is the same given or left out. With the
    label ``cache_key``, the key is ``{task name}:{cache_key}``. On a hit neither the task's function nor its
    dependencies are called; result backend, other middlewares and pipelines see a normal result, with the label
    ``cached``. Models and the like are cached as data, which is what a result backend makes of them, too.

    An error is shared with those who wait for it at that moment, and is cached only where the label ``cache_errors`` is
    set and no retry is to follow. The ``on_error`` hooks run for each of them, so that each is retried. Whoever waits
    and has the label ``timeout`` runs the task when that time is over.

    What goes wrong with the cache never fails a task, which then simply runs, and never passes in silence: a cache that
    fails is logged once, and once more when it works again, and a task whose arguments or results cannot be cached once
    for each reason; each failure is counted, kept in :attr:`lost` and told to :attr:`on_failure`.

    Of several on one broker, each is asked in turn.

    :param cache: where results are kept; None makes an in-memory one. A worker that dies frees what it was running
        after the cache's ``lock_timeout``; one that is only slow keeps it.
    :param enabled: False runs every task; it may be changed at any time.
    :param default_ttl: seconds that results live with the label ``cache``; None for the cache's own default.
    :param owns_cache: whether the cache is closed at shutdown; None means one that was made here.
    :raises ConfigurationError: if ``cache`` is no cache.
    :raises InvalidTTLError: if ``default_ttl`` is no legal time to live.
    """

    lost: "deque[LostResult]"
    """The last 1,000 results that were not cached, and why."""
    on_failure: "list[Callable[[LostResult], None]]"
    """Called with each, as it happens."""

    def __init__(
        self,
        cache: BaseCacheAdapter | None = None,
        enabled: bool = True,
        default_ttl: float | None = None,
        *,
        owns_cache: bool | None = None,
    ) -> None:
        super().__init__()
        if cache is not None and not isinstance(cache, BaseCacheAdapter):
            raise ConfigurationError(f"cache must be a BaseCacheAdapter or None, not {cache!r}")
        if default_ttl is not None:
            rules.ttl_ms(default_ttl)
        self._owns_cache = cache is None if owns_cache is None else owns_cache
        self.cache = InMemoryCacheAdapter() if cache is None else cache
        self.enabled = enabled
        self.default_ttl = default_ttl
        self._losses = Losses(logger, "cache", "is not cached")
        self.lost, self.on_failure = self._losses.lost, self._losses.on_failure
        self._refusals_told: set[tuple[str, str]] = set()
        self._under_way: set[tuple[str, asyncio.Task[Any] | None]] = set()
        """Keys that the cache is being asked for, and by whom."""
        self._calls: dict[int, _Call] = {}
        """Those that run their task to be cached, by the identity of their messages."""

    @property
    def failures(self) -> int:
        """How many times the cache failed, or could not keep a result."""
        return self._losses.count

    # --- taskiq's hooks -----------------------------------------------------------------------------------------------

    def set_broker(self, broker: AsyncBroker) -> None:
        """Take a broker, whose receivers will ask this middleware before they run a task."""
        super().set_broker(broker)
        self._keys = ResultKeys(broker)
        _receiver.take_part(self)

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """See to it that the receiver asks, on a broker that is used again after it was shut down, too."""
        _receiver.take_part(self)
        return message

    def on_error(self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException) -> None:
        """Note what a task raised: in the result, a retry middleware puts something else in its place."""
        if (call := self._calls.get(id(message))) is not None:
            call.raised = exception

    async def shutdown(self) -> None:
        """Close the cache if it is this middleware's own, and say what a cache that still fails has lost."""
        _receiver.give_up(self)
        self._losses.close()
        if self._owns_cache:
            await self.cache.aclose()

    # --- instead of running a task ------------------------------------------------------------------------------------

    async def run(self, target: Callable[..., Any], message: TaskiqMessage, run_task: Run) -> TaskiqResult[Any]:
        """Return the result of a task: from the cache, from another run at the same time, or from ``run_task()``."""
        if not self.enabled or not is_cached(message):
            return await run_task()
        try:
            key, ttl_seconds = self._keys.key_of(target, message), self._ttl_seconds(message)
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
            if call.result is None and outcome is not None and outcome.error is not None and is_retry(message):
                # That may be the error of the very run that this is to make good: its end was not yet told.
                outcome = await self._ask(call, key, ttl_seconds)
        finally:
            self._under_way.discard(me)
        if call.crash is not None:
            raise call.crash
        if call.result is not None:
            return call.result
        return await run_task() if outcome is None else await self._skipped(message, outcome)

    async def _ask(self, call: _Call, key: str, ttl_seconds: float | None) -> CachedOutcome | None:
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
            with anyio.move_on_after(waiting_seconds(message)) as waiting:
                found = await self.cache.get_or_create(key, create, ttl_seconds)
                outcome = CachedOutcome.from_data(message.task_name, key, found)
                self._losses.worked()
                return outcome
            self._losses.failed(message, "another run of it, which it waited for, takes longer than its own time-out")
        except _TaskError as told:
            return None if told.__cause__ is None else CachedOutcome(message.task_name, error=told.__cause__)
        except _NotShared:
            pass
        except (InvalidKeyError, SerializationError) as error:
            self._refused(message, "the cache does not take it", error)
        except Exception as error:  # noqa: BLE001 - a custom cache may raise anything
            self._losses.failed(message, str(error) or repr(error))
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
                return CachedOutcome(message.task_name, result.return_value).to_data()
            except SerializationError as error:
                self._refused(message, "what it returned cannot be cached", error)
                raise _NotShared from None
        if isinstance(raised, NoResultError) or not isinstance(raised, Exception):  # requeued; cancelled
            raise _NotShared
        if caches_errors(message) and result.error is raised:
            return CachedOutcome(message.task_name, error=raised).to_data()
        raise _TaskError from raised

    async def _skipped(self, message: TaskiqMessage, outcome: CachedOutcome) -> TaskiqResult[Any]:
        """Return the result of a task that is not run; after an error, the hooks run that the receiver would call."""
        error = outcome.error
        result: TaskiqResult[Any] = TaskiqResult(
            is_err=error is not None,
            log=None,
            return_value=outcome.value,
            execution_time=0.0,
            labels={**message.labels, CACHED: True},
            error=error,
        )
        if error is not None:
            await _receiver.call_error_hooks(self.broker.middlewares, message, result, error)
        return result

    def _ttl_seconds(self, message: TaskiqMessage) -> float | None:
        """Return the seconds that a result lives; None for the cache's default.

        :raises ValueError: if the label is no number, or no legal time to live.
        """
        seconds = _labels.ttl_seconds(message, CACHE_TTL)
        return self.default_ttl if seconds is None else seconds

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
        self._losses.count += 1
        self._losses.add(message, f"{what}: {error}")
