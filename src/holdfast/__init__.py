"""Holdfast keeps Python services answering.

``import holdfast`` needs the standard library and msgspec, nothing else. The server, the supervisor and
the command line come with the extra ``holdfast[server]``. Names are loaded when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.core.classify import Classifier
    from holdfast.core.codes import Code
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
    from holdfast.core.failure import ServiceError
    from holdfast.core.pipeline import Pipeline
    from holdfast.resilience.adaptive import AdaptiveLimit
    from holdfast.resilience.breaker import Breaker
    from holdfast.resilience.bulkhead import Bulkhead
    from holdfast.resilience.cache import Cache
    from holdfast.resilience.fallback import Fallback
    from holdfast.resilience.fault import Fault
    from holdfast.resilience.hedge import Hedge
    from holdfast.resilience.ratelimit import RateLimit
    from holdfast.resilience.retry import Retry
    from holdfast.resilience.retrying.budget import RetryBudget
    from holdfast.resilience.singleflight import SingleFlight
    from holdfast.resilience.throttle import Throttle
    from holdfast.resilience.timeout import Timeout
    from holdfast.service.health import HealthReport
    from holdfast.service.marks import route
    from holdfast.service.service import Service

__version__ = "0.1.0"

__all__ = [
    "Pipeline",
    "Classifier",
    "Timeout",
    "Retry",
    "RetryBudget",
    "Breaker",
    "Throttle",
    "RateLimit",
    "Bulkhead",
    "AdaptiveLimit",
    "Hedge",
    "Fallback",
    "Cache",
    "SingleFlight",
    "Fault",
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
    "Code",
    "ServiceError",
    "Service",
    "route",
    "HealthReport",
    "Drain",
    "current_drain",
]

_HOMES = {
    "core.classify": ("Classifier",),
    "core.codes": ("Code",),
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
    "core.failure": ("ServiceError",),
    "core.pipeline": ("Pipeline",),
    "resilience.adaptive": ("AdaptiveLimit",),
    "resilience.breaker": ("Breaker",),
    "resilience.retrying.budget": ("RetryBudget",),
    "resilience.bulkhead": ("Bulkhead",),
    "resilience.cache": ("Cache",),
    "resilience.fallback": ("Fallback",),
    "resilience.fault": ("Fault",),
    "resilience.hedge": ("Hedge",),
    "resilience.ratelimit": ("RateLimit",),
    "resilience.retry": ("Retry",),
    "resilience.singleflight": ("SingleFlight",),
    "resilience.throttle": ("Throttle",),
    "resilience.timeout": ("Timeout",),
    "service.health": ("HealthReport",),
    "service.marks": ("route",),
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
    return sorted({*globals(), *__all__})
