"""``mysql``: the SQL adapter on a real MySQL or MariaDB server, by asyncmy."""

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from taskiq_flow.pytest_plugin.servers.kinds import Launch, ServerKind
from taskiq_flow.pytest_plugin.servers.model import SourceFailed
from taskiq_flow.pytest_plugin.stores.base import Cleaner
from taskiq_flow.pytest_plugin.stores.on_server import ServerStorage, ServerStore, with_query
from taskiq_flow.pytest_plugin.stores.sql import SQLCleaner, SQLStorage, first_value, own_engine

__all__ = ["STORAGES", "MySQLServer", "MySQLStorage"]

_USER = "taskiq_flow"
_DATABASE = "taskiq_flow"
# For data that nobody wants back, in words that both servers know: no waiting for disks, and no kernel resources that
# other servers of the machine may have used up. Many workers of a test run may connect at once.
_OPTIONS = [
    "--skip-log-bin",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=OFF",
    "--innodb-use-native-aio=OFF",
    "--performance-schema=OFF",
    "--max-connections=300",
]


class MySQLServer(ServerKind):
    """A MySQL or MariaDB server."""

    name = "mysql"
    title = "MySQL"
    driver = "asyncmy"
    extra = "mysql"
    schemes = ("mysql", "mysql+asyncmy", "mariadb", "mariadb+asyncmy")
    image = "mysql:8.4"
    port = 3306
    programs = ("mariadbd", "mysqld")
    folders = ("/usr/sbin", "/usr/libexec", "/usr/local/mysql/bin")  # seldom on a user's PATH
    wheels = ()
    users = ("mysql", "nobody")

    def normalise(self, url: str) -> str:
        """Return the URL for SQLAlchemy with asyncmy, which talks to both servers."""
        parts = urlsplit(super().normalise(url))
        if not parts.path.strip("/"):
            raise ValueError("it names no database")
        return parts._replace(scheme="mysql+asyncmy").geturl()

    def url(self, host: str, port: int, password: str) -> str:
        """Return the URL of the kit's own database."""
        return f"mysql+asyncmy://{_USER}:{password}@{host}:{port}/{_DATABASE}"

    def probe(self, url: str, timeout: float) -> str:
        """Ask ``VERSION()``: "8.4.6", or "10.11.6-MariaDB-1"."""
        version = first_value(url, "SELECT VERSION()", timeout)
        return f"{'MariaDB' if 'mariadb' in version.lower() else 'MySQL'} {version.partition('-')[0]}"

    def container(self, password: str) -> tuple[dict[str, str], list[str], str]:
        """Let the image make the user and the database; those of MariaDB understand MySQL's variables."""
        environment = {
            "MYSQL_ROOT_PASSWORD": password,
            "MYSQL_USER": _USER,
            "MYSQL_PASSWORD": password,
            "MYSQL_DATABASE": _DATABASE,
        }
        return environment, _OPTIONS, password

    def setup(self, program: Path, data: Path, password: str) -> Launch:
        """Make the system tables. Neither server takes a user's account here from anything but a command line."""
        if program.resolve().name != "mariadbd":
            return Launch([str(program), "--no-defaults", "--initialize-insecure", f"--datadir={data}"])
        options = ["--no-defaults", f"--datadir={data}", "--skip-test-db", "--skip-name-resolve", *_OPTIONS]
        return Launch([str(_installer(program)), *options])

    def launch(self, program: Path, data: Path, port: int, password: str) -> Launch:
        """Run on loopback; the account is made at each start, from a file, before the first connection is taken."""
        accounts = data.with_name("accounts.sql")
        place = [
            "--no-defaults",  # not the machine's configuration, which is for another server
            f"--datadir={data}",
            f"--init-file={accounts}",
            f"--port={port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--socket=mysql.sock",  # within the data folder: an absolute path may be longer than a socket's may be
            "--loose-mysqlx=OFF",  # MySQL's second port
        ]
        return Launch([str(program), *place, *_OPTIONS], files={accounts: _accounts(password)})


class MySQLStore(ServerStore):
    """Rows of the test's namespace in the run's table."""

    def identified_url(self) -> str:
        """Return the URL whose connections each hold a lock with the test's name.

        MySQL has no name for a connection that others can see, but says who holds a lock.
        """
        return with_query(
            self.backend.url, init_command=f"DO GET_LOCK(CONCAT('{self.namespace}:', CONNECTION_ID()), 0)"
        )

    async def disconnect(self) -> int:
        """Cut the connections that hold the test's locks, by ``KILL``."""
        from sqlalchemy import text
        from sqlalchemy.pool import NullPool

        statement = text(
            "SELECT id FROM information_schema.processlist WHERE IS_USED_LOCK(CONCAT(:name, ':', id)) = id"
        )
        async with own_engine(self.backend.url, poolclass=NullPool).connect() as connection:
            ours = (await connection.execute(statement, {"name": self.namespace})).scalars().all()
            for number in ours:
                await connection.execute(text(f"KILL {int(number)}"))
            return len(ours)


class MySQLStorage(SQLStorage, ServerStorage):
    """A real MySQL or MariaDB server."""

    name = "mysql"
    is_default = False
    position = 70
    server = MySQLServer()
    store = MySQLStore

    def make_cleaner(self, url: str) -> Cleaner:
        """Return what drops the run's table."""
        return SQLCleaner(url, self.process.run.id)


def _accounts(password: str) -> str:
    """Return SQL that makes the kit's account and closes root's; may be run at every start."""
    return (
        f"CREATE DATABASE IF NOT EXISTS {_DATABASE} CHARACTER SET utf8mb4;\n"
        f"CREATE USER IF NOT EXISTS '{_USER}'@'127.0.0.1' IDENTIFIED BY '{password}';\n"
        f"GRANT ALL ON {_DATABASE}.* TO '{_USER}'@'127.0.0.1';\n"
        "ALTER USER IF EXISTS 'root'@'localhost' ACCOUNT LOCK;\n"
    )


def _installer(program: Path) -> Path:
    """Return MariaDB's script that makes system tables; packages put it beside the program, or where users find it.

    :raises SourceFailed: if it is in none of these places.
    """
    name = "mariadb-install-db"
    places = [program.parent, program.parent.parent / "bin", program.parent.parent / "scripts"]
    found = shutil.which(name, path=":".join(map(str, places))) or shutil.which(name)
    if found is None:
        raise SourceFailed(f"{program} is there, but not {name}, which makes its data folder")
    return Path(found)


STORAGES: tuple[Any, ...] = (MySQLStorage(),)
