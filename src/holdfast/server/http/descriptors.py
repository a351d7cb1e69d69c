"""How many connections the process's limit of descriptors leaves room for."""

import sys
from typing import Final

if sys.platform != "win32":
    import resource  # at once: later the app's directory comes first, and may have a module of that name

RESERVED: Final = 64
"""Descriptors kept free for the app's own files."""
MOST: Final = 65536
"""Where the system names no limit."""


def most_connections() -> int:
    """At least 1."""
    if sys.platform == "win32":
        return MOST
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST
    return max(1, min(MOST, soft - RESERVED))
