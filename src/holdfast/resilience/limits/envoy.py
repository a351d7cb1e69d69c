"""Envoy's gradient controller: measures an ideal latency from time to time, and compares every window with it."""

import random
from collections.abc import Callable
from math import sqrt
from typing import Final

from holdfast.resilience.limits.sample import Limit, Sample

BUFFER: Final = 0.25
INTERVAL: Final = 60.0
REQUESTS: Final = 50
JITTER: Final = 0.15
MINIMUM: Final = 3
FLATTEST, STEEPEST = 2.0, 0.5
"""No window changes the limit by more than these factors."""
WINDOWS_AT_MINIMUM: Final = 5
"""After so many windows at the minimum in a row the ideal latency is measured again: it must have been wrong."""


class Envoy(Limit):
    """``limit * gradient + sqrt(limit * gradient)``, where the gradient is ``ideal * (1 + buffer) / rtt``.

    The ideal latency is measured at the start, and every ``interval`` seconds plus up to ``jitter`` of it: the
    limit is lowered to ``minimum`` until ``requests`` calls that began after that have ended; then it comes back.
    That is exact, and costs throughput wherever more than ``minimum`` calls are needed to keep the server busy.
    Source: the adaptive concurrency filter of Envoy, gradient controller; it names no default for ``interval``,
    and takes a median where this takes the mean of a window. ``uniform`` gives numbers from 0 to 1: the jitter.
    """

    def __init__(
        self,
        *,
        initial: float = MINIMUM,
        minimum: float = MINIMUM,
        maximum: float = 1000,
        buffer: float = BUFFER,
        interval: float = INTERVAL,
        requests: int = REQUESTS,
        jitter: float = JITTER,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(initial=initial, minimum=minimum, maximum=maximum)
        self.buffer = buffer
        self.interval = interval
        self.requests = requests
        self.jitter = jitter
        self.ideal = 0.0
        self._uniform = uniform
        self._measuring = False
        self._epoch = 0.0
        self._before = self.limit
        self._next = 0.0
        self._count = 0
        self._sum = 0.0
        self._at_minimum = 0
        self._measure(-1.0)

    @property
    def measuring(self) -> bool:
        """Whether the ideal latency is being measured."""
        return self._measuring

    @property
    def next_measurement(self) -> float:
        """When the ideal latency is measured again, in the seconds of ``Sample.now``."""
        return self._next

    def _learn(self, sample: Sample) -> None:
        if not self._measuring and sample.now >= self._next:
            self._measure(sample.now - sample.seconds)
        if self._measuring:
            self._measured(sample)
        elif sample.rtt > 0:
            self._follow(sample)

    def _measure(self, now: float) -> None:
        self._measuring = True
        self._epoch = now
        self._before = self.limit
        self._count = 0
        self._sum = 0.0
        self._at_minimum = 0
        self.limit = self.minimum

    def _measured(self, sample: Sample) -> None:
        if sample.rtt <= 0 or sample.now - sample.seconds - sample.rtt < self._epoch:
            return  # calls from before, which did not run under ideal conditions
        self._count += sample.completed
        self._sum += sample.rtt * sample.completed
        if self._count >= self.requests:
            self.ideal = self._sum / self._count
            self._measuring = False
            self._next = sample.now + self.interval * (1 + self.jitter * self._uniform())
            self.limit = self._within(self._before)

    def _follow(self, sample: Sample) -> None:
        gradient = max(STEEPEST, min(FLATTEST, self.ideal * (1 + self.buffer) / sample.rtt))
        wanted = self.limit * gradient
        before, self.limit = self.limit, self._within(int(wanted + sqrt(wanted)))
        if before == self.limit == self.minimum:
            self._at_minimum += 1
            if self._at_minimum >= WINDOWS_AT_MINIMUM:
                self._measure(sample.now)
        else:
            self._at_minimum = 0
