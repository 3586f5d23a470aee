"""What is measured: small pytest projects, as text. Each is a file of tests, and the plugins that it needs."""

from dataclasses import dataclass

KIT = "taskiq_flow.pytest_plugin"
ASYNC = "pytest_asyncio.plugin"
SERVERS = ("redis", "postgres", "mysql")
BACKENDS = ("memory", "fakeredis", "sqlite", *SERVERS)


@dataclass(frozen=True)
class Project:
    """Tests of one kind, each with one fixture (or none)."""

    name: str
    fixture: str
    body: str
    plugins: tuple[str, ...] = (KIT, ASYNC)
    backend: str = ""
    """What the kit's fixtures run on; where it is a server, that must be there."""
    prelude: str = ""
    """What the file of tests begins with."""
    share: int = 1
    """Every how many-th test of a run is enough: for what is slow."""

    @property
    def without(self) -> "Project":
        """The same tests without the fixture, and without the plugin that brings it."""
        return WITHOUT[ASYNC in self.plugins]

    def source(self, tests: int) -> str:
        """Return the text of the file of tests."""
        asynchronous = "async " if ASYNC in self.plugins else ""
        body = "\n".join(f"    {line}" for line in self.body.splitlines())
        return (
            f"import pytest\n{self.prelude}\n\n"
            f"@pytest.mark.parametrize('number', range({max(tests // self.share, 10)}))\n"
            f"{asynchronous}def test_it({', '.join(filter(None, (self.fixture, 'number')))}):\n{body}\n"
        )


_SEND = """\
@{0}.task(task_name="double")
async def double(number: int) -> int:
    return 2 * number

task = await double.kiq(number)
{1}
assert (await task.get_result()).return_value == 2 * number"""

WITHOUT = {
    True: Project("async test", "", "assert number >= 0", plugins=(ASYNC,)),
    False: Project("plain test", "", "assert number >= 0", plugins=()),
}
UNUSED = Project("installed and unused", "", "assert number >= 0")
STORAGE = {
    backend: Project(
        f"storage_adapter, {backend}",
        "storage_adapter",
        'await storage_adapter.set("key", number)\nassert await storage_adapter.get("key") == number',
        backend=backend,
    )
    for backend in BACKENDS
}
UNCALLED = {
    backend: Project(
        f"storage_adapter never called, {backend}", "storage_adapter", "assert number >= 0", backend=backend
    )
    for backend in BACKENDS
}
BROKER = {
    backend: Project(
        f"flow_broker, {backend}",
        "flow_broker",
        _SEND.format("flow_broker", "await flow_broker.drain()"),
        backend=backend,
    )
    for backend in BACKENDS
}
CLOCK = Project("frozen_clock", "frozen_clock", "frozen_clock.tick(1)", plugins=(KIT,))

# --- drivers alone, on the same servers: what it costs to connect on a test's own event loop --------------------------

ASYNCPG = Project(
    "asyncpg itself",
    "connection",
    """\
await connection.execute(
    "INSERT INTO bench VALUES ('key', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value", number
)
assert await connection.fetchval("SELECT value FROM bench WHERE key = 'key'") == number""",
    plugins=(ASYNC,),
    backend="postgres",
    prelude="""\
import asyncio, asyncpg
from os import environ

URL = environ["TASKIQ_FLOW_TEST_POSTGRES_URL"].replace("+asyncpg", "")

async def create() -> None:
    connection = await asyncpg.connect(URL)
    await connection.execute("CREATE TABLE IF NOT EXISTS bench (key text PRIMARY KEY, value int)")
    await connection.close()

asyncio.run(create())

@pytest.fixture
async def connection():
    connection = await asyncpg.connect(URL)
    yield connection
    await connection.close()
""",
)
REDIS_PY = Project(
    "redis-py itself",
    "client",
    'await client.set("key", number)\nassert await client.get("key") == str(number).encode()',
    plugins=(ASYNC,),
    backend="redis",
    prelude="""\
from os import environ
from redis.asyncio import Redis

@pytest.fixture
async def client():
    client = Redis.from_url(environ["TASKIQ_FLOW_TEST_REDIS_URL"])
    yield client
    await client.aclose()
""",
)

# --- the peers, on the same servers ----------------------------------------------------------------------------------

REDISDB = Project(
    "pytest-redis",
    "redisdb",
    'redisdb.set("key", number)\nassert redisdb.get("key") == str(number).encode()',
    plugins=("pytest_redis.plugin",),
    backend="redis",
    prelude="""\
from os import environ
from urllib.parse import urlsplit
from pytest_redis import factories

server = urlsplit(environ["TASKIQ_FLOW_TEST_REDIS_URL"])
private = factories.redis_noproc(host=server.hostname, port=server.port, password=server.password)
redisdb = factories.redisdb("private")
""",
)
POSTGRESQL = Project(
    "pytest-postgresql",
    "postgresql",
    """\
postgresql.execute("CREATE TABLE entries (key text, value int)")
postgresql.execute("INSERT INTO entries VALUES ('key', %s)", [number])
assert postgresql.execute("SELECT value FROM entries").fetchone() == (number,)""",
    plugins=("pytest_postgresql.plugin",),
    backend="postgres",
    share=10,
    prelude="""\
from os import environ
from urllib.parse import urlsplit
from pytest_postgresql import factories

server = urlsplit(environ["TASKIQ_FLOW_TEST_POSTGRES_URL"])
private = factories.postgresql_noproc(
    host=server.hostname, port=server.port, user=server.username, password=server.password
)
postgresql = factories.postgresql("private")
""",
)
FREEZEGUN = Project(
    "freezegun",
    "frozen",
    "frozen.tick()",
    plugins=(),
    share=3,
    prelude="""\
import sqlalchemy.ext.asyncio, taskiq  # an application's tests have them: what it costs goes by the modules there are
from freezegun import freeze_time

@pytest.fixture
def frozen():
    with freeze_time() as frozen:
        yield frozen
""",
)
BARE_BROKER = Project(
    "taskiq's InMemoryBroker",
    "broker",
    _SEND.format("broker", "await broker.wait_all()"),
    plugins=(ASYNC,),
    prelude="""\
import taskiq

@pytest.fixture
def broker():
    return taskiq.InMemoryBroker()
""",
)
PROJECTS = (
    *WITHOUT.values(), UNUSED, *STORAGE.values(), *UNCALLED.values(), REDIS_PY, ASYNCPG, REDISDB, POSTGRESQL,
    CLOCK, FREEZEGUN, *BROKER.values(), BARE_BROKER,
)  # fmt: skip
