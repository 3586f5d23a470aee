"""The plugin's fixtures; :mod:`taskiq_flow.pytest_plugin` lists them."""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from taskiq_flow.pytest_plugin import report, session
from taskiq_flow.pytest_plugin.everything import import_unfrozen
from taskiq_flow.pytest_plugin.markers import marked_storages, marker_arguments
from taskiq_flow.pytest_plugin.stores.base import StorageUnavailable

if TYPE_CHECKING:
    from taskiq import AsyncResultBackend, ScheduleSource, TaskiqMiddleware

    from taskiq_flow.cache import StorageCacheAdapter
    from taskiq_flow.clock import FrozenClock
    from taskiq_flow.config import TaskiqFlowConfig
    from taskiq_flow.pytest_plugin.broker import FlowBroker
    from taskiq_flow.pytest_plugin.faults import StorageFaults
    from taskiq_flow.pytest_plugin.protocols import MakeCacheAdapter, MakeStorageAdapter
    from taskiq_flow.pytest_plugin.stores.base import IsolatedStore, StorageBackend
    from taskiq_flow.storage.base import BaseStorageAdapter
    from taskiq_flow.storage.testing import KitSupport

OPENED = pytest.StashKey[list["FlowBroker | KitSupport"]]()
"""What a test has opened on its event loops, in the order in which it is closed, the last first."""
BROKER = pytest.StashKey["FlowBroker"]()
"""The test's ``flow_broker``, for a clock that the test asks for later, and for the end of its function."""
FAILED = pytest.StashKey[bool]()
"""Whether a test has failed, in its setup or its body."""
NOT_RUN = pytest.StashKey[bool]()
"""Whether the storage of a test was required and cannot run."""


_NOT_PARAMETRIZED = (
    "this test uses a storage, and pytest cannot run it once for each: that takes a function, or a method of a\n"
    "plain class, which names the fixture among its arguments or in @pytest.mark.usefixtures. For that, it is too\n"
    "late in a unittest.TestCase, a doctest and request.getfixturevalue(). (--storage-fallback=error refuses them.)"
)


@pytest.fixture
def frozen_clock(request: pytest.FixtureRequest) -> "Iterator[FrozenClock]":
    """The clock by which stored entries expire, stopped: move it with ``tick(seconds)`` and ``move_to(moment)``.

    Only that clock stops, on every storage, real servers included; asyncio, drivers and taskiq's time-outs go on.
    ``@pytest.mark.frozen_clock(everything=True)`` stops ``datetime.now()`` and ``time.time()`` for all code as well.
    """
    from taskiq_flow import clock

    asked = marker_arguments(request.node, "frozen_clock", "at", "everything")
    with ExitStack() as stack:
        frozen = stack.enter_context(clock.freeze(asked.get("at")))
        if asked.get("everything", session.settings(request.config).clock_scope == "everything"):
            from taskiq_flow.pytest_plugin.everything import freeze_everything

            stack.enter_context(freeze_everything(frozen))
        if (broker := request.node.stash.get(BROKER, None)) is not None:
            _let_drive(frozen, broker)
        yield frozen


@pytest.fixture
def _storage_name(request: pytest.FixtureRequest) -> str:
    """The storage that a test is parametrized with by ``pytest_generate_tests``; here, it is not, and gets one."""
    settings = session.settings(request.config)
    names = settings.backends
    if marker := request.node.get_closest_marker("storage_backends"):
        allowed = marked_storages(marker, request.node.nodeid, settings.storages)
        names = tuple(name for name in names if name in allowed)
    if not settings.fallback:
        pytest.fail(_NOT_PARAMETRIZED, pytrace=False)
    if not names:
        pytest.skip(f"its marker leaves none of this run's storages ({', '.join(settings.backends)})")
    name = settings.fallback if settings.fallback in names else names[0]
    report.note_fallback(request.node, name)
    return name


@pytest.fixture
def _isolated_store(request: pytest.FixtureRequest, _storage_name: str) -> "Iterator[IsolatedStore]":
    """The test's own store on the storage that it is parametrized with."""
    if "trio" in str(getattr(request.node, "callspec", None) and request.node.callspec.params.get("anyio_backend")):
        pytest.skip("storages need asyncio: taskiq, and the drivers of Redis and SQL databases, do not run on trio")
    if "frozen_clock" in request.fixturenames:
        # First of all: what is stored by other fixtures must be under the frozen clock as well.
        request.getfixturevalue("frozen_clock")
    import_unfrozen(_storage_name, broker=not {"flow_broker", "request"}.isdisjoint(request.fixturenames))
    store, problem = None, ""
    try:
        store = session.stores(request.config).open(_storage_name)
    except StorageUnavailable as reason:
        problem = f"storage backend {_storage_name} cannot run: {reason}"
    if store is None:
        report.note_unavailable(request.node, problem)
        if origin := session.settings(request.config).insisting(_storage_name):
            request.node.stash[NOT_RUN] = True
            pytest.fail(f"{problem}\n({origin} makes this a failure instead of a skip)", pytrace=False)
        pytest.skip(problem)
    report.note(request.node, _storage_name, store.backend.version, store.backend.origin)
    yield store
    store.clear()


@pytest.fixture
def storage_backend(_isolated_store: "IsolatedStore") -> "StorageBackend":
    """The storage that this test runs on: ``name``, ``is_real``, ``origin``, ``version``, ``url``."""
    return _isolated_store.backend


@pytest.fixture
def storage_config(request: pytest.FixtureRequest, _isolated_store: "IsolatedStore") -> "TaskiqFlowConfig":
    """Settings with which the application's own code reaches this test's storage through the factory."""
    if "storage_faults" in request.fixturenames:
        faults: StorageFaults = request.getfixturevalue("storage_faults")
        return faults.config()
    return _isolated_store.config()


@pytest.fixture
def storage_faults(request: pytest.FixtureRequest, _isolated_store: "IsolatedStore") -> "Iterator[StorageFaults]":
    """Faults of this test's storage: ``fail()``, ``delay()``, ``corrupt()``, ``disconnect()``, ``pause()``.

    They happen to every adapter on ``storage_config``, and to nobody else on the same server; all is undone when the
    test is over. In such a test, calls to a storage that does not answer fail after 2 s.
    """
    from taskiq_flow.pytest_plugin.faults import StorageFaults

    faults = StorageFaults(_isolated_store, session.stores(request.config).background)
    with faults.active():
        yield faults
        problem = faults.unmet()
    if problem and not request.node.stash.get(FAILED, False):
        pytest.fail(problem, pytrace=False)


@pytest.fixture
def make_storage_adapter(
    request: pytest.FixtureRequest,
    storage_config: "TaskiqFlowConfig",
) -> "Iterator[MakeStorageAdapter]":
    """Make another adapter on this test's storage, as a second worker or another application would have.

    ``make_storage_adapter(ttl_seconds=None, namespace=None)``: the default time to live in seconds, and the name of a
    namespace beside the test's own. What is made is closed when the test is over.
    """
    from taskiq_flow.pytest_plugin.stores._instrumented import instrument
    from taskiq_flow.storage.factory import StorageAdapterFactory
    from taskiq_flow.storage.testing import KitSupport

    made: list[KitSupport] = []

    def make(ttl_seconds: float | None = None, namespace: str | None = None) -> "BaseStorageAdapter":
        config = storage_config
        if namespace is not None:
            config = config.model_copy(update={"storage_namespace": f"{config.storage_namespace}-{namespace}"})
        adapter = StorageAdapterFactory.create_storage_adapter(config, ttl_seconds=ttl_seconds)
        # An application's own, where the test has put its URL into the settings.
        adapter = instrument(adapter, config.storage_namespace, ttl_seconds, config.storage_operation_timeout)
        if isinstance(adapter, KitSupport):
            made.append(adapter)
            _opened(request).insert(0, adapter)  # before a flow_broker, which is the first to be closed
        return adapter

    yield make
    for adapter in made:
        adapter.close_from_outside()


@pytest.fixture
def storage_adapter(make_storage_adapter: "MakeStorageAdapter") -> "BaseStorageAdapter":
    """An adapter on a storage of this test's own; the test runs once on each backend."""
    return make_storage_adapter()


@pytest.fixture
def make_cache_adapter(
    make_storage_adapter: "MakeStorageAdapter",
) -> "MakeCacheAdapter":
    """Make another cache on this test's storage, as a second worker would have.

    ``make_cache_adapter(default_ttl=3600, lock_timeout=10, prefix="cache:")``: both in seconds; another prefix makes
    another cache beside the first. What is made is closed when the test is over.
    """
    from taskiq_flow.cache import StorageCacheAdapter

    def make(*arguments: Any, **settings: Any) -> StorageCacheAdapter:
        return StorageCacheAdapter(make_storage_adapter(), *arguments, **settings)

    return make


@pytest.fixture
def cache_adapter(make_cache_adapter: "MakeCacheAdapter") -> "StorageCacheAdapter":
    """A cache on a storage of this test's own; the test runs once on each backend."""
    return make_cache_adapter()


@pytest.fixture
def flow_result_backend(storage_adapter: "BaseStorageAdapter") -> "AsyncResultBackend[Any]":
    """The result backend of ``flow_broker``; override it for one of your own."""
    from taskiq_flow.result_backend import StorageResultBackend

    return StorageResultBackend(storage_adapter, check_on_startup=False)


@pytest.fixture
def flow_middlewares(
    storage_adapter: "BaseStorageAdapter", cache_adapter: "StorageCacheAdapter"
) -> "list[TaskiqMiddleware]":
    """The middlewares of ``flow_broker``, for cache, storage and pipelines; override it for others."""
    from taskiq_flow.middlewares import CacheMiddleware, PipelineMiddleware, StorageMiddleware

    return [
        CacheMiddleware(cache_adapter),
        StorageMiddleware(storage_adapter, check_on_startup=False),
        PipelineMiddleware(),
    ]


@pytest.fixture
def flow_schedule_sources(storage_adapter: "BaseStorageAdapter") -> "list[ScheduleSource]":
    """Whose schedules ``await frozen_clock.advance(…)`` fires on ``flow_broker``; override it for others."""
    from taskiq_flow.schedule_source import StorageScheduleSource

    return [StorageScheduleSource(storage_adapter, check_on_startup=False)]


@pytest.fixture
def flow_broker(
    request: pytest.FixtureRequest,
    make_storage_adapter: "MakeStorageAdapter",
    flow_result_backend: "AsyncResultBackend[Any]",
    flow_middlewares: "list[TaskiqMiddleware]",
    flow_schedule_sources: "list[ScheduleSource]",
) -> "Iterator[FlowBroker]":
    """An in-memory taskiq broker whose results, caches, pipelines and schedules are on ``storage_adapter``.

    It starts when the first task is sent, and shuts down when the test is over, after the tasks that still run and all
    that these send. Tasks of an asynchronous test run on its event loop; those that are sent from elsewhere, or by a
    synchronous test, in a worker's thread. What was lost on the way fails the test when it is over: results that could
    not be stored, tasks that ended without one, or did not end.
    ``@pytest.mark.flow_broker(loses="…")`` expects that.
    """
    from taskiq_flow.pytest_plugin.broker import FlowBroker

    expected = marker_arguments(request.node, "flow_broker", "loses").get("loses")
    broker = FlowBroker(
        make_storage_adapter,
        result_backend=flow_result_backend,
        middlewares=flow_middlewares,
        schedule_sources=flow_schedule_sources,
        runs_on_test_loop=_is_asynchronous(request.node),
    )
    if "frozen_clock" in request.fixturenames:
        _let_drive(request.getfixturevalue("frozen_clock"), broker)
    request.node.stash[BROKER] = broker  # for a clock that the test asks for later, and for the end of its function
    _opened(request).append(broker)
    yield broker
    del request.node.stash[BROKER]
    broker.close_from_outside()
    if problem := broker.unexpected(expected):
        pytest.fail(problem, pytrace=False)


def _is_asynchronous(item: pytest.Item) -> bool:
    """Return whether a test is a coroutine function, so that a plugin runs it on an event loop of its own."""
    function = getattr(item, "obj", None)
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    return inspect.iscoroutinefunction(inner)


def _let_drive(frozen: "FrozenClock", broker: "FlowBroker") -> None:
    """Let what is due on a broker happen as the frozen clock moves."""
    from taskiq_flow.pytest_plugin.broker.clock_driver import BrokerClockDriver

    frozen.follow(broker.clock_moved)
    frozen.drive(BrokerClockDriver(broker, frozen))


def _opened(request: pytest.FixtureRequest) -> "list[FlowBroker | KitSupport]":
    stash: pytest.Stash = request.node.stash
    return stash.setdefault(OPENED, [])
