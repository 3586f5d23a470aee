"""``FlowBroker``: taskiq's in-memory broker, for the fixture ``flow_broker``.

It starts by itself, on whichever event loop first sends a task, and shuts down before that loop ends: so the fixture
needs no async plugin, and a test may call ``asyncio.run`` more than once.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import anyio
from taskiq import BrokerMessage, InMemoryBroker

from taskiq_flow.middlewares import PipelineMiddleware, StorageMiddleware
from taskiq_flow.storage.base import BaseStorageAdapter
from taskiq_flow.storage.loops import PerLoop

__all__ = ["FlowBroker"]

_SYNC_TASK_THREADS = 4
_PATIENCE = 10.0
"""Seconds that running tasks are waited for at shutdown: what they store belongs to the test."""


class FlowBroker(InMemoryBroker):
    """An in-memory broker that starts itself, runs pipelines, and keeps every result, in a storage too.

    taskiq's own keeps only the last 100 results, and forgets the first task of a longer test.

    :param storage: where ``storage_middleware`` keeps the results; it is not closed here.
    """

    storage_middleware: StorageMiddleware
    """What keeps the results: ``await flow_broker.storage_middleware.load(task_id, pipeline_id)`` gives one back."""

    def __init__(self, storage: BaseStorageAdapter) -> None:
        super().__init__(sync_tasks_pool_size=_SYNC_TASK_THREADS, max_stored_results=-1)
        self.storage_middleware = StorageMiddleware(storage=storage)
        self.add_middlewares(self.storage_middleware, PipelineMiddleware())
        self._sessions = PerLoop(_Session, self._end)

    async def startup(self) -> None:
        """Start on the running loop, once; sending a task does so too."""
        session = await self._sessions.get()
        async with session.starting:
            if not session.is_started:
                # Shutting down has ended the threads for synchronous tasks: a second loop needs new ones.
                if self.receiver.executor is None:
                    self.executor = self.receiver.executor = ThreadPoolExecutor(_SYNC_TASK_THREADS)
                await super().startup()
                session.is_started = True

    async def shutdown(self) -> None:
        """Wait for the tasks that run, and shut down, on the running loop."""
        await self._sessions.aclose()

    async def kick(self, message: BrokerMessage) -> None:
        """Run a task, having started first."""
        await self.startup()
        await super().kick(message)

    async def wait_all(self) -> None:
        """Wait until no task runs any more, those that running tasks send included: all is stored then."""
        while self._running_tasks:
            await super().wait_all()
            # A task that has ended stays in the set until its callback has run, and awaiting it lets nothing run.
            await asyncio.sleep(0)

    def close_from_outside(self) -> None:
        """Shut down, from a thread that runs no event loop: for the fixture's teardown."""
        self._sessions.close_from_outside()

    async def _end(self, session: "_Session") -> None:
        with anyio.move_on_after(_PATIENCE):
            await self.wait_all()
        for task in self._running_tasks:
            task.cancel()
        if session.is_started:
            await super().shutdown()
            self.receiver.executor = None


class _Session:
    """The broker's life on one event loop."""

    def __init__(self) -> None:
        self.starting = asyncio.Lock()
        self.is_started = False
