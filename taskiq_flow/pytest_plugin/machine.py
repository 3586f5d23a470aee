"""Which machine this is, for telling whose process numbers and times of start are meant."""

import os
import socket
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["process_space", "this_boot", "uptime"]


def process_space() -> str:
    """Return what process numbers here are relative to: containers may share a host name."""
    with suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def this_boot() -> str:
    """Return what no other machine has, nor this one after it is started again; empty where a system does not tell.

    Machines may share a host name, too, and each of them calls its first space of process numbers the same.
    """
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def uptime() -> int:
    """Return the seconds since the machine was started; 0 where a system does not tell.

    No test freezes it, and who sets the machine's clock does not change it.
    """
    clock = getattr(time, "CLOCK_BOOTTIME", None)  # Linux
    return 0 if clock is None else int(time.clock_gettime(clock))
