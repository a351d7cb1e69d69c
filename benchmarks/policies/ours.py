"""Holdfast's side."""

from typing import Any

from benchmarks.policies.contestant import ATTEMPTS, LONG, SPARE, Contestant, Function, Sizes

import holdfast
from holdfast.core.context import remaining


class Holdfast(Contestant):
    """Pipelines of one policy, and of several."""

    name = "holdfast"
    package = "holdfast"
    interrupts = False
    refusals = (holdfast.Rejected,)
    remarks = ("its timeout cannot interrupt a sync call: it tells the call, and all that it calls, the deadline",)

    def __init__(self) -> None:
        self._hedges: list[Any] = []

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
        return _put(function, _adaptive(sizes))

    def throttle(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, holdfast.Throttle())

    def fallback(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, holdfast.Fallback(SPARE))

    def cache(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, holdfast.Cache())

    def singleflight(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, holdfast.SingleFlight())

    def hedge(self, function: Function, sizes: Sizes) -> Function:
        hedge = holdfast.Hedge()
        self._hedges.append(hedge)
        return _put(function, hedge)

    def fault(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, holdfast.Fault(rate=sizes.share))

    def two(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _retry(sizes), _breaker())

    def four(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _timeout(sizes), _retry(sizes), _breaker(), _bulkhead(sizes))

    def five(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _timeout(sizes), _retry(sizes), _breaker(), _ratelimit(sizes), _bulkhead(sizes))

    def but_breaker(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _timeout(sizes), _retry(sizes), _ratelimit(sizes), _bulkhead(sizes))

    def but_bulkhead(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _timeout(sizes), _retry(sizes), _breaker(), _ratelimit(sizes))

    def five_adaptive(self, function: Function, sizes: Sizes) -> Function:
        return _put(function, _timeout(sizes), _retry(sizes), _breaker(), _ratelimit(sizes), _adaptive(sizes))

    def close(self) -> None:
        for hedge in self._hedges:
            hedge.close()


def _put(function: Function, *policies: Any) -> Function:
    decorated: Function = holdfast.Pipeline("bench", *policies)(function)
    return decorated


def _timeout(sizes: Sizes) -> Any:
    return holdfast.Timeout(sizes.seconds)


def _retry(sizes: Sizes) -> Any:
    return holdfast.Retry(ATTEMPTS)


def _breaker() -> Any:
    return holdfast.Breaker(open=LONG, open_max=LONG)


def _ratelimit(sizes: Sizes) -> Any:
    return holdfast.RateLimit(f"{sizes.rate}/{sizes.unit[0]}", burst=sizes.rate)


def _bulkhead(sizes: Sizes) -> Any:
    return holdfast.Bulkhead(sizes.slots)


def _adaptive(sizes: Sizes) -> Any:
    return holdfast.AdaptiveLimit(initial=sizes.slots, maximum=sizes.slots)
