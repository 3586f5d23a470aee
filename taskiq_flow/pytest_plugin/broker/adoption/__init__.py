"""``Adoption``: an application's brokers, schedulers, sources and result backends, for as long as a test takes."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

from taskiq import (
    AsyncBroker,
    AsyncResultBackend,
    ScheduledTask,
    ScheduleSource,
    TaskiqMiddleware,
    TaskiqScheduler,
)
from taskiq.brokers.shared_broker import AsyncSharedBroker
from taskiq.result_backends.dummy import DummyResultBackend
from taskiq.schedule_sources import LabelScheduleSource

from taskiq_flow.exceptions import ConfigurationError
from taskiq_flow.pytest_plugin.broker.adoption.brokers import AdoptedBroker, Host
from taskiq_flow.pytest_plugin.broker.adoption.kicker import sources_are_noticed
from taskiq_flow.pytest_plugin.broker.adoption.redirect import Redirection
from taskiq_flow.pytest_plugin.broker.adoption.results import redirected_backend
from taskiq_flow.pytest_plugin.broker.adoption.sources import is_of_labels, redirected_source
from taskiq_flow.storage.base import BaseStorageAdapter

__all__ = ["Adoption", "DrivenSource"]

Middlewares = Sequence[type[TaskiqMiddleware]]

_REPORTING = {
    "taskiq.middlewares.taskiq_admin_middleware": "TaskiqAdminMiddleware",
    "taskiq.middlewares.prometheus_middleware": "PrometheusMiddleware",
}
"""taskiq's middlewares that report to the outside, by the modules that they are in."""


class DrivenSource(NamedTuple):
    """A source whose schedules fire, and the scheduler that sends them."""

    source: ScheduleSource
    scheduler_for: Callable[[ScheduledTask], TaskiqScheduler]


class Adoption:
    """What a test has adopted.

    :param host: starts the brokers, and handles what is sent to them.
    :param make_storage: makes the adapter that adopted sources and result backends are on.
    :param own_sources: the test's own sources, which are nobody's to adopt.
    """

    def __init__(
        self,
        host: Host,
        make_storage: Callable[[], BaseStorageAdapter],
        middlewares: Sequence[TaskiqMiddleware],
        own_sources: list[ScheduleSource],
    ) -> None:
        self.brokers: dict[int, AdoptedBroker] = {}
        self.schedulers: list[TaskiqScheduler] = []
        self._host = host
        self._make_storage = make_storage
        self._storage: BaseStorageAdapter | None = None
        self._middlewares = middlewares
        self._own_sources = own_sources
        self._explicit: set[int] = set()
        """Which brokers were named themselves, and not as what something else is connected to."""
        self._sources: dict[int, ScheduleSource] = {}
        self._labels: dict[int, LabelScheduleSource] = {}
        """For brokers without a scheduler: the source that reads their labels."""
        self._redirections: dict[int, Redirection] = {}
        self._released: list[AdoptedBroker] = []

    # --- adopting -----------------------------------------------------------------------------------------------------

    def add(self, parts: Sequence[Any], without: Middlewares, keeping: Middlewares) -> None:
        """Adopt parts of an application; see ``FlowBroker.adopt``."""
        _check(parts)
        for broker in (part for part in parts if isinstance(part, AsyncBroker)):
            if self._is_host(broker) or id(broker) in self._explicit:
                raise ConfigurationError(f"{broker!r} is adopted already")
        brokers = list({id(broker): broker for broker in self._brokers_of(parts)}.values())
        # Those that were adopted before, and are only mentioned again, keep what was said of their middlewares.
        meant = [broker for broker in brokers if id(broker) not in self.brokers or broker in parts]
        is_left_out = _left_out([each for broker in meant for each in self._had(broker)], without, keeping)
        self._explicit.update(id(part) for part in parts if isinstance(part, AsyncBroker))
        for broker in meant:
            self._adopt_broker(broker, is_left_out)
        for part in parts:
            if isinstance(part, TaskiqScheduler):
                self.schedulers.append(part)
                for source in part.sources:
                    self._redirect_source(source)
            elif isinstance(part, ScheduleSource):
                self.adopt_source(part)
            elif isinstance(part, AsyncResultBackend):
                self._redirect_backend(part)

    def adopt_source(self, source: ScheduleSource) -> None:
        """Adopt a source by itself: its schedules are sent through the broker of each task."""
        if not any(source is own for own in self._own_sources):
            self._sources[id(source)] = source
            self._redirect_source(source)

    def release(self) -> None:
        """Let everything be as it was."""
        sources_are_noticed.discard(self)
        for redirection in self._redirections.values():
            redirection.undo()
        for adopted in self.brokers.values():
            adopted.release()
        self._released += self.brokers.values()
        for kept in (self.brokers, self._redirections, self._sources, self._labels, self._explicit, self.schedulers):
            kept.clear()

    def reset_attributes(self) -> None:
        """Set the attributes of released brokers to what they were before the test, and delete those added."""
        while self._released:
            self._released.pop().reset_attributes()

    def _brokers_of(self, parts: Sequence[Any]) -> Iterator[AsyncBroker]:
        """Yield the brokers among parts, those of schedulers, and those that shared brokers hand their tasks on to."""
        for part in parts:
            broker = part.broker if isinstance(part, TaskiqScheduler) else part
            if isinstance(broker, AsyncBroker) and not self._is_host(broker):
                yield broker
                if isinstance(broker, AsyncSharedBroker) and broker._default_broker is not None:
                    yield from self._brokers_of([broker._default_broker])

    def _is_host(self, broker: object) -> bool:
        return broker is self._host

    def _adopt_broker(self, broker: AsyncBroker, is_left_out: Callable[[TaskiqMiddleware], bool]) -> None:
        if (adopted := self.brokers.get(id(broker))) is None:
            adopted = self.brokers[id(broker)] = AdoptedBroker(broker, self._host)
            sources_are_noticed.add(self)
        adopted.set_middlewares(self._middlewares, is_left_out)
        if isinstance(broker, AsyncSharedBroker) and broker._default_broker is None:
            broker._default_broker = cast(AsyncBroker, self._host)
        if isinstance(broker.result_backend, DummyResultBackend):
            broker.result_backend = self._host.result_backend
        else:
            self._redirect_backend(broker.result_backend)
        for middleware in broker.middlewares:
            for held in vars(middleware).values():
                if isinstance(held, ScheduleSource):
                    self.adopt_source(held)
                elif isinstance(held, AsyncResultBackend):
                    self._redirect_backend(held)

    def _had(self, broker: AsyncBroker) -> list[TaskiqMiddleware]:
        """Return the middlewares that a broker had before it was adopted."""
        adopted = self.brokers.get(id(broker))
        return broker.middlewares if adopted is None else adopted.middlewares

    def _redirect_source(self, source: ScheduleSource) -> None:
        is_known = id(source) in self._redirections or any(source is own for own in self._own_sources)
        if not is_known and not is_of_labels(source):
            number = sum(isinstance(each.thing, ScheduleSource) for each in self._redirections.values()) + 1
            self._redirections[id(source)] = redirected_source(source, self._adapter(), f"schedule-{number}")

    def _redirect_backend(self, backend: AsyncResultBackend[Any]) -> None:
        if id(backend) not in self._redirections and backend is not self._host.result_backend:
            number = sum(isinstance(each.thing, AsyncResultBackend) for each in self._redirections.values()) + 1
            prefix = "" if number == 1 else f"{number}-"
            self._redirections[id(backend)] = redirected_backend(backend, self._adapter(), prefix)

    def _adapter(self) -> BaseStorageAdapter:
        if self._storage is None:
            self._storage = self._make_storage()
        return self._storage

    # --- tasks and schedules ------------------------------------------------------------------------------------------

    def find_task(self, task_name: str) -> Any:
        """Return a task of an adopted broker; None where there is none."""
        return next(filter(None, (adopted.own_task(task_name) for adopted in self.brokers.values())), None)

    def broker_of(self, task_name: str) -> AsyncBroker:
        """Return the broker that a task belongs to; the test's where nobody knows it."""
        for adopted in self.brokers.values():
            if task_name in adopted.broker.local_task_registry:
                return adopted.broker
        shared = AsyncBroker.global_task_registry.get(task_name)
        default = getattr(shared.broker, "_default_broker", None) if shared is not None else None
        return cast(AsyncBroker, default if id(default) in self.brokers else self._host)

    def driven_sources(self) -> list[DrivenSource]:
        """Return what the clock drives: each source with the scheduler that sends its schedules."""
        driven = [DrivenSource(source, self._scheduler_of_tasks(source)) for source in self._own_sources]
        known = {id(source) for source in self._own_sources}
        for scheduler in self.schedulers:
            for source in scheduler.sources:
                if id(source) not in known:
                    known.add(id(source))
                    self._redirect_source(source)  # which may have been added to it since
                    driven.append(DrivenSource(source, partial(_itself, scheduler)))
        alone = [source for key, source in self._sources.items() if key not in known]
        driven += [DrivenSource(source, self._scheduler_of_tasks(source)) for source in alone]
        driven += [DrivenSource(labels, self._scheduler_of_tasks(labels)) for labels in self._labels_of(driven)]
        return driven

    def _labels_of(self, driven: list[DrivenSource]) -> list[LabelScheduleSource]:
        """Return sources for the labels of those brokers of which no scheduler was adopted."""
        decided = {id(scheduler.broker) for scheduler in self.schedulers}
        decided |= {id(each.source.broker) for each in driven if isinstance(each.source, LabelScheduleSource)}
        found = []
        for key, adopted in self.brokers.items():
            has_some = any("schedule" in task.labels for task in adopted.broker.local_task_registry.values())
            if key not in decided and has_some:
                found.append(self._labels.setdefault(key, LabelScheduleSource(adopted.broker)))
        return found

    def _scheduler_of_tasks(self, source: ScheduleSource) -> Callable[[ScheduledTask], TaskiqScheduler]:
        """Return what finds a scheduler for schedules that no scheduler of the application's sends."""

        def scheduler(task: ScheduledTask) -> TaskiqScheduler:
            if isinstance(source, LabelScheduleSource) and id(source.broker) in self.brokers:
                return TaskiqScheduler(source.broker, [source])
            return TaskiqScheduler(self.broker_of(task.task_name), [source])

        return scheduler


def _itself(scheduler: TaskiqScheduler, _task: ScheduledTask) -> TaskiqScheduler:
    return scheduler


def _check(parts: Sequence[Any]) -> None:
    kinds = (AsyncBroker, TaskiqScheduler, ScheduleSource, AsyncResultBackend)
    for part in parts:
        if not isinstance(part, kinds):
            raise TypeError(
                f"adopt() was given {part!r}, a {type(part).__name__}: it wants objects of taskiq: an AsyncBroker, "
                "TaskiqScheduler, ScheduleSource or AsyncResultBackend"
            )
    if not parts:
        raise TypeError("adopt() was given nothing: it wants a broker, a scheduler, a source or a result backend")


def _left_out(
    middlewares: list[TaskiqMiddleware], without: Middlewares, keeping: Middlewares
) -> Callable[[TaskiqMiddleware], bool]:
    """Return what tells whether a middleware is left out, of those that brokers had.

    :raises TypeError: if one of those given is not a class of middlewares.
    :raises ConfigurationError: if one of those given matches no middleware, or is to be kept and left out.
    """
    for option, kinds in (("without", without), ("keeping", keeping)):
        for kind in kinds:
            if not isinstance(kind, type) or not issubclass(kind, TaskiqMiddleware):
                raise TypeError(f"adopt({option}=…) was given {kind!r}: it wants classes of middlewares")
            if not any(isinstance(middleware, kind) for middleware in middlewares):
                has = ", ".join(sorted({type(middleware).__name__ for middleware in middlewares})) or "none"
                raise ConfigurationError(f"adopt({option}=[{kind.__name__}]) matches no middleware; there are: {has}")
    if both := [kind.__name__ for kind in without if kind in keeping]:
        raise ConfigurationError(f"adopt() was told to leave out and to keep {', '.join(both)}")
    reporting = [getattr(sys.modules.get(module), name, None) for module, name in _REPORTING.items()]
    by_themselves = tuple(filter(None, reporting))

    def is_left_out(middleware: TaskiqMiddleware) -> bool:
        is_reporting = isinstance(middleware, by_themselves) and not isinstance(middleware, tuple(keeping))
        return is_reporting or isinstance(middleware, tuple(without))

    return is_left_out
