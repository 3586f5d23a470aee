"""The plugin's markers: what they are, and what their arguments say."""

from typing import Any

import pytest

from taskiq_flow.pytest_plugin.options import GROUPS, Storages
from taskiq_flow.pytest_plugin.report.matrix import test_name

__all__ = ["add_markers", "marked_storages", "marker_arguments", "without_storage"]

_MARKERS = (
    "storage_backends(*names, exclude=()): run this test on these storage backends only; names of backends or of the "
    f"groups {', '.join(GROUPS)}",
    "frozen_clock(at=None, everything=False): where the fixture frozen_clock starts (an aware datetime or ISO 8601 "
    "text), and whether datetime.now() and time.time() are frozen for all code too, by freezegun",
    "flow_broker(loses=None): the fixture flow_broker expects that results are lost, for reasons that this regular "
    "expression finds; else each fails the test",
)


def add_markers(config: pytest.Config) -> None:
    """Register the markers, for ``pytest --markers`` and ``--strict-markers``."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)


def marked_storages(marker: pytest.Mark, nodeid: str, storages: Storages) -> tuple[str, ...]:
    """Return the storages that a ``storage_backends`` marker allows.

    :raises pytest.UsageError: if it names an unknown one, or has an unknown argument.
    """
    excluded = _keywords(marker, nodeid, "exclude").get("exclude", ())
    origin = f"{nodeid}: marker storage_backends"
    names = storages.chosen(marker.args or ("all",), origin)
    left_out = storages.chosen((excluded,) if isinstance(excluded, str) else excluded, origin)
    return tuple(name for name in names if name not in left_out)


def marker_arguments(item: pytest.Item, name: str, *parameters: str) -> dict[str, Any]:
    """Return the arguments of a test's marker by their names, as a function with these parameters would see them.

    :return: those that were given; nothing where the test has no such marker.
    :raises pytest.UsageError: if there are too many, or unknown ones.
    """
    marker = item.get_closest_marker(name)
    if marker is None:
        return {}
    if len(marker.args) > len(parameters):
        raise pytest.UsageError(f"{item.nodeid}: marker {name} takes {', '.join(parameters)}, not {marker.args!r}")
    return dict(zip(parameters, marker.args, strict=False)) | _keywords(marker, item.nodeid, *parameters)


def without_storage(item: pytest.Item) -> str:
    """Return the name of a test without its storage: ``test_it[memory-1]`` on ``memory`` is ``test_it[1]``.

    For tools that keep something by the names of tests, such as snapshots, and should keep one for all storages.
    """
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return test_name(item.name, str(parameters.get("_storage_name", "")))


def _keywords(marker: pytest.Mark, nodeid: str, *known: str) -> dict[str, Any]:
    if unknown := sorted(marker.kwargs.keys() - {*known}):
        raise pytest.UsageError(
            f"{nodeid}: marker {marker.name} has no argument {unknown[0]!r}; known: {', '.join(sorted(known))}"
        )
    return dict(marker.kwargs)
