"""pyresilience: everything through one decorator."""

from importlib import import_module
from typing import Any

from benchmarks.policies.contestant import ATTEMPTS, LONG, SPARE, Contestant, Function, Sizes


class Pyresilience(Contestant):
    """Its sync timeout runs the call in a thread pool."""

    name = "pyresilience"
    package = "pyresilience"
    remarks = ("its sync timeout runs the call in a thread of a pool, and so interrupts the caller's wait",)

    def __init__(self) -> None:
        self.api = import_module("pyresilience")
        self.refusals = (self.api.ResilienceError,)

    def timeout(self, function: Function, sizes: Sizes) -> Function:
        return self._put(function, sizes, "timeout")

    def retry(self, function: Function, sizes: Sizes) -> Function:
        return self._put(function, sizes, "retry")

    def breaker(self, function: Function, sizes: Sizes) -> Function:
        return self._put(function, sizes, "circuit_breaker")

    def ratelimit(self, function: Function, sizes: Sizes) -> Function:
        return self._put(function, sizes, "rate_limiter")

    def bulkhead(self, function: Function, sizes: Sizes) -> Function:
        return self._put(function, sizes, "bulkhead")

    def fallback(self, function: Function, sizes: Sizes) -> Function:
        return self._put(function, sizes, "fallback")

    def cache(self, function: Function, sizes: Sizes) -> Function:
        return self._put(function, sizes, "cache")

    def two(self, function: Function, sizes: Sizes) -> Function:
        return self._put(function, sizes, "retry", "circuit_breaker")

    def four(self, function: Function, sizes: Sizes) -> Function:
        return self._put(function, sizes, "timeout", "retry", "circuit_breaker", "bulkhead")

    def five(self, function: Function, sizes: Sizes) -> Function:
        return self._put(function, sizes, "timeout", "retry", "circuit_breaker", "rate_limiter", "bulkhead")

    def _put(self, function: Function, sizes: Sizes, *parts: str) -> Function:
        api = self.api
        settings: dict[str, Any] = {
            "timeout": api.TimeoutConfig(seconds=sizes.seconds),
            "retry": api.RetryConfig(max_attempts=ATTEMPTS, delay=sizes.delay),
            "circuit_breaker": api.CircuitBreakerConfig(recovery_timeout=LONG),
            "rate_limiter": api.RateLimiterConfig(max_calls=sizes.rate, period=sizes.period),
            "bulkhead": api.BulkheadConfig(max_concurrent=sizes.slots),
            "fallback": api.FallbackConfig(handler=lambda error: SPARE),
            "cache": api.CacheConfig(),
        }
        decorated: Function = api.resilient(**{part: settings[part] for part in parts})(function)
        return decorated
