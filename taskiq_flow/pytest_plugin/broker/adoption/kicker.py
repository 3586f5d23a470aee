"""Sources that tasks of adopted brokers are scheduled on, noticed as they are: a test may not know of them.

This is the one place where the kit changes a class of taskiq: while something is adopted, ``AsyncKicker`` tells of the
source before it adds a schedule to it.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from taskiq import ScheduleSource
from taskiq.kicker import AsyncKicker

from taskiq_flow.pytest_plugin.broker.adoption.redirect import is_of_a_library, library_class

if TYPE_CHECKING:
    from taskiq import AsyncBroker

__all__ = ["sources_are_noticed"]

_METHODS = ("schedule_by_cron", "schedule_by_interval", "schedule_by_time")


class _Adopter(Protocol):
    brokers: dict[int, Any]

    def adopt_source(self, source: ScheduleSource) -> None:
        """Adopt a source."""


class _Noticed:
    """Those who adopt the sources that tasks of their brokers are scheduled on."""

    def __init__(self) -> None:
        self._adopters: list[_Adopter] = []
        self._originals: dict[str, Callable[..., Any]] = {}

    def add(self, adopter: _Adopter) -> None:
        """Begin to tell of sources."""
        if not self._adopters:
            for name in _METHODS:
                if (original := vars(AsyncKicker).get(name)) is not None:  # taskiq 0.11 has no intervals
                    self._originals[name] = original
                    setattr(AsyncKicker, name, self._telling(original))
        if adopter not in self._adopters:
            self._adopters.append(adopter)

    def discard(self, adopter: _Adopter) -> None:
        """Tell of no source any more."""
        if adopter in self._adopters:
            self._adopters.remove(adopter)
        if not self._adopters:
            for name, original in self._originals.items():
                setattr(AsyncKicker, name, original)
            self._originals.clear()

    def tell(self, broker: "AsyncBroker", source: Any) -> None:
        """Let a source be adopted that is connected to a server, as far as one can tell."""
        if issubclass(type(source), ScheduleSource) and is_of_a_library(library_class(type(source), ScheduleSource)):
            for adopter in self._adopters:
                if id(broker) in adopter.brokers:
                    adopter.adopt_source(source)

    def _telling(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        async def schedule(kicker: AsyncKicker[Any, Any], source: Any, *arguments: Any, **named: Any) -> Any:
            self.tell(kicker.broker, source)
            return await original(kicker, source, *arguments, **named)

        return schedule


sources_are_noticed = _Noticed()
