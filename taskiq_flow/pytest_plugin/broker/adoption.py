"""``adopt``: lets an application's own broker send to the test's broker, for as long as the test takes."""

from typing import TYPE_CHECKING, Any

from taskiq import AsyncBroker, TaskiqMiddleware
from taskiq_pipelines import PipelineMiddleware as PipelineEngine

from taskiq_flow.middlewares import CacheMiddleware, StorageMiddleware

if TYPE_CHECKING:
    from taskiq_flow.pytest_plugin.broker import FlowBroker

__all__ = ["Adoption"]

# What an application's middleware does in production, the test's of the same kind does here.
_ROLES: tuple[type[TaskiqMiddleware], ...] = (StorageMiddleware, CacheMiddleware, PipelineEngine)
_INJECTED = ("custom_dependency_context", "dependency_overrides")
_SHARED = ("result_backend", "middlewares", "state", "event_handlers", *_INJECTED)


class Adoption:
    """A broker whose tasks run on the test's broker, until it is released.

    The broker object stays, and so do its tasks: it gets the attributes of the test's broker, and all of its own back
    in the end. Tasks that are declared or imported meanwhile are its own.

    :raises ConfigurationError: another broker with another serializer or formatter was adopted before.
    """

    def __init__(self, theirs: AsyncBroker, ours: "FlowBroker") -> None:
        self.broker = theirs
        self._before = dict(vars(theirs))
        ours.speak_like(theirs)
        ours.middlewares[:] = _merged(theirs.middlewares, ours)
        for event, handlers in theirs.event_handlers.items():
            ours.event_handlers[event].extend(handlers)
        for name in _INJECTED:
            getattr(ours, name).update(getattr(theirs, name))
        vars(theirs).update({name: getattr(ours, name) for name in _SHARED})
        vars(theirs).update(kick=ours.kick, startup=ours.startup, shutdown=_nothing)
        if "_default_broker" in self._before:  # taskiq's shared broker hands its tasks on to that one
            vars(theirs)["_default_broker"] = ours

    def release(self) -> None:
        """Give the broker back all that it had."""
        vars(self.broker).clear()
        vars(self.broker).update(self._before)
        for middleware in self.broker.middlewares:
            middleware.set_broker(self.broker)


def _merged(theirs: list[TaskiqMiddleware], ours: "FlowBroker") -> list[TaskiqMiddleware]:
    """Return the test's middlewares in the places of those that they stand for, with what else there is of theirs."""
    merged, left = [], list(ours.middlewares)
    for middleware in theirs:
        role = next((role for role in _ROLES if isinstance(middleware, role)), None)
        if role is None:
            middleware.set_broker(ours)
            merged.append(middleware)
            continue
        substitutes = [mine for mine in left if isinstance(mine, role)]
        merged += substitutes
        left = [mine for mine in left if mine not in substitutes]
    return merged + left


async def _nothing(*_: Any) -> None:
    """Do nothing: the test's broker shuts down when the test is over."""
