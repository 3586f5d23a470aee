"""Running the installed command."""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["SCRIPT", "run"]

SCRIPT = str(Path(sys.executable).with_name("taskiq-flow"))


def run(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run the installed command."""
    return subprocess.run(
        [SCRIPT, *arguments], env={**os.environ, **settings}, capture_output=True, encoding="utf-8", timeout=60
    )
