"""Running pytest inside pytest, the way a user runs it: what tests need besides the fixture ``inner``."""

from collections.abc import Callable

import pytest

__all__ = ["InnerRun", "RunPytest", "on"]

RunPytest = Callable[..., pytest.RunResult]
InnerRun = Callable[..., pytest.RunResult]


def on(backend: str, url: str) -> list[str]:
    """Return the arguments with which an inner run uses a server of the outer run, as one that belongs to others."""
    return [f"--storage-backends={backend}", f"--storage-{backend}-url={url}", f"--storage-require={backend}"]
