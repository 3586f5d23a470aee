"""The command ``taskiq-flow``: each module in this package is a subcommand, found by its file.

A module has ``add_parser(subparsers)``, which declares the subcommand and sets ``do``: what does the work with the
parsed arguments and returns the exit status. It imports what it works with only then, so that ``--help`` and the other
subcommands cost nothing and need no optional package. What it raises of this package's errors is shown without a
traceback: a ``ConfigurationError`` with exit status 2, as for wrong arguments, any other with 1. A module whose name
begins with an underscore is not a subcommand.
"""

import argparse
import importlib
import os
import pkgutil
import sys
import warnings
from collections.abc import Sequence

__all__ = ["main"]

_FAILED, _MISUSED, _INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status.

    :param arguments: those after the program's name; None for the process's own.
    :raises SystemExit: if the arguments are wrong, or ask for help or for the version.
    """
    # What tasks leave behind may hold characters that the terminal cannot show.
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    chosen = _parser().parse_args(arguments)

    from taskiq_flow.exceptions import ConfigurationError, TaskiqFlowError

    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status: int = chosen.do(chosen)
        sys.stdout.flush()
    except TaskiqFlowError as error:
        print(f"taskiq-flow: {error}", file=sys.stderr)
        return _MISUSED if isinstance(error, ConfigurationError) else _FAILED
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Show a warning as the errors are shown: without the place in the code, which is this program's own."""
    print(f"taskiq-flow: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    from taskiq_flow import __version__

    parser = argparse.ArgumentParser(
        prog="taskiq-flow", description="What taskiq's tasks and pipelines leave behind, and where storages differ."
    )
    parser.add_argument("--version", action="version", version=f"taskiq-flow-kit {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for found in pkgutil.iter_modules(__path__):
        if not found.name.startswith("_"):
            importlib.import_module(f"{__name__}.{found.name}").add_parser(subparsers)
    return parser
