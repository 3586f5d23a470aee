"""Reaching a storage before it is needed: what is wrong with it stops a worker at its start, and costs no result."""

from taskiq_flow.storage.base import BaseStorageAdapter
from taskiq_flow.storage.retries import retried

__all__ = ["reach"]

_KEY = "taskiq-flow:startup"
"""A key under which nothing is kept: to ask for it opens a connection, and creates the table where that is missing."""


async def reach(storage: BaseStorageAdapter, retry_for: float) -> None:
    """Ask a storage for something, once.

    :param retry_for: seconds in which one that fails for the moment, as when its server is just starting, is asked
        again; 0 for one attempt.
    :raises StorageError: if it cannot be reached, or refuses.
    """
    await retried(lambda: storage.exists(_KEY), retry_for)
