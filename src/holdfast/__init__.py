"""Holdfast keeps Python services answering.

``import holdfast`` needs the standard library and msgspec, nothing else. The server, the supervisor and
the command line come with the extra ``holdfast[server]``. Names are loaded when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.core.classify import Classifier
    from holdfast.core.drain import Drain, current_drain
    from holdfast.core.errors import (
        BootError,
        BulkheadFull,
        CallCancelled,
        CircuitOpen,
        ConfigError,
        DeadlineExceeded,
        Draining,
        FaultInjected,
        HoldfastError,
        Overloaded,
        RateLimited,
        Rejected,
    )
    from holdfast.core.pipeline import Pipeline
    from holdfast.resilience.timeout import Timeout
    from holdfast.service.health import HealthReport
    from holdfast.service.service import Service

__version__ = "0.1.0"

__all__ = [
    "Pipeline",
    "Classifier",
    "Timeout",
    "HoldfastError",
    "ConfigError",
    "BootError",
    "CallCancelled",
    "FaultInjected",
    "Rejected",
    "Draining",
    "DeadlineExceeded",
    "CircuitOpen",
    "RateLimited",
    "BulkheadFull",
    "Overloaded",
    "Service",
    "HealthReport",
    "Drain",
    "current_drain",
]

_HOMES = {
    "core.classify": ("Classifier",),
    "core.drain": ("Drain", "current_drain"),
    "core.errors": (
        "BootError",
        "BulkheadFull",
        "CallCancelled",
        "CircuitOpen",
        "ConfigError",
        "DeadlineExceeded",
        "Draining",
        "FaultInjected",
        "HoldfastError",
        "Overloaded",
        "RateLimited",
        "Rejected",
    ),
    "core.pipeline": ("Pipeline",),
    "resilience.timeout": ("Timeout",),
    "service.health": ("HealthReport",),
    "service.service": ("Service",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"holdfast.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
