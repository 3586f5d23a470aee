"""The plugin's settings: command line, environment and ini, read once and checked once.

The command line takes precedence over the environment, and that over the ini file. A value that cannot be used is a
usage error that lists the good ones.
"""

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from taskiq_flow.pytest_plugin.servers import SOURCES, ServerKind, ServerSettings
from taskiq_flow.pytest_plugin.stores import StorageKind, built_in
from taskiq_flow.storage.urls import masked

__all__ = ["GROUPS", "Settings", "Storages", "add_options", "read_settings"]

GROUPS = ("default", "all", "fakes", "real")
REPORT_FORMS = (".json", ".md", ".html")
CLOCK_SCOPES = ("storage", "everything")


class _Setting(NamedTuple):
    """One setting, wherever it may come from."""

    name: str
    help: str
    metavar: str
    env: str | None = None
    ini: Literal["args", "string"] = "string"
    """``args``: several names; in TOML, a list."""

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")


_SERVERS_OF = {kind.name: kind.server for kind in built_in() if kind.server is not None}
_BACKENDS = _Setting(
    "storage_backends",
    f"run storage tests on these: {', '.join([*(kind.name for kind in built_in()), *GROUPS])}",
    "NAMES",
    ini="args",
)
_REQUIRE = _Setting(
    "storage_require", "fail, instead of skip, where one of these backends cannot run", "NAMES", ini="args"
)
_SERVERS = _Setting(
    "storage_servers",
    f"where real servers may come from, in this order: {', '.join(SOURCES)}",
    "SOURCES",
    "TASKIQ_FLOW_TEST_SERVERS",
    ini="args",
)
_FALLBACK = _Setting(
    "storage_fallback",
    "where tests run that pytest cannot run once for each storage, such as a unittest.TestCase: one of the run's "
    "(default: the first), or 'error', which refuses them",
    "NAME",
)
_REPORT = _Setting(
    "storage_report", f"write the storage matrix to a file: {', '.join(REPORT_FORMS)}; may be repeated", "FILE"
)
_URLS = {
    kind: _Setting(
        f"storage_{kind}_url",
        f"use this {kind} server; only the kit's own entries in it are touched",
        "URL",
        f"TASKIQ_FLOW_TEST_{kind.upper()}_URL",
    )
    for kind in _SERVERS_OF
}
_IMAGES = {
    kind: _Setting(
        f"storage_{kind}_image", f"the {kind} image that Docker runs", "IMAGE", f"TASKIQ_FLOW_{kind.upper()}_IMAGE"
    )
    for kind in _SERVERS_OF
}
_VARIABLE_PREFIX = "TASKIQ_FLOW_TEST_"


class Storages:
    """The kinds of storages that a run knows, by name, in the order of their columns; and groups of them.

    :param kinds: the kinds, in order.
    """

    def __init__(self, kinds: Iterable[StorageKind]) -> None:
        self.kinds: Mapping[str, StorageKind] = {kind.name: kind for kind in kinds}

    @property
    def names(self) -> tuple[str, ...]:
        """All names."""
        return tuple(self.kinds)

    def group(self, name: str) -> list[str]:
        """Return the names that belong to one of ``GROUPS``."""
        return [
            kind.name
            for kind in self.kinds.values()
            if {"default": kind.is_default, "all": True, "fakes": not kind.is_real, "real": kind.is_real}[name]
        ]

    def chosen(self, names: Iterable[str], origin: str) -> tuple[str, ...]:
        """Return the storages that names of storages and groups stand for, in the order of their columns.

        :param origin: where the names were written, for the message.
        :raises pytest.UsageError: if a name is neither.
        """
        chosen: set[str] = set()
        for name in names:
            if not isinstance(name, str):
                raise pytest.UsageError(f"{origin}: a name of a storage backend must be a string, not {name!r}")
            if name not in self.kinds and name not in GROUPS:
                raise pytest.UsageError(
                    f"{origin}: unknown storage backend {name!r}; known backends: {', '.join(self.names)}; "
                    f"groups: {', '.join(GROUPS)}"
                )
            chosen.update(self.group(name) if name in GROUPS else (name,))
        return tuple(name for name in self.names if name in chosen)


class Settings(NamedTuple):
    """What this run was asked for."""

    storages: Storages
    """All storages that could be asked for."""
    backends: tuple[str, ...]
    """Those to run on, in the order of their columns."""
    backends_origin: str
    """Where that was said, for the report header; empty for the default."""
    required: frozenset[str]
    """The backends whose tests fail where they cannot run."""
    fallback: str
    """Where tests run that cannot be run once for each storage; empty where such tests are refused."""
    servers: dict[str, ServerSettings]
    """Where each real server may come from."""
    matrix: bool
    """Whether to print the whole table of tests × storages."""
    reports: tuple[Path, ...]
    """Where to write it."""
    clock_scope: str
    """What ``frozen_clock`` freezes where no marker says so: ``storage`` or ``everything``."""

    def insisting(self, backend: str) -> str:
        """Return which setting makes it a failure that a backend cannot run; empty where that is a skip."""
        if backend in self.required:
            return _REQUIRE.option
        server = self.servers.get(backend)
        return server.url_origin if server and server.is_given else ""


def add_options(parser: pytest.Parser) -> None:
    """Declare the command-line options and ini values."""
    group = parser.getgroup("taskiq-flow", "storage tests (taskiq-flow-kit)")
    for setting in (_BACKENDS, _REQUIRE, _FALLBACK, _SERVERS, *_URLS.values(), *_IMAGES.values()):
        env = f" [env: {setting.env}]" if setting.env else ""
        group.addoption(
            setting.option, dest=setting.name, default=None, metavar=setting.metavar, help=setting.help + env
        )
        parser.addini(setting.name, setting.help, type=setting.ini)
    group.addoption(
        "--storage-matrix", action="store_true", default=False, help="show what each test did on each storage"
    )
    group.addoption(
        _REPORT.option, dest=_REPORT.name, action="append", default=[], metavar=_REPORT.metavar, help=_REPORT.help
    )
    parser.addini("frozen_clock", f"what the fixture frozen_clock freezes: {' or '.join(CLOCK_SCOPES)}")


def read_settings(config: pytest.Config, kinds: Iterable[StorageKind]) -> Settings:
    """Return the run's settings.

    :param kinds: the storages that may be asked for, in the order of their columns.
    :raises pytest.UsageError: if a value cannot be used.
    """
    storages = Storages(kinds)
    _refuse_unknown_variables()
    named, origin = _value(config, _BACKENDS)
    backends = storages.chosen(_names(named or "default", origin), origin or "the default")
    required_text, required_origin = _value(config, _REQUIRE)
    required = set[str]()
    for name in _names(required_text, required_origin):
        # A group means those of it that are in this run; a storage that was named must be.
        if not (meant := {*storages.chosen([name], required_origin)} & {*backends}):
            raise pytest.UsageError(
                f"{required_origin} names {name}, which {origin or 'the default'} "
                f"leaves out of this run ({', '.join(backends)})"
            )
        required |= meant
    sources = _sources(*_value(config, _SERVERS))
    if not origin:
        _refuse_what_only_others_use(config, backends)
    servers = {name: kind.server for name, kind in storages.kinds.items() if kind.server is not None}
    return Settings(
        storages=storages,
        backends=backends,
        backends_origin=origin,
        required=frozenset(required),
        fallback=_fallback(config, backends),
        servers={name: _server_settings(config, kind, sources, name in backends) for name, kind in servers.items()},
        matrix=bool(config.getoption("--storage-matrix")),
        reports=_reports(config),
        clock_scope=_clock_scope(config),
    )


def _refuse_unknown_variables() -> None:
    """Refuse variables that look like the plugin's and are not: a misspelt one would let the run take other servers."""
    known = [setting.env for setting in (_SERVERS, *_URLS.values()) if setting.env]
    images = [setting.env for setting in _IMAGES.values() if setting.env]
    for name in sorted(os.environ):
        if name.startswith(_VARIABLE_PREFIX) and name not in known:
            meant = get_close_matches(name, [*known, *images], n=1)
            hint = f"; did you mean {meant[0]}?" if meant else ""
            raise pytest.UsageError(f"unknown environment variable {name}{hint} Known: {', '.join([*known, *images])}")


def _value(config: pytest.Config, setting: _Setting) -> tuple[str | None, str]:
    """Return a setting's value and where it was said: the option's, variable's or ini value's name.

    :raises pytest.UsageError: if the option is there and empty, as by a variable of a CI's that is not set.
    """
    if (given := config.getoption(setting.name, default=None)) is not None:
        if not str(given).strip():
            raise pytest.UsageError(f"{setting.option} has no value; without it, the default is taken")
        return str(given), setting.option
    if setting.env and (given := os.environ.get(setting.env)):
        return given, setting.env
    if given := config.getini(setting.name):
        return " ".join(given) if isinstance(given, list) else str(given), f"ini {setting.name}"
    return None, ""


def _names(text: str | None, origin: str) -> list[str]:
    names = (text or "").replace(",", " ").split()
    if text and not names:
        raise pytest.UsageError(f"{origin} names nothing: {text!r}")
    return names


def _sources(text: str | None, origin: str) -> tuple[str, ...]:
    if text is None:
        return SOURCES
    sources = tuple(dict.fromkeys(_names(text, origin)))
    if unknown := [source for source in sources if source not in SOURCES]:
        raise pytest.UsageError(f"{origin}: unknown source of servers {unknown[0]!r}; known: {', '.join(SOURCES)}")
    return sources


def _server_settings(
    config: pytest.Config, kind: ServerKind, sources: tuple[str, ...], is_used: bool
) -> ServerSettings:
    if kind.name not in _URLS:  # a registered storage's own server, for which there are no options
        return ServerSettings(kind=kind, sources=sources)
    url, url_origin = _value(config, _URLS[kind.name])
    image, image_origin = _value(config, _IMAGES[kind.name])
    settings = ServerSettings(
        kind=kind, url=url, url_origin=url_origin, image=image, image_origin=image_origin, sources=sources
    )
    if is_used and url and url_origin == _URLS[kind.name].option and not settings.is_given:
        raise pytest.UsageError(
            f"{url_origin} names a server, but servers may come from {', '.join(sources)} only: add 'url' to them"
        )
    if is_used and url and settings.is_given:
        try:
            kind.normalise(url)
        except ValueError as error:
            raise pytest.UsageError(f"{url_origin}: {masked(url)} cannot be used: {error}") from None
    return settings


def _refuse_what_only_others_use(config: pytest.Config, backends: tuple[str, ...]) -> None:
    """Refuse options for a backend that the default leaves out: whoever names its server means to test on it.

    Variables and ini values may stand there for other runs.
    """
    for setting, kind in ((group[kind], kind) for group in (_URLS, _IMAGES) for kind in _SERVERS_OF):
        if kind not in backends and _value(config, setting)[1] == setting.option:
            raise pytest.UsageError(
                f"{setting.option} is for {kind}, which the default leaves out of this run ({', '.join(backends)}): "
                f"add it, as in {_BACKENDS.option}={','.join((*backends, kind))}"
            )


def _fallback(config: pytest.Config, backends: tuple[str, ...]) -> str:
    name, origin = _value(config, _FALLBACK)
    if name == "error":
        return ""
    if name is not None and name not in backends:
        raise pytest.UsageError(
            f"{origin}: {name!r} must be one of this run's storage backends ({', '.join(backends)}), or 'error'"
        )
    return name or backends[0]


def _reports(config: pytest.Config) -> tuple[Path, ...]:
    files = [config.invocation_params.dir / name for name in config.getoption(_REPORT.name)]
    for file in files:
        if file.suffix not in REPORT_FORMS:
            raise pytest.UsageError(f"{_REPORT.option}: {file.name!r} must end in one of {', '.join(REPORT_FORMS)}")
        if file.is_dir():
            raise pytest.UsageError(f"{_REPORT.option}: {file.name!r} is a folder")
    return tuple(files)


def _clock_scope(config: pytest.Config) -> str:
    scope = str(config.getini("frozen_clock")) or "storage"
    if scope not in CLOCK_SCOPES:
        raise pytest.UsageError(f"ini frozen_clock: unknown value {scope!r}; known: {', '.join(CLOCK_SCOPES)}")
    return scope
