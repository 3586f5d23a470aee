"""The pytest plugin: fixtures that run a test, unchanged, on every storage.

=======================  ==========================================================================================
``storage_adapter``      an adapter on the test's own place: the test runs once for each backend
``storage_backend``      which backend that is: name, whether real, where it came from, version, URL
``make_storage_adapter`` makes another adapter on the same place, as a second worker would
``storage_config``       settings with which the application's own code reaches that place through the factory
``cache_adapter``        a cache on the test's storage
``make_cache_adapter``   makes another cache on the same storage, as a second worker would have
``flow_broker``          an in-memory taskiq broker with storage and pipelines on ``storage_adapter``
``storage_faults``       lets the test's storage fail, wait, hang, lose connections and records
``frozen_clock``         stops the time by which entries expire: ``now()``, ``tick()``, ``move_to()``
=======================  ==========================================================================================

Loaded in every pytest of everybody who has it installed: it imports no taskiq, no driver, nothing heavy.
"""

import functools
import inspect
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Generator, Iterator
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from taskiq_flow.pytest_plugin import options, report

pytest.register_assert_rewrite("taskiq_flow.pytest_plugin.contract")

if TYPE_CHECKING:
    from taskiq import AsyncResultBackend, ScheduleSource, TaskiqMiddleware

    from taskiq_flow.cache import StorageCacheAdapter
    from taskiq_flow.clock import FrozenClock
    from taskiq_flow.config import TaskiqFlowConfig
    from taskiq_flow.pytest_plugin.backends import Backends, Place, StorageBackend
    from taskiq_flow.pytest_plugin.broker import FlowBroker
    from taskiq_flow.pytest_plugin.contract import CacheAdapterContract as CacheAdapterContract
    from taskiq_flow.pytest_plugin.contract import StorageAdapterContract as StorageAdapterContract
    from taskiq_flow.pytest_plugin.faults import StorageFaults
    from taskiq_flow.pytest_plugin.run import Run
    from taskiq_flow.storage.backend import BackendAdapter
    from taskiq_flow.storage.base import BaseStorageAdapter

_SETTINGS = pytest.StashKey[options.Settings]()
_RUN = pytest.StashKey["Run"]()
_BACKENDS = pytest.StashKey["Backends"]()
_OPENED = pytest.StashKey[list["FlowBroker | BackendAdapter"]]()
_BROKER = pytest.StashKey["FlowBroker"]()
_NOT_RUN = pytest.StashKey[bool]()

_NOWHERE = "nowhere"


def __getattr__(name: str) -> Any:
    if name in {"StorageAdapterContract", "CacheAdapterContract"}:
        from taskiq_flow.pytest_plugin import contract

        return getattr(contract, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# --- hooks ------------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings; a value that cannot be used ends the run here."""
    config.addinivalue_line(
        "markers",
        "storage_backends(*names, exclude=()): run this test on these storage backends only; names of backends or of "
        f"the groups {', '.join(options.GROUPS)}",
    )
    config.addinivalue_line(
        "markers",
        "frozen_clock(at=None, everything=False): where the fixture frozen_clock starts (an aware datetime or ISO 8601 "
        "text), and whether datetime.now() and time.time() are frozen for all code too, by freezegun",
    )
    config.addinivalue_line(
        "markers",
        "flow_broker(loses=None): the fixture flow_broker expects that results are lost, for reasons that this regular "
        "expression finds; else each fails the test",
    )
    _warn_of_namesake(config)
    config.stash[_SETTINGS] = options.read_settings(config)
    config.pluginmanager.register(report.StorageReport(config.stash[_SETTINGS]), "taskiq_flow_report")
    if shared := getattr(config, "workerinput", {}).get("taskiq_flow_run"):
        from taskiq_flow.pytest_plugin.run import Run

        config.stash[_RUN] = Run.of_worker(shared)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist which run it belongs to."""
    node.workerinput["taskiq_flow_run"] = _run(node.config).shared()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close, clear up and stop what the run started; also after Ctrl-C."""
    if (run := config.stash.get(_RUN, None)) is not None and (run.is_mine or _BACKENDS in config.stash):
        for problem in _backends(config).close():
            print(f"taskiq-flow: {problem}", file=sys.stderr)  # for a warning of pytest's it is too late


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which backends will run; and under pytest-xdist, whose controller collects no tests, on which servers."""
    settings = config.stash[_SETTINGS]
    servers = _plan(config, settings.backends) if config.getoption("dist", "no") != "no" else []
    return [report.header(settings.backends, settings.backends_origin), *servers]


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Say where the servers that the collected tests need are going to come from."""
    quiet = config.option.verbose < 0  # Config.get_verbosity is of pytest 8.0
    return [] if quiet else _plan(config, _backends_of(items))


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses a storage once for each backend, which is the first of its parameters."""
    if "_storage_backend_name" not in metafunc.fixturenames:
        return
    selected = metafunc.config.stash[_SETTINGS].backends
    marker = metafunc.definition.get_closest_marker("storage_backends")
    try:
        names = _of_marker(marker, metafunc.definition.nodeid) if marker else options.BACKENDS
    except pytest.UsageError as error:
        raise pytest.Collector.CollectError(str(error)) from None  # shown without pytest's own frames
    chosen: list[Any] = [name for name in selected if name in names]
    if not chosen:
        reason = f"the marker wants {', '.join(names) or 'nothing'}, and this run has only {', '.join(selected)}"
        chosen = [pytest.param(_NOWHERE, marks=pytest.mark.skip(reason=reason))]
    metafunc.parametrize("_storage_backend_name", chosen)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Note which storage a test is to run on: fixtures may fail before that one which opens it."""
    if (name := _backend_of(item)) and name != _NOWHERE and not item.config.option.setupplan:
        report.note(item, name)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Begin to start the servers that the collected tests need: the first test on one hardly has to wait for it."""
    option = session.config.option
    if option.collectonly or option.setupplan or session.testsfailed:
        return
    items = getattr(session, "items", [])  # before pytest 8.0, pytest-xdist's controller has none
    if servers := _backends_of(items) & session.config.stash[_SETTINGS].servers.keys():
        _backends(session.config).prepare(servers)


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Let a test fail whose storage was required and cannot run, though it be marked ``xfail``."""
    outcome = yield
    if item.stash.get(_NOT_RUN, False):
        told: pytest.TestReport = outcome.get_result()
        if told.when == "setup":
            told.outcome = "failed"
            told.__dict__.pop("wasxfail", None)


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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Close what a test has on its event loop, tasks first, before any async plugin ends that loop."""
    for opened in item.stash.get(_OPENED, ()):
        item.addfinalizer(opened.close_from_outside)  # of finalizers, the last one added is called first
    item.stash[_OPENED] = []


# --- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def frozen_clock(request: pytest.FixtureRequest) -> "Iterator[FrozenClock]":
    """The clock by which stored entries expire, stopped: move it with ``tick(seconds)`` and ``move_to(moment)``.

    Only that clock stops, on every storage, real servers included; asyncio, drivers and taskiq's time-outs go on.
    ``@pytest.mark.frozen_clock(everything=True)`` stops ``datetime.now()`` and ``time.time()`` for all code as well.
    """
    from taskiq_flow import clock

    marker = request.node.get_closest_marker("frozen_clock")
    asked = _arguments(marker, request.node.nodeid, "at", "everything") if marker else {}
    with ExitStack() as stack:
        frozen = stack.enter_context(clock.freeze(asked.get("at")))
        if asked.get("everything", request.config.stash[_SETTINGS].clock_scope == "everything"):
            from taskiq_flow.pytest_plugin.everything import freeze_everything

            stack.enter_context(freeze_everything(frozen))
        if (broker := request.node.stash.get(_BROKER, None)) is not None:
            _let_drive(frozen, broker)
        yield frozen


@pytest.fixture
def _storage_backend_name() -> str:
    """The backend that a test is parametrized with, by :func:`pytest_generate_tests`; here, it is not."""
    pytest.fail(
        "this test uses a storage, and pytest cannot run it once for each: that takes a function, or a method of a\n"
        "plain class, which names the fixture among its arguments or in @pytest.mark.usefixtures. For that, it is too\n"
        "late in a unittest.TestCase, a doctest and request.getfixturevalue().",
        pytrace=False,
    )


@pytest.fixture
def _storage_place(request: pytest.FixtureRequest, _storage_backend_name: str) -> "Iterator[Place]":
    """The test's own place on the backend that it is parametrized with."""
    if "frozen_clock" in request.fixturenames:
        # First of all: what is stored by other fixtures must be under the frozen clock as well.
        request.getfixturevalue("frozen_clock")
    from taskiq_flow.pytest_plugin.backends import BackendUnavailable

    name, place, problem = _storage_backend_name, None, ""
    try:
        place = _backends(request.config).open_place(name)
    except BackendUnavailable as reason:
        problem = f"storage backend {name} cannot run: {reason}"
    if place is None:
        report.note_unavailable(request.node, problem)
        if origin := request.config.stash[_SETTINGS].insisting(name):
            request.node.stash[_NOT_RUN] = True
            pytest.fail(f"{problem}\n({origin} makes this a failure instead of a skip)", pytrace=False)
        pytest.skip(problem)
    report.note(request.node, name, place.backend.version, place.backend.origin)
    yield place
    place.clear()


@pytest.fixture
def storage_backend(_storage_place: "Place") -> "StorageBackend":
    """The storage that this test runs on: ``name``, ``is_real``, ``origin``, ``version``, ``url``."""
    return _storage_place.backend


@pytest.fixture
def storage_config(request: pytest.FixtureRequest, _storage_place: "Place") -> "TaskiqFlowConfig":
    """Settings with which the application's own code reaches this test's storage through the factory."""
    if "storage_faults" in request.fixturenames:
        faults: StorageFaults = request.getfixturevalue("storage_faults")
        return faults.config()
    return _storage_place.config()


@pytest.fixture
def storage_faults(request: pytest.FixtureRequest, _storage_place: "Place") -> "Iterator[StorageFaults]":
    """Lets this test's storage have a bad day: ``fail()``, ``delay()``, ``corrupt()``, ``disconnect()``, ``pause()``.

    It happens to every adapter on ``storage_config``, and to nobody else on the same server; all is undone when the
    test is over. In such a test, calls to a storage that does not answer fail after 2 s.
    """
    from taskiq_flow.pytest_plugin.faults import StorageFaults

    faults = StorageFaults(_storage_place, _backends(request.config).janitor)
    with faults.active():
        yield faults


@pytest.fixture
def make_storage_adapter(
    request: pytest.FixtureRequest,
    storage_config: "TaskiqFlowConfig",
) -> "Iterator[Callable[..., BaseStorageAdapter]]":
    """Make another adapter on this test's storage, as a second worker or another application would have.

    ``make_storage_adapter(ttl_seconds=None, namespace=None)``: the default time to live in seconds, and the name of a
    namespace beside the test's own. What is made is closed when the test is over.
    """
    from taskiq_flow.storage.backend import BackendAdapter
    from taskiq_flow.storage.factory import StorageAdapterFactory

    made: list[BackendAdapter] = []

    def make(ttl_seconds: float | None = None, namespace: str | None = None) -> "BaseStorageAdapter":
        config = storage_config
        if namespace is not None:
            config = config.model_copy(update={"storage_namespace": f"{config.storage_namespace}-{namespace}"})
        adapter = StorageAdapterFactory.create_storage_adapter(config, ttl_seconds=ttl_seconds)
        if isinstance(adapter, BackendAdapter):
            made.append(adapter)
            _opened(request).insert(0, adapter)  # before a flow_broker, which is the first to be closed
        return adapter

    yield make
    for adapter in made:
        adapter.close_from_outside()


@pytest.fixture
def storage_adapter(make_storage_adapter: "Callable[..., BaseStorageAdapter]") -> "BaseStorageAdapter":
    """An adapter on a storage of this test's own; the test runs once on each backend."""
    return make_storage_adapter()


@pytest.fixture
def make_cache_adapter(
    make_storage_adapter: "Callable[..., BaseStorageAdapter]",
) -> "Callable[..., StorageCacheAdapter]":
    """Make another cache on this test's storage, as a second worker would have.

    ``make_cache_adapter(default_ttl=3600, lock_timeout=10, prefix="cache:")``: both in seconds; another prefix makes
    another cache beside the first. What is made is closed when the test is over.
    """
    from taskiq_flow.cache import StorageCacheAdapter

    def make(**settings: Any) -> StorageCacheAdapter:
        return StorageCacheAdapter(make_storage_adapter(), **settings)

    return make


@pytest.fixture
def cache_adapter(make_cache_adapter: "Callable[..., StorageCacheAdapter]") -> "StorageCacheAdapter":
    """A cache on a storage of this test's own; the test runs once on each backend."""
    return make_cache_adapter()


@pytest.fixture
def flow_result_backend(storage_adapter: "BaseStorageAdapter") -> "AsyncResultBackend[Any]":
    """The result backend of ``flow_broker``; override it for one of your own."""
    from taskiq_flow.result_backend import StorageResultBackend

    return StorageResultBackend(storage_adapter)


@pytest.fixture
def flow_middlewares(
    storage_adapter: "BaseStorageAdapter", cache_adapter: "StorageCacheAdapter"
) -> "list[TaskiqMiddleware]":
    """The middlewares of ``flow_broker``, for cache, storage and pipelines; override it for others."""
    from taskiq_flow.middlewares import CacheMiddleware, PipelineMiddleware, StorageMiddleware

    return [CacheMiddleware(cache_adapter), StorageMiddleware(storage_adapter), PipelineMiddleware()]


@pytest.fixture
def flow_schedule_sources(storage_adapter: "BaseStorageAdapter") -> "list[ScheduleSource]":
    """Whose schedules ``await frozen_clock.advance(…)`` fires on ``flow_broker``; override it for others."""
    from taskiq_flow.schedule_source import StorageScheduleSource

    return [StorageScheduleSource(storage_adapter)]


@pytest.fixture
def flow_broker(
    request: pytest.FixtureRequest,
    make_storage_adapter: "Callable[..., BaseStorageAdapter]",
    flow_result_backend: "AsyncResultBackend[Any]",
    flow_middlewares: "list[TaskiqMiddleware]",
    flow_schedule_sources: "list[ScheduleSource]",
) -> "Iterator[FlowBroker]":
    """An in-memory taskiq broker whose results, caches, pipelines and schedules are on ``storage_adapter``.

    It starts when the first task is sent, and shuts down when the test is over, after the tasks that still run and all
    that these send; only ``asyncio.run`` waits for nothing, so ``await flow_broker.drain()`` within. What was lost on
    the way fails the test then: results that could not be stored, tasks that ended without one, or did not end.
    ``@pytest.mark.flow_broker(loses="…")`` expects that.
    """
    from taskiq_flow.pytest_plugin.broker import FlowBroker

    marker = request.node.get_closest_marker("flow_broker")
    expected = _arguments(marker, request.node.nodeid, "loses").get("loses") if marker else None
    broker = FlowBroker(
        make_storage_adapter,
        result_backend=flow_result_backend,
        middlewares=flow_middlewares,
        schedule_sources=flow_schedule_sources,
    )
    if "frozen_clock" in request.fixturenames:
        _let_drive(request.getfixturevalue("frozen_clock"), broker)
    request.node.stash[_BROKER] = broker  # for a clock that the test asks for later, and for the end of its function
    _opened(request).append(broker)
    yield broker
    del request.node.stash[_BROKER]
    broker.close_from_outside()
    if problem := broker.unexpected(expected):
        pytest.fail(problem, pytrace=False)


# --- helpers ----------------------------------------------------------------------------------------------------------


def _warn_of_namesake(config: pytest.Config) -> None:
    """Say so where another distribution has put its files into the same package."""
    if any(metadata.distributions(name="taskiq-flow")):
        message = (
            "two distributions that both own the package 'taskiq_flow' are installed, taskiq-flow-kit and taskiq-flow: "
            "what is imported is a mixture; uninstall both, and install the one that you want again"
        )
        config.issue_config_time_warning(pytest.PytestConfigWarning(message), stacklevel=2)


def _plan(config: pytest.Config, backends: Collection[str]) -> list[str]:
    """Return the line that says where the servers of these backends are going to come from."""
    settings = config.stash[_SETTINGS]
    if not (kinds := [kind for kind in settings.backends if kind in backends and kind in settings.servers]):
        return []
    from taskiq_flow.pytest_plugin.servers import ServerPool

    pool = ServerPool(Path(), "", os.getpid(), settings.servers)  # only asked for its plans: it starts nothing
    return report.plan({kind: pool.plan(kind) for kind in kinds})


def _backends_of(items: list[pytest.Item]) -> set[str]:
    """Return the backends that tests will run on."""
    return {name for item in items if (name := _backend_of(item)) and not item.get_closest_marker("skip")}


def _backend_of(item: pytest.Item) -> str | None:
    """Return the backend that a test is to run on; None where it uses no storage."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return None
    name = item.callspec.params.get("_storage_backend_name")
    return None if name is None else str(name)


def _shutting_down(body: Callable[..., Awaitable[None]], item: pytest.Item) -> Callable[..., Awaitable[None]]:
    """Return a test's coroutine function that shuts the test's broker down in the end."""

    @functools.wraps(body)
    async def test(**arguments: Any) -> None:
        __tracebackhide__ = True
        try:
            await body(**arguments)
        finally:
            if (broker := item.stash.get(_BROKER, None)) is not None:
                await broker.shutdown()

    return test


def _let_drive(frozen: "FrozenClock", broker: "FlowBroker") -> None:
    """Let what is due on a broker happen as the frozen clock moves."""
    from taskiq_flow.pytest_plugin.broker.clock_driver import BrokerClockDriver

    frozen.follow(broker.clock_moved)
    frozen.drive(BrokerClockDriver(broker))


def _opened(request: pytest.FixtureRequest) -> "list[FlowBroker | BackendAdapter]":
    stash: pytest.Stash = request.node.stash
    return stash.setdefault(_OPENED, [])


def _run(config: pytest.Config) -> "Run":
    if (run := config.stash.get(_RUN, None)) is None:
        from taskiq_flow.pytest_plugin.run import Run

        run = config.stash[_RUN] = Run.begin()
    return run


def _backends(config: pytest.Config) -> "Backends":
    if (backends := config.stash.get(_BACKENDS, None)) is None:
        from taskiq_flow.pytest_plugin.backends import Backends

        worker = getattr(config, "workerinput", {}).get("workerid", "main")
        backends = config.stash[_BACKENDS] = Backends(config.stash[_SETTINGS], _run(config), worker)
    return backends


def _of_marker(marker: pytest.Mark, where: str) -> tuple[str, ...]:
    """Return the backends that a ``storage_backends`` marker allows."""
    excluded = _keywords(marker, where, "exclude").get("exclude", ())
    origin = f"{where}: marker storage_backends"
    names = options.chosen_backends(marker.args or ("all",), origin)
    left_out = options.chosen_backends((excluded,) if isinstance(excluded, str) else excluded, origin)
    return tuple(name for name in names if name not in left_out)


def _arguments(marker: pytest.Mark, where: str, *known: str) -> dict[str, Any]:
    """Return a marker's arguments by their names, as a function with these parameters would see them."""
    if len(marker.args) > len(known):
        raise pytest.UsageError(f"{where}: marker {marker.name} takes {', '.join(known)}, not {marker.args!r}")
    return dict(zip(known, marker.args, strict=False)) | _keywords(marker, where, *known)


def _keywords(marker: pytest.Mark, where: str, *known: str) -> dict[str, Any]:
    """Return a marker's keyword arguments."""
    if unknown := sorted(marker.kwargs.keys() - {*known}):
        raise pytest.UsageError(
            f"{where}: marker {marker.name} has no argument {unknown[0]!r}; known: {', '.join(sorted(known))}"
        )
    return dict(marker.kwargs)
