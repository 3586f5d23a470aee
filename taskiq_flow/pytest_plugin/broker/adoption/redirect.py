"""``Redirection``: an object whose library methods answer from the test, while it stays the object that it is.

Its class is replaced by a subclass of it. In that one's method resolution order a stand-in comes before the library's
class and after the classes that the application wrote itself: what these override still runs, and their ``super()``
leads to the stand-in, never to the library.
"""

import os
import sys
import sysconfig
import weakref
from collections import deque
from typing import Any

from taskiq_flow.exceptions import ConfigurationError

__all__ = ["Redirection", "delegate_of", "is_of_a_library", "library_class"]

_LIBRARIES = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "purelib", "platlib"))
_DELEGATES: dict[int, Any] = {}
"""What answers for a redirected object, by the object's identity: nothing is written into the object."""
_CLASSES: "weakref.WeakKeyDictionary[type, weakref.ref[type]]" = weakref.WeakKeyDictionary()
"""The subclass for each class that was redirected before."""
_RECENT: "deque[type]" = deque(maxlen=64)
"""Those that were made last: an application's are made once, and a test's own do not stay for ever."""


class Redirection:
    """Lets ``stand_in``'s methods answer for an object, until it is undone.

    :param thing: the object.
    :param base: taskiq's class for objects of this kind.
    :param stand_in: methods, which ask :func:`delegate_of` for what answers.
    :param delegate: what answers.
    :param hooks: names of those methods that are the application's to write in any class of this kind.
    :raises ConfigurationError: if the object's class cannot be replaced.
    """

    def __init__(
        self, thing: Any, base: type, stand_in: dict[str, Any], delegate: Any, hooks: frozenset[str] = frozenset()
    ) -> None:
        self.thing = thing
        self._class = type(thing)
        _DELEGATES[id(thing)] = delegate
        try:
            object.__setattr__(thing, "__class__", _redirected(self._class, base, stand_in, hooks))
        except TypeError as error:
            del _DELEGATES[id(thing)]
            raise ConfigurationError(f"{thing!r} cannot be adopted: {error}") from error

    def undo(self) -> None:
        """Let the object be what it was."""
        object.__setattr__(self.thing, "__class__", self._class)
        _DELEGATES.pop(id(self.thing), None)


def delegate_of(thing: Any) -> Any:
    """Return what answers for a redirected object."""
    return _DELEGATES[id(thing)]


def library_class(kind: type, base: type) -> type:
    """Return the class at which the library begins, in the method resolution order of a class of the application.

    Where the application wrote everything itself, that is the class in which it first did.
    """
    candidates = [each for each in kind.__mro__ if issubclass(each, base) and each is not base]
    return next(filter(is_of_a_library, candidates), candidates[-1] if candidates else kind)


def is_of_a_library(kind: type) -> bool:
    """Return whether a class comes with an installed distribution, and is not the application's own."""
    module = kind.__module__
    if module.partition(".")[0].startswith("taskiq"):
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and file.startswith(_LIBRARIES)


def _redirected(kind: type, base: type, stand_in: dict[str, Any], hooks: frozenset[str]) -> type:
    if (known := _CLASSES.get(kind)) is not None and (again := known()) is not None:
        return again
    library = library_class(kind, base)
    own_hooks = set() if is_of_a_library(library) else {name for name in hooks if _defines(library, base, name)}
    methods = {name: each for name, each in stand_in.items() if hasattr(library, name) and name not in own_hooks}
    substitute = _subclass(library, (library,), methods)
    made = substitute if kind is library else _subclass(kind, (kind, substitute), {})
    _CLASSES[kind] = weakref.ref(made)
    _RECENT.append(made)
    return made


def _subclass(like: type, bases: tuple[type, ...], methods: dict[str, Any]) -> type:
    # Without slots of its own it has the same layout as its base, or Python would refuse to exchange the class.
    named = {"__module__": like.__module__, "__qualname__": like.__qualname__, "__doc__": like.__doc__, "__slots__": ()}
    return type(like)(like.__name__, bases, {**named, **methods})


def _defines(kind: type, base: type, name: str) -> bool:
    return getattr(kind, name) is not getattr(base, name)
