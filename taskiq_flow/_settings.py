"""Variables that are settings, in the environment and in ``.env`` files, and those that are not understood."""

import difflib
import inspect
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from taskiq_flow.exceptions import ConfigurationWarning

__all__ = ["OLD_NAMES", "Variables", "misunderstood", "warn"]

OLD_NAMES: Mapping[str, str] = {"storage_sqlite_url": "storage_url", "storage_sqlalchemy_url": "storage_url"}
"""Settings of taskiq-flow 1.2.2 for which the kit has another name. They work."""
_OF_THE_PLUGIN = re.compile(r"test_.*|.*_image")
"""Settings of the pytest plugin, which says itself which of them it does not know."""
_OURS = {"taskiq_flow", "pydantic", "pydantic_settings", "contextlib"}


class Variables(PydanticBaseSettingsSource):
    """The variables of a source that are settings, without blanks and line ends around their values.

    It warns of others that begin with the settings' prefix. The rest are the application's own.

    :param settings_cls: the settings.
    :param source: the environment, or a ``.env`` file.
    """

    def __init__(self, settings_cls: type[BaseSettings], source: EnvSettingsSource) -> None:
        super().__init__(settings_cls)
        self._source = source

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return what the source says of a setting."""
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        """Return the settings that the source holds."""
        place = getattr(self._source, "env_file", None)
        names = self._source.env_vars
        for message in misunderstood(names, self._source.env_prefix, self.settings_cls.model_fields, place):
            warn(message)
        # Not the call of the source for ".env" files, which takes everything that is in them for settings.
        found = EnvSettingsSource.__call__(self._source)
        return {name: value.strip() if isinstance(value, str) else value for name, value in found.items()}


def misunderstood(names: Iterable[str], prefix: str, settings: Iterable[str], place: object = None) -> Iterator[str]:
    """Yield what is to be said of variables that begin with the prefix: unknown ones, and old names.

    :param names: of all variables.
    :param prefix: of those that are settings.
    :param settings: the names of the settings.
    :param place: the file that holds the variables; None for the environment.
    """
    known = {name.lower() for name in settings}
    where = "" if place is None else f" in {place}"
    for variable in names:
        name = variable.lower().removeprefix(prefix.lower())
        if not prefix or not variable.lower().startswith(prefix.lower()) or _OF_THE_PLUGIN.fullmatch(name):
            continue
        if name not in known:
            yield (
                f"the variable {variable.upper()}{where} is not a setting of taskiq-flow-kit and has no effect; "
                f"the nearest that it knows is {(prefix + _nearest(name, known)).upper()}"
            )
        elif name in OLD_NAMES:
            yield (
                f"the variable {variable.upper()}{where} is a name of taskiq-flow 1.2.2: it works, "
                f"and is called {(prefix + OLD_NAMES[name]).upper()} now"
            )


def _nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that has most words of this one, and of those the one that is spelt most like it."""
    words = set(name.split("_"))
    return max(
        sorted(known),
        key=lambda each: (len(words & set(each.split("_"))), difflib.SequenceMatcher(None, name, each).ratio()),
    )


def warn(message: str) -> None:
    """Warn of a setting, at the line outside of this package that asked for it."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and _is_ours(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, ConfigurationWarning, stacklevel=level + 1)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _OURS
