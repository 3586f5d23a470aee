"""``StorageEntry``: what an adapter keeps under a key."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from taskiq_flow import clock

__all__ = ["StorageEntry"]


@dataclass(frozen=True)
class StorageEntry:
    """A stored value with its key, its times and its metadata.

    Times are aware datetimes; they are kept in UTC and to the millisecond, rounded down, as every backend stores them,
    so that an entry read back equals the one that was stored.

    :raises TypeError: if a time is not a datetime.
    :raises ValueError: if a datetime is naive.
    """

    key: str
    value: Any
    created_at: datetime = field(default_factory=clock.now)
    expires_at: datetime | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "created_at", _to_the_millisecond("created_at", self.created_at))
        if self.expires_at is not None:
            object.__setattr__(self, "expires_at", _to_the_millisecond("expires_at", self.expires_at))

    def is_expired(self) -> bool:
        """Return True from the instant ``now >= expires_at`` on; always False where ``expires_at`` is None."""
        return self.expires_at is not None and clock.now_ms() >= clock.to_ms(self.expires_at)

    def remaining_ttl(self) -> float | None:
        """Return the seconds until the entry expires, 0.0 once it has; None if it never does."""
        if self.expires_at is None:
            return None
        return max(0, clock.to_ms(self.expires_at) - clock.now_ms()) / 1000


def _to_the_millisecond(name: str, moment: Any) -> datetime:
    if not isinstance(moment, datetime):
        hint = "; leave it out for the time of this call" if name == "created_at" and moment is None else ""
        raise TypeError(f"{name} must be an aware datetime, not {moment!r}{hint}")
    return clock.from_ms(clock.to_ms(moment))
