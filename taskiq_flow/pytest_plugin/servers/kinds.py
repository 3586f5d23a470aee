"""``ServerKind``: what differs between kinds of servers. Each is defined beside its storage, in ``stores/``."""

import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

__all__ = ["Launch", "ServerKind", "Wheel"]


@dataclass(frozen=True)
class Wheel:
    """A package that brings the server's program: its name, and where in it the program is (a glob pattern)."""

    package: str
    program: str


@dataclass(frozen=True)
class Launch:
    """How to run a program: its command line, which everyone may read, what it gets as standard input, and files that
    are written for its user alone before it starts.
    """

    command: Sequence[str]
    stdin: str = ""
    files: Mapping[Path, str] = field(default_factory=dict)


class ServerKind(ABC):
    """One kind of server: how it is found, started, reached and asked whether it is ready."""

    name: ClassVar[str]
    """The storage's name, as in ``--storage-backends``."""
    title: ClassVar[str]
    """The name for humans."""
    driver: ClassVar[str]
    """The Python package that talks to it; ``extra`` is the extra of this distribution that brings it."""
    extra: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]]
    """The schemes of URLs that are understood."""
    image: ClassVar[str]
    """The Docker image that is used unless another is asked for; ``port`` is the one it listens on."""
    port: ClassVar[int]
    programs: ClassVar[tuple[str, ...]]
    """Names of its program, the preferred one first."""
    tools: ClassVar[tuple[str, ...]] = ()
    """Programs that are needed as well, from the same folder."""
    folders: ClassVar[tuple[str, ...]] = ()
    """Where else than on PATH its programs may be: glob patterns of folders, the highest version being preferred."""
    wheels: ClassVar[tuple[Wheel, ...]]
    users: ClassVar[tuple[str, ...]] = ()
    """As whom its program runs when this is root, which it refuses to be: users that most systems have, the preferred
    one first; none is ever made. Empty where it does not refuse."""
    stop_signal: ClassVar[int] = signal.SIGTERM
    """What makes it end at once, without waiting for clients."""

    @property
    def import_path(self) -> str:
        """The module and name of this class, by which :meth:`from_import_path` finds it in another process."""
        return f"{type(self).__module__}:{type(self).__qualname__}"

    @staticmethod
    def from_import_path(path: str) -> "ServerKind":
        """Return the kind that has this ``import_path``."""
        module, _, name = path.partition(":")
        kind: type[ServerKind] = getattr(import_module(module), name)
        return kind()

    def normalise(self, url: str) -> str:
        """Return a user's URL in the form that this package's adapters take.

        :raises ValueError: if it is not a URL of this kind; the message does not repeat it.
        """
        scheme = url.partition("://")[0]
        if scheme not in self.schemes or "://" not in url:
            raise ValueError(f"its scheme is not one of {', '.join(f'{known}://' for known in self.schemes)}")
        parts = urlsplit(url)
        if "@" in parts.path + parts.fragment and "@" not in parts.netloc:
            raise ValueError("its password has a character (one of / ? #) that must be percent-encoded")
        try:
            _ = parts.port
        except ValueError:
            # The parser's message repeats the wrong port, which may well be a part of a password.
            raise ValueError("its port is not a number from 0 to 65535") from None
        return url

    @abstractmethod
    def url(self, host: str, port: int, password: str) -> str:
        """Return the URL of a server that this package started, with this password (empty for none)."""

    @abstractmethod
    def probe(self, url: str, timeout: float) -> str:
        """Ask the server for its version with a real command, within ``timeout`` seconds.

        :return: its name and version, "PostgreSQL 16.4" for example.
        :raises Exception: whatever the driver raises: it is not ready, not there, or refuses.
        """

    def settle(self, url: str, timeout: float) -> None:  # noqa: B027 - most kinds have nothing to do here
        """Make a server that this package started, and that answers, quick to connect to, within ``timeout`` seconds.

        :raises Exception: whatever the driver raises; the server is as usable as before.
        """

    @abstractmethod
    def container(self, password: str) -> tuple[dict[str, str], list[str], str]:
        """Return a container's environment, its arguments, and the password that its server then really has."""

    @abstractmethod
    def launch(self, program: Path, data: Path, port: int, password: str) -> Launch:
        """Return how to run ``program`` on a loopback port, with ``data`` as its folder; more files go beside that."""

    def setup(self, program: Path, data: Path, password: str) -> Launch | None:
        """Return what is to be run once before the server can start; its files are removed when it is done."""
        return None
