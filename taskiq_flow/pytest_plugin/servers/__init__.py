"""Real servers for a test run: found, or started once and shared by all of its processes, and always stopped.

How it works: the first process of a run that needs a server, and was not given one by URL, starts a *supervisor*, a
process of its own that starts the server, writes its address into the run's folder, and stops it when the run is over,
however the run ended: finished, interrupted or killed. The other processes of the run (workers of pytest-xdist) read
the address.

==============  ==================================================================================================
``kinds``       what differs between kinds of servers: :class:`ServerKind`; each is defined in ``stores/``
``model``       what is asked for and what comes back: :class:`ServerSettings`, :class:`Server`
``pool``        :class:`ServerPool`, the servers of one run as a process of the run sees them
``given``       a server that the user gave by its URL
``supervisor``  the process that holds one server while the run lasts
``docker``      a server in a container; ``programs``: one that is a program of this machine or of a wheel
``stale``       what a run that was killed leaves behind, and how the next one finds and removes it
==============  ==================================================================================================

Importing this package loads no driver, no Docker client and nothing else that costs time: every pytest pays for it.
"""

from typing import TYPE_CHECKING

from taskiq_flow._lazy import lazy_names

from .kinds import ServerKind
from .model import SOURCES, Server, ServerSettings, ServerUnavailable

if TYPE_CHECKING:
    from .pool import ServerPool as ServerPool

__all__ = ["SOURCES", "Server", "ServerKind", "ServerPool", "ServerSettings", "ServerUnavailable"]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__, {"ServerPool": f"{__name__}.pool"})
