"""Vegas: from the fastest call that was seen it estimates how many calls wait, and keeps that between two marks."""

import random
from collections.abc import Callable
from math import ceil, log10
from typing import Final

from holdfast.resilience.limits.sample import Limit, Sample

ALPHA: Final = 3
"""With fewer calls waiting than this many times ``root(limit)`` the limit grows ..."""
BETA: Final = 6
"""... and with more than this many times it shrinks."""
PROBE: Final = 30
"""The fastest call is looked for anew after some ``PROBE * limit`` samples."""


def root(limit: float) -> int:
    """The step for a limit: its decimal logarithm, at least 1."""
    return max(1, int(log10(limit))) if limit >= 1 else 1


def one_step_less(limit: float) -> float:
    """``limit`` less one step."""
    return limit - root(limit)


class Vegas(Limit):
    """Steps up or down by ``log10(limit)``; quickly up while next to nothing waits.

    The calls that wait are estimated as ``limit * (1 - fastest / rtt)``. ``alpha`` and ``beta`` are numbers of
    waiting calls; by default they grow with the limit. ``decrease`` makes the next lower limit. The fastest call
    is looked for anew from time to time: in an overload that lasts, a slow call is then taken for a fast one.
    Source: ``VegasLimit`` of Netflix concurrency-limits. ``uniform`` gives numbers from 0 to 1: the jitter.
    """

    def __init__(
        self,
        *,
        initial: float = 20,
        minimum: float = 1,
        maximum: float = 1000,
        alpha: float | None = None,
        beta: float | None = None,
        smoothing: float = 1.0,
        decrease: Callable[[float], float] = one_step_less,
        probe: float = PROBE,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        if not 0 < smoothing <= 1:
            raise ValueError(f"a smoothing is above 0 and at most 1, not {smoothing!r}")
        super().__init__(initial=initial, minimum=minimum, maximum=maximum)
        self.alpha = alpha
        self.beta = beta
        self.smoothing = smoothing
        self.decrease = decrease
        self.probe = probe
        self.fastest = 0.0
        self._uniform = uniform
        self._jitter = self._next_jitter()
        self._seen = 0

    def _learn(self, sample: Sample) -> None:
        if sample.rtt <= 0:
            return
        self._seen += sample.completed
        if self._seen >= self._jitter * self.probe * self.limit:
            self._seen = 0
            self._jitter = self._next_jitter()
            self.fastest = sample.rtt
        elif self.fastest == 0 or sample.rtt < self.fastest:
            self.fastest = sample.rtt
        else:
            wanted = self._within(self._wanted(sample))
            self.limit += self.smoothing * (wanted - self.limit)

    def _wanted(self, sample: Sample) -> float:
        limit = self.limit
        if sample.dropped:
            return self.decrease(limit)
        if sample.in_flight * 2 < limit:
            return limit
        step = root(limit)
        alpha = ALPHA * step if self.alpha is None else self.alpha
        beta = BETA * step if self.beta is None else self.beta
        waiting = ceil(limit * (1 - self.fastest / sample.rtt))
        if waiting <= step:
            return limit + beta
        if waiting < alpha:
            return limit + step
        if waiting > beta:
            return self.decrease(limit)
        return limit

    def _next_jitter(self) -> float:
        return 0.5 + self._uniform() / 2
