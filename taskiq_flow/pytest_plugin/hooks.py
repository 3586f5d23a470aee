"""The plugin's hooks: settings, parametrization, servers, and what becomes of a test that cannot run."""

import functools
import inspect
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Generator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from taskiq_flow.pytest_plugin import hookspecs, options, report, session
from taskiq_flow.pytest_plugin.fixtures import BROKER, FAILED, NOT_RUN, OPENED
from taskiq_flow.pytest_plugin.markers import add_markers, marked_storages
from taskiq_flow.pytest_plugin.stores import StorageKind, built_in, in_order
from taskiq_flow.pytest_plugin.stores.registered import checked_kinds

_NONE_LEFT = "none"
"""The parameter of a test that is skipped since its marker leaves no storage of this run."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that others may implement."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings; a value that cannot be used ends the run here."""
    add_markers(config)
    _warn_of_namesake(config)
    settings = options.read_settings(config, _kinds(config))
    session.begin(config, settings)
    config.pluginmanager.register(report.StorageReport(settings), "taskiq_flow_report")


def pytest_plugin_registered(plugin: object, manager: pytest.PytestPluginManager) -> None:
    """Refuse storages that are registered when the run's settings have been read."""
    if manager.hasplugin("taskiq_flow_report") and hasattr(plugin, "pytest_taskiq_flow_storages"):
        raise pytest.UsageError(
            f"pytest_taskiq_flow_storages in {getattr(plugin, '__file__', plugin)}: pytest found it when it had begun "
            "to collect; move it to the conftest.py of the project's root folder"
        )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist which run it belongs to."""
    node.workerinput["taskiq_flow_run"] = session.run(node.config).shared()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close, clean and stop what the run started; also after Ctrl-C."""
    for problem in session.close(config):
        print(f"taskiq-flow: {problem}", file=sys.stderr)  # for a warning of pytest's it is too late


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which storages will run; and under pytest-xdist, whose controller collects no tests, on which servers."""
    settings = session.settings(config)
    servers = _plan(config, settings.backends) if config.getoption("dist", "no") != "no" else []
    return [report.header(settings.backends, settings.backends_origin), *servers]


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Say where the servers that the collected tests need are going to come from."""
    quiet = config.option.verbose < 0  # Config.get_verbosity is of pytest 8.0
    return [] if quiet else _plan(config, _storages_of(items))


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses a storage once for each, which is the first of its parameters."""
    if "_storage_name" not in metafunc.fixturenames:
        return
    settings = session.settings(metafunc.config)
    marker = metafunc.definition.get_closest_marker("storage_backends")
    names = settings.storages.names
    try:
        if marker:
            names = marked_storages(marker, metafunc.definition.nodeid, settings.storages)
    except pytest.UsageError as error:
        raise pytest.Collector.CollectError(str(error)) from None  # shown without pytest's own frames
    chosen: list[Any] = [name for name in settings.backends if name in names]
    if not chosen:
        reason = (
            f"the marker wants {', '.join(names) or 'nothing'}, and this run has only {', '.join(settings.backends)}"
        )
        chosen = [pytest.param(_NONE_LEFT, marks=pytest.mark.skip(reason=reason))]
    metafunc.parametrize("_storage_name", chosen)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Note which storage a test is to run on: fixtures may fail before that one which opens it."""
    if (name := _storage_of(item)) and name != _NONE_LEFT and not item.config.option.setupplan:
        report.note(item, name)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Begin to start the servers that the collected tests need: the first test on one hardly has to wait for it."""
    option = session.config.option
    if option.collectonly or option.setupplan or session.testsfailed:
        return
    items = getattr(session, "items", [])  # before pytest 8.0, pytest-xdist's controller has none
    _start_servers(session.config, _storages_of(items))


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Let a test fail whose storage was required and cannot run, even if it is marked ``xfail``."""
    outcome = yield
    told: pytest.TestReport = outcome.get_result()
    if told.when == "setup":
        item.stash[FAILED] = False  # a plugin that runs a test again begins anew
        if item.stash.get(NOT_RUN, False):
            told.outcome = "failed"
            told.__dict__.pop("wasxfail", None)
    if not told.passed:
        item.stash[FAILED] = True


@pytest.hookimpl(hookwrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, None, None]:
    """Shut the broker down where the event loop ends with the test's function, before the teardown: anyio's does."""
    body = pyfuncitem.obj
    may_have_a_broker = not {"flow_broker", "request"}.isdisjoint(pyfuncitem.fixturenames)
    if not may_have_a_broker or not inspect.iscoroutinefunction(body):  # pytest-asyncio has made it a plain one by now
        yield
        return
    pyfuncitem.obj = _shutting_down(body, pyfuncitem)
    yield
    pyfuncitem.obj = body


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Close what a test has on its event loop, tasks first, before any async plugin ends that loop."""
    for opened in item.stash.get(OPENED, ()):
        item.addfinalizer(opened.close_from_outside)  # of finalizers, the last one added is called first
    item.stash[OPENED] = []
    broker = item.stash.get(BROKER, None)
    yield
    if broker is not None:
        broker.reset_adopted_attributes()


def _called(implementation: Any, config: pytest.Config) -> Any:
    """Return what an implementation of a hook returns; like all hooks, it may leave out the argument."""
    return implementation.function(*(config for _ in implementation.argnames))


def _kinds(config: pytest.Config) -> tuple[StorageKind, ...]:
    """Return the built-in storages and the registered ones, in the order of their columns.

    :raises pytest.UsageError: if one cannot be registered.
    """
    kinds = {kind.name: kind for kind in built_in()}
    for implementation in config.hook.pytest_taskiq_flow_storages.get_hookimpls():
        try:
            registered = checked_kinds(_called(implementation, config), kinds)
        except (TypeError, ValueError) as error:
            raise pytest.UsageError(f"pytest_taskiq_flow_storages in {implementation.plugin_name}: {error}") from None
        kinds |= {kind.name: kind for kind in registered}
    return in_order(kinds.values())


def _warn_of_namesake(config: pytest.Config) -> None:
    """Say so where another distribution has put its files into the same package."""
    if any(metadata.distributions(name="taskiq-flow")):
        message = (
            "two distributions that both own the package 'taskiq_flow' are installed, taskiq-flow-kit and taskiq-flow: "
            "what is imported is a mixture; uninstall both, and install the one that you want again"
        )
        config.issue_config_time_warning(pytest.PytestConfigWarning(message), stacklevel=2)


def _start_servers(config: pytest.Config, names: set[str]) -> None:
    if servers := names & session.settings(config).servers.keys():
        session.stores(config).prepare(servers)


def _plan(config: pytest.Config, names: Collection[str]) -> list[str]:
    """Return the line that says where the servers of these storages are going to come from."""
    settings = session.settings(config)
    if not (servers := [name for name in settings.backends if name in names and name in settings.servers]):
        return []
    from taskiq_flow.pytest_plugin.servers import ServerPool

    pool = ServerPool(Path(), "", os.getpid(), settings.servers)  # only asked for its plans: it starts nothing
    return report.plan({name: pool.plan(name) for name in servers})


def _storages_of(items: list[pytest.Item]) -> set[str]:
    """Return the storages that tests will run on."""
    return {name for item in items if (name := _storage_of(item)) and not item.get_closest_marker("skip")}


def _storage_of(item: pytest.Item) -> str | None:
    """Return the storage that a test is to run on; None where it uses none."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return None
    name = item.callspec.params.get("_storage_name")
    return None if name is None else str(name)


def _shutting_down(body: Callable[..., Awaitable[None]], item: pytest.Item) -> Callable[..., Awaitable[None]]:
    """Return a test's coroutine function that shuts the test's broker down in the end."""

    @functools.wraps(body)
    async def test(**arguments: Any) -> None:
        __tracebackhide__ = True
        try:
            await body(**arguments)
        finally:
            if (broker := item.stash.get(BROKER, None)) is not None:
                await broker.shutdown()

    return test
