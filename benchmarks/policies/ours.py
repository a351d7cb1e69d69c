"""Holdfast's side. A policy that is not there yet says so, and is measured as soon as it is."""

from importlib import import_module
from typing import Any

from benchmarks.policies.contestant import ATTEMPTS, LONG, SPARE, Absent, Contestant, Function, Sizes

import holdfast
from holdfast.core.context import remaining


class Holdfast(Contestant):
    """Pipelines of one policy, and of several."""

    name = "holdfast"
    package = "holdfast"
    interrupts = False
    refusals = (holdfast.Rejected,)
    remarks = ("its timeout cannot interrupt a sync call: it tells the call, and all that it calls, the deadline",)

    def remaining(self) -> float:
        return remaining()

    def nothing(self, function: Function, sizes: Sizes) -> Function:
        return _put(function)

    def timeout(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _timeout(sizes))

    def retry(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _retry(sizes))

    def breaker(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _breaker())

    def ratelimit(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _ratelimit(sizes))

    def bulkhead(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _bulkhead(sizes))

    def adaptive(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _landed("AdaptiveLimit")(initial=sizes.slots, maximum=sizes.slots))

    def throttle(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _landed("Throttle")())

    def fallback(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _landed("Fallback")(SPARE))

    def cache(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _landed("Cache")())

    def singleflight(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _landed("SingleFlight")())

    def hedge(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _landed("Hedge")())

    def fault(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _landed("Fault")(rate=sizes.share))

    def two(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _retry(sizes), _breaker())

    def four(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _timeout(sizes), _retry(sizes), _breaker(), _bulkhead(sizes))

    def five(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _timeout(sizes), _retry(sizes), _breaker(), _ratelimit(sizes), _bulkhead(sizes))


HOMES = {
    "Retry": "retry",
    "Breaker": "breaker",
    "RateLimit": "ratelimit",
    "Bulkhead": "bulkhead",
    "AdaptiveLimit": "adaptive",
    "Throttle": "throttle",
    "Fallback": "fallback",
    "Cache": "cache",
    "SingleFlight": "singleflight",
    "Hedge": "hedge",
    "Fault": "fault",
}
"""Where a policy is found that is not public yet."""


def _landed(name: str) -> Any:
    """A public name of Holdfast, or what is to become one. Raises ``Absent`` while there is neither."""
    found = getattr(holdfast, name, None)
    home = f"holdfast.resilience.{HOMES.get(name, name.lower())}"
    if found is None:
        try:
            found = getattr(import_module(home), name, None)
        except ModuleNotFoundError as error:
            if error.name != home:
                raise
    if found is None:
        raise Absent("has not landed yet")
    return found


def _put(function: Function, *policies: Any) -> Function:
    decorated: Function = _landed("Pipeline")("bench", *policies)(function)
    return decorated


def _timeout(sizes: Sizes) -> Any:
    return _landed("Timeout")(sizes.seconds)


def _retry(sizes: Sizes) -> Any:
    return _landed("Retry")(ATTEMPTS)


def _breaker() -> Any:
    return _landed("Breaker")(open=LONG, open_max=LONG)


def _ratelimit(sizes: Sizes) -> Any:
    return _landed("RateLimit")(f"{sizes.rate}/{sizes.unit[0]}", burst=sizes.rate)


def _bulkhead(sizes: Sizes) -> Any:
    return _landed("Bulkhead")(sizes.slots)
