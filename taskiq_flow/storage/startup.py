"""``reach``: finds out at the start of a process whether its storage can be used."""

import logging

from taskiq_flow.exceptions import StorageError
from taskiq_flow.storage.base import BaseStorageAdapter
from taskiq_flow.storage.retries import retried

__all__ = ["reach"]

logger = logging.getLogger(__name__)

_KEY = "startup-check"
"""What is asked for; nothing is stored."""


async def reach(storage: BaseStorageAdapter, seconds: float) -> None:
    """Ask a storage for something, which opens it and prepares its table.

    :param seconds: in which a server that is just starting is asked again.
    :raises StorageError: if it cannot be used, which is logged too.
    """
    try:
        await retried(lambda: storage.exists(_KEY), seconds)
    except StorageError as error:
        logger.error("the storage cannot be used: %s", error)  # noqa: TRY400 - it says it all, and is raised
        raise
