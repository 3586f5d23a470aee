"""MySQL and MariaDB, by way of asyncmy."""

import shutil
from pathlib import Path
from urllib.parse import urlsplit

from .kinds import Kind, Launch
from .model import SourceFailed
from .sql import first_value

__all__ = ["MySQLKind"]

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


class MySQLKind(Kind):
    """A MySQL or MariaDB server."""

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

    :raises SourceFailed: it is in none of these places.
    """
    name = "mariadb-install-db"
    places = [program.parent, program.parent.parent / "bin", program.parent.parent / "scripts"]
    found = shutil.which(name, path=":".join(map(str, places))) or shutil.which(name)
    if found is None:
        raise SourceFailed(f"{program} is there, but not {name}, which makes its data folder")
    return Path(found)
