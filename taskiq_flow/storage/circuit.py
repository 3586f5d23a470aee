"""A circuit breaker for each server: once it has not answered in time, nobody waits for it until it answers again.

============  =========================================================================================================
closed        calls go to the server; a time-out opens the circuit
open          calls fail at once, until a probe is due, five seconds later at the latest
half-open     one call, the probe, goes to the server: its answer, or an error of the server's, closes the circuit, and
              another time-out leaves it open
============  =========================================================================================================

Only time-outs open it: errors, and callers that are cancelled, do not. There is one for each server, host and port,
which all adapters and all event loops of the process share.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from taskiq_flow.storage.forks import reset_in_child

__all__ = ["PROBE_INTERVAL", "Circuit", "CircuitOpenError", "circuit_of"]

logger = logging.getLogger(__name__)

_now = partial(time.monotonic)  # as a partial, it stays the real one where a test stops all clocks

PROBE_INTERVAL = 5.0
"""Seconds from a time-out to the next probe, at most."""


class CircuitOpenError(Exception):
    """The server has not answered a moment ago; it was not asked."""


class Attempt:
    """One call that goes to the server, and how it ended, as far as that is known."""

    timed_out = False
    """Whether the server has not answered in time."""
    was_made = True
    """Whether the server was asked at all."""


class Circuit:
    """Whether a server may be asked.

    :param name: what the log calls the server.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._probe_at: float | None = None
        """When a probe may go to the server; None while the circuit is closed."""
        self._is_probing = False
        self._lock = threading.Lock()
        reset_in_child(self)

    def after_fork(self) -> None:
        """Make a lock that no thread of a parent process holds; a probe of the parent is none of the child's."""
        self._lock, self._is_probing = threading.Lock(), False

    @property
    def is_open(self) -> bool:
        """Whether calls fail at once."""
        return self._probe_at is not None

    @contextmanager
    def attempt(self, timeout: float) -> Iterator[Attempt]:
        """Let a call through, and learn from how it ends. A caller that is cancelled says nothing of the server.

        :param timeout: seconds that the call may take; so often, at least, a probe is sent where it is short.
        :raises CircuitOpenError: if the circuit is open, and this is not the probe.
        """
        is_probe = self._enter()
        attempt = Attempt()
        try:
            yield attempt
        except Exception:
            self._ended(attempt, timeout)
            raise
        else:
            self._ended(attempt, timeout)
        finally:
            if is_probe:
                self._is_probing = False

    def _ended(self, attempt: Attempt, timeout: float) -> None:
        if attempt.timed_out:
            self._opened(min(PROBE_INTERVAL, timeout))
        elif attempt.was_made:
            self._answered()

    def _enter(self) -> bool:
        """Return whether this call is the probe."""
        if not self.is_open:
            return False
        with self._lock:
            due = self._probe_at
            if due is None:
                return False
            if self._is_probing or _now() < due:
                raise CircuitOpenError("no answer a moment ago, so it is not asked until a probe is answered")
            self._is_probing = True
            return True

    def _opened(self, interval: float) -> None:
        with self._lock:
            was_closed, self._probe_at = self._probe_at is None, _now() + interval
        if was_closed:
            message = "%s has not answered in time: calls fail at once, until a probe, every %g s, is answered"
            logger.warning(message, self._name, interval)

    def _answered(self) -> None:
        if not self.is_open:
            return
        with self._lock:
            was_open, self._probe_at = self._probe_at is not None, None
        if was_open:
            logger.warning("%s answers again", self._name)


_circuits: dict[str, Circuit] = {}


def circuit_of(server: str) -> Circuit:
    """Return the circuit of a server, such as ``db.example.com:5432``, that the whole process shares."""
    return _circuits.setdefault(server, Circuit(server))
