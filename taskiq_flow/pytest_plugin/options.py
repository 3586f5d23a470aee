"""The plugin's settings: command line, environment and ini, read once and checked once.

The command line goes before the environment, and that before the ini file. A value that cannot be used is a usage error
which lists the good ones.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from taskiq_flow.pytest_plugin.servers import KINDS, SOURCES, ServerSettings, check_url
from taskiq_flow.pytest_plugin.servers.urls import mask

__all__ = ["BACKENDS", "GROUPS", "Settings", "add_options", "chosen_backends", "read_settings"]

FAKES = ("memory", "fakeredis", "sqlite")
REAL = tuple(KINDS)
BACKENDS = FAKES + REAL
GROUPS = {"default": (*FAKES, "redis", "postgres"), "all": BACKENDS, "fakes": FAKES, "real": REAL}
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


_BACKENDS = _Setting(
    "storage_backends", f"run storage tests on these: {', '.join((*BACKENDS, *GROUPS))}", "NAMES", ini="args"
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
    for kind in REAL
}
_IMAGES = {
    kind: _Setting(
        f"storage_{kind}_image", f"the {kind} image that Docker runs", "IMAGE", f"TASKIQ_FLOW_{kind.upper()}_IMAGE"
    )
    for kind in REAL
}
_VARIABLE_PREFIX = "TASKIQ_FLOW_TEST_"


class Settings(NamedTuple):
    """What this run was asked for."""

    backends: tuple[str, ...]
    """The backends to run on, in the order of ``BACKENDS``."""
    backends_origin: str
    """Where that was said, for the report header; empty for the default."""
    required: frozenset[str]
    """The backends whose tests fail where they cannot run."""
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
    for setting in (_BACKENDS, _REQUIRE, _SERVERS, *_URLS.values(), *_IMAGES.values()):
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


def read_settings(config: pytest.Config) -> Settings:
    """Return the run's settings.

    :raises pytest.UsageError: a value cannot be used.
    """
    _refuse_unknown_variables()
    named, origin = _value(config, _BACKENDS)
    backends = chosen_backends(_names(named or "default", origin), origin or "the default")
    required_text, required_origin = _value(config, _REQUIRE)
    required = set[str]()
    for name in _names(required_text, required_origin):
        # A group means those of it that are in this run; a backend that was named must be.
        if not (meant := {*chosen_backends([name], required_origin)} & {*backends}):
            raise pytest.UsageError(
                f"{required_origin} names {name}, which {origin or 'the default'} "
                f"leaves out of this run ({', '.join(backends)})"
            )
        required |= meant
    sources = _sources(*_value(config, _SERVERS))
    if not origin:
        _refuse_what_only_others_use(config, backends)
    return Settings(
        backends=backends,
        backends_origin=origin,
        required=frozenset(required),
        servers={kind: _server_settings(config, kind, sources, kind in backends) for kind in REAL},
        matrix=bool(config.getoption("--storage-matrix")),
        reports=_reports(config),
        clock_scope=_clock_scope(config),
    )


def chosen_backends(names: Iterable[str], origin: str) -> tuple[str, ...]:
    """Return the backends that names of backends and groups stand for, in the order of ``BACKENDS``.

    :param origin: where the names were written, for the message.
    :raises pytest.UsageError: a name is neither.
    """
    chosen: set[str] = set()
    for name in names:
        if not isinstance(name, str):
            raise pytest.UsageError(f"{origin}: a name of a storage backend is a text, not {name!r}")
        if name not in BACKENDS and name not in GROUPS:
            raise pytest.UsageError(
                f"{origin}: unknown storage backend {name!r}; known backends: {', '.join(BACKENDS)}; "
                f"groups: {', '.join(GROUPS)}"
            )
        chosen.update(GROUPS.get(name, (name,)))
    return tuple(name for name in BACKENDS if name in chosen)


def _refuse_unknown_variables() -> None:
    """Refuse variables that look like the plugin's and are not: a misspelt one would let the run take other servers."""
    known = [setting.env for setting in (_SERVERS, *_URLS.values()) if setting.env]
    for name in sorted(os.environ):
        if name.startswith(_VARIABLE_PREFIX) and name not in known:
            raise pytest.UsageError(f"unknown environment variable {name}; known: {', '.join(known)}")


def _value(config: pytest.Config, setting: _Setting) -> tuple[str | None, str]:
    """Return a setting's value and where it was said: the option's, variable's or ini value's name.

    :raises pytest.UsageError: the option is there and empty, as by a variable of a CI's that is not set.
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


def _server_settings(config: pytest.Config, kind: str, sources: tuple[str, ...], is_used: bool) -> ServerSettings:
    url, url_origin = _value(config, _URLS[kind])
    image, image_origin = _value(config, _IMAGES[kind])
    settings = ServerSettings(
        kind=kind, url=url, url_origin=url_origin, image=image, image_origin=image_origin, sources=sources
    )
    if is_used and url and url_origin == _URLS[kind].option and not settings.is_given:
        raise pytest.UsageError(
            f"{url_origin} names a server, but servers may come from {', '.join(sources)} only: add 'url' to them"
        )
    if is_used and url and settings.is_given:
        try:
            check_url(kind, url)
        except ValueError as error:
            raise pytest.UsageError(f"{url_origin}: {mask(url)} cannot be used: {error}") from None
    return settings


def _refuse_what_only_others_use(config: pytest.Config, backends: tuple[str, ...]) -> None:
    """Refuse options for a backend that the default leaves out: whoever names its server means to test on it.

    Variables and ini values may stand there for other runs.
    """
    for setting, kind in ((group[kind], kind) for group in (_URLS, _IMAGES) for kind in REAL):
        if kind not in backends and _value(config, setting)[1] == setting.option:
            raise pytest.UsageError(
                f"{setting.option} is for {kind}, which the default leaves out of this run ({', '.join(backends)}): "
                f"add it, as in {_BACKENDS.option}={','.join((*backends, kind))}"
            )


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
