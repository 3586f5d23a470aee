"""Processes that are forked: a child opens its own connections, and leaves those of its parent alone.

Two processes on one connection read each other's answers. The child does not even close what it has inherited: drivers
say goodbye to the server, whose end of the connection is the parent's as well.
"""

import os
import weakref
from typing import Any, Protocol

__all__ = ["HasConnections", "leave_to_parent", "reset_in_child"]


class HasConnections(Protocol):
    """What has to begin anew in a child."""

    def after_fork(self) -> None:
        """Forget what the parent opened, by :func:`leave_to_parent`, and make new locks; called in the child."""


_all: "weakref.WeakSet[HasConnections]" = weakref.WeakSet()
_parents: list[Any] = []


def reset_in_child(thing: HasConnections) -> None:
    """Let ``thing.after_fork()`` be called in every child that this process forks, for as long as it exists."""
    _all.add(thing)


def leave_to_parent(thing: Any) -> None:
    """Keep what belongs to the parent process, so that no finalizer of it runs here."""
    _parents.append(thing)


def _after_fork() -> None:
    for thing in list(_all):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
