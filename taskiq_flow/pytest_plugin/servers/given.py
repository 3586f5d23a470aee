"""A server that the user gave by its URL: asked whether it can be used, never started, stopped or changed."""

from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

from taskiq_flow._text import one_line
from taskiq_flow.storage.urls import masked, scrubbed

from .model import Server, ServerSettings, SourceFailed

__all__ = ["given_server", "import_driver"]

_PROBE_TIMEOUT = 5.0  # seconds for one question


def given_server(settings: ServerSettings) -> Server:
    """Return the server at the URL that the user gave; where that fails, no other will do.

    :raises SourceFailed: if it cannot be used; the message says why, without the URL's password.
    """
    kind, given = settings.kind, settings.url or ""
    import_driver(kind.driver)
    try:
        url = kind.normalise(given)
        # In a thread, where no event loop of a test's is the current one: to ask, some drivers need one of their own.
        with ThreadPoolExecutor(1) as thread:
            version = thread.submit(kind.probe, url, min(settings.start_timeout, _PROBE_TIMEOUT)).result()
    except Exception as error:  # noqa: BLE001 - each driver has its own, and URLs can be wrong in many ways
        place = f"{settings.url_origin or 'the URL'} {masked(given)}"
        raise SourceFailed(f"{place} cannot be used: {scrubbed(one_line(error), given)}") from None
    return Server(kind.name, url, "url", settings.url_origin or masked(given), version)


def import_driver(name: str) -> None:
    """Import the package that talks to a server.

    :raises SourceFailed: if it is installed, but not so that it works.
    """
    try:
        import_module(name)
    except Exception as error:  # noqa: BLE001 - whatever its import does
        raise SourceFailed(f"the package {name!r} cannot be imported: {one_line(error)}") from None
