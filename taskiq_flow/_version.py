"""The version, which ``pyproject.toml`` says."""

from importlib import metadata

__all__ = ["__version__"]

__version__ = metadata.version("taskiq-flow-kit")
