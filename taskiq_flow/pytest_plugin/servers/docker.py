"""Servers in containers, by way of testcontainers, whose own settings and variables are honoured and never set."""

import contextlib
import json
import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from taskiq_flow._text import one_line

from .kinds import ServerKind
from .model import Ready, ServerSettings, SourceFailed

__all__ = ["LABEL", "ContainerServer", "container_name", "find_image", "remove_container", "remove_stale_containers"]

LABEL = "taskiq_flow.record"
"""The label of every container of this package; it holds whose it is."""
_DEFAULT_SOCKET = "unix:///var/run/docker.sock"


def find_image(kind: ServerKind, settings: ServerSettings, patience: float) -> str:
    """Return the image that a container would run, after a look for an engine that answers.

    An engine does in milliseconds, but a busy machine may need a part of ``patience``, in seconds.

    :raises SourceFailed: if there is no Docker engine, or no testcontainers to use it with.
    """
    if find_spec("testcontainers") is None:
        raise SourceFailed('testcontainers is not installed: pip install "taskiq-flow-kit[pytest]"')
    try:
        address = _engine_address()
    except (OSError, ValueError, TypeError) as error:
        raise SourceFailed(f"Docker's settings cannot be read: {one_line(error)}") from None
    try:
        _ping(address, patience)
    except ValueError as error:
        raise SourceFailed(f"{address!r} is not the address of a Docker engine ({error})") from None
    except OSError as error:
        raise SourceFailed(f"no Docker engine answers at {address} ({error.strerror or error})") from None
    return settings.image or kind.image


def _engine_address() -> str:
    """Return where testcontainers will look for the engine, in its order: its own properties, the variable, contexts.

    testcontainers itself is not asked: to import it takes longer than all that a run's header says.

    :raises OSError, ValueError, TypeError: if a setting cannot be read.
    """
    return _host_in_properties() or os.environ.get("DOCKER_HOST") or _host_of_context() or _DEFAULT_SOCKET


def _host_in_properties() -> str:
    """Return ``tc.host`` of testcontainers' own file, as Testcontainers Desktop and Cloud write it; empty for none."""
    file = Path.home() / ".testcontainers.properties"
    if not file.exists():
        return ""
    settings = dict(line.split("=")[:2] for line in file.read_text().splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, value in settings.items()}.get("tc.host", "")


def _host_of_context() -> str:
    """Return the engine of the context that ``docker context use`` chose, a rootless one too; empty for the default."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    name = os.environ.get("DOCKER_CONTEXT") or _member(folder / "config.json", "currentContext")
    if not name or name == "default":
        return ""
    file = folder / "contexts" / "meta" / sha256(name.encode()).hexdigest() / "meta.json"
    host = _member(file, "Endpoints", "docker", "Host")
    if not host:
        raise ValueError(f"the context {name!r} says no host in {file}")
    return host


def _member(file: Path, *names: str) -> str:
    """Return a text within a JSON file; empty where the file or the text is not there.

    :raises ValueError: if the file is not JSON.
    :raises TypeError: if something else is there.
    """
    if not file.exists():
        return ""
    found = json.loads(file.read_text())
    for name in names:
        if found is None:
            return ""
        if not isinstance(found, dict):
            raise TypeError(f"{file} has no object where {name!r} should be")
        found = found.get(name)
    if found is not None and not isinstance(found, str):
        raise TypeError(f"{file} has {found!r} for {names[-1]!r}, which is not a text")
    return found or ""


def _ping(address: str, timeout: float) -> None:
    """Ask the engine whether it is there; any answer is one, a refusal to talk without TLS too.

    :raises OSError: if nothing answers within ``timeout`` seconds.
    :raises ValueError: if it is not an address.
    """
    parts = urlsplit(address)
    if parts.scheme == "unix":
        if not hasattr(socket, "AF_UNIX"):
            raise OSError("this system has no such sockets")
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        with connection:
            connection.connect(parts.path)
            _ask(connection)
    elif parts.scheme in {"tcp", "http", "https"}:
        host, port = parts.hostname or "localhost", parts.port or 2375
        with socket.create_connection((host, port), timeout) as connection:  # IPv6 as well
            _ask(connection)
    elif parts.scheme not in {"ssh", "npipe"}:  # of these, only trying tells
        raise ValueError(f"its scheme is {parts.scheme!r}")


def _ask(connection: socket.socket) -> None:
    connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
    if not connection.recv(1):
        raise OSError("it closed the connection")


def _is_on_this_machine(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme == "unix" or parts.hostname in {"localhost", "127.0.0.1", "::1"}


def container_name(run_id: str, kind: ServerKind) -> str:
    """Return the name of a run's container: no two runs have the same."""
    return re.sub(r"[^a-zA-Z0-9_.-]", "-", f"taskiq-flow-{run_id}-{kind.name}")


class ContainerServer:
    """One container. ``check()`` is called while its image is fetched, and may raise to give up."""

    def __init__(
        self,
        kind: ServerKind,
        settings: ServerSettings,
        name: str,
        labels: Mapping[str, str],
        check: Callable[[], None],
    ) -> None:
        from testcontainers.core.container import DockerContainer

        image = settings.image or kind.image
        self.detail = f"docker {image}"
        self._origin = f" (given by {settings.image_origin})" if settings.image and settings.image_origin else ""
        self._kind = kind
        self._name = name
        self._check = check
        environment, arguments, self._password = kind.container(secrets.token_hex(16))
        try:
            self._container = DockerContainer(image).with_name(name).with_exposed_ports(kind.port)
        except Exception as error:  # noqa: BLE001 - the engine's client raises those of several packages
            raise SourceFailed(f"the Docker engine cannot be used: {_reason(error)}") from None
        self._container.with_command(arguments).with_kwargs(labels=dict(labels))
        if self._is_reached_by_loopback():
            ports: dict[str, Any] = self._container.ports
            ports[str(kind.port)] = ("127.0.0.1",)
        for variable, value in environment.items():
            self._container.with_env(variable, value)

    def start(self, ready: Ready) -> tuple[str, str]:
        """Fetch the image if need be, start the container, and return the server's URL and version once it answers.

        :raises SourceFailed: if the image cannot be had, the container does not start, or ``ready`` gave up.
        """
        try:
            self._fetch_image()
            self._container.start()
            host = self._container.get_container_host_ip()
            port = int(self._container.get_exposed_port(self._kind.port))
        except SourceFailed:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            said = f"; its last words: {words}" if (words := self.last_words()) else ""
            raise SourceFailed(f"the container did not start: {_reason(error)}{said}") from None
        url = self._kind.url(host, port, self._password)
        # Official images of databases start the server twice, the first time to make the database.
        ready(url, self)
        return url, ready(url, self)

    def _is_reached_by_loopback(self) -> bool:
        """Return whether the container need not be reached from anywhere but this machine's own loopback address.

        An engine elsewhere, and one that this process shares from within a container, publish on all addresses.
        """
        from testcontainers.core.config import ConnectionMode

        client = self._container.get_docker_client()
        is_direct = client.get_connection_mode() is ConnectionMode.docker_host
        return is_direct and client.host() in {"localhost", "127.0.0.1"} and _is_on_this_machine(_engine_address())

    def stop(self) -> None:
        """Remove the container and its volumes, by its name: it may be there although starting it failed."""
        with contextlib.suppress(Exception):
            _remove(self._container.get_docker_client().client, self._name)

    def _fetch_image(self) -> None:
        from docker.errors import ImageNotFound
        from docker.utils import parse_repository_tag

        client, image = self._container.get_docker_client().client, self._container.image
        try:
            client.images.get(image)
        except ImageNotFound:
            # Followed line by line, because it takes its time: a run that ends must not have to wait for it.
            repository, tag = parse_repository_tag(image)
            try:
                for line in client.api.pull(repository, tag=tag or "latest", stream=True, decode=True):
                    self._check()
                    if "error" in line:
                        raise SourceFailed(line["error"])
            except Exception as error:  # noqa: BLE001 - see above
                raise SourceFailed(f"the image {image}{self._origin} cannot be fetched: {_reason(error)}") from None

    def ended(self) -> str:
        """Return why the server will never answer, or an empty string."""
        from docker.errors import NotFound

        container = self._container.get_wrapped_container()
        try:
            container.reload()
        except NotFound:
            return "the container was removed by somebody else"
        if container.status not in {"exited", "dead"}:
            return ""
        return f"the container ended with exit code {container.attrs['State']['ExitCode']}"

    def last_words(self) -> str:
        """Return the last lines that the container logged."""
        with contextlib.suppress(Exception):
            log = self._container.get_wrapped_container().logs(tail=4).decode(errors="replace")
            return " | ".join(line.strip() for line in log.splitlines() if line.strip()) or "(it logged nothing)"
        return ""


def remove_stale_containers(orphaned: Callable[[str], bool]) -> None:
    """Remove each container of this package, of any run, whose label ``orphaned`` says to be nobody's any more."""
    from testcontainers.core.docker_client import DockerClient

    client = DockerClient().client
    for container in client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
        if orphaned(container.labels[LABEL]):
            _remove(client, container.name)


def remove_container(name: str) -> None:
    """Remove the container of this name and its volumes, if it exists.

    :raises Exception: if the engine's client's; there is no engine, or it refuses.
    """
    from testcontainers.core.docker_client import DockerClient

    _remove(DockerClient().client, name)


def _remove(client: Any, name: str) -> None:
    from docker.errors import NotFound

    with contextlib.suppress(NotFound):
        client.containers.get(name).remove(force=True, v=True)


def _reason(error: Exception) -> str:
    """Return what went wrong in the engine's own words, where it said any."""
    return one_line(getattr(error, "explanation", None) or error)
