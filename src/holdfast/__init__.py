"""Holdfast keeps Python services answering.

``import holdfast`` needs the standard library and msgspec, nothing else. The server, the supervisor and
the command line come with the extra ``holdfast[server]``.
"""

from holdfast.core.drain import Drain, current_drain
from holdfast.core.errors import (
    BootError,
    CallCancelled,
    ConfigError,
    DeadlineExceeded,
    Draining,
    HoldfastError,
    Rejected,
)
from holdfast.service.health import HealthReport
from holdfast.service.service import Service

__version__ = "0.1.0"

__all__ = [
    "Drain",
    "current_drain",
    "HoldfastError",
    "ConfigError",
    "BootError",
    "CallCancelled",
    "Rejected",
    "Draining",
    "DeadlineExceeded",
    "Service",
    "HealthReport",
]
