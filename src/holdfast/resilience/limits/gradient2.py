"""Gradient2: compares what calls take now with what they took over a long time."""

from typing import Final

from holdfast.resilience.limits.sample import Limit, Sample

QUEUE: Final = 4.0
TOLERANCE: Final = 1.5
SMOOTHING: Final = 0.2
LONG_WINDOW: Final = 600
WARM_UP: Final = 10
"""Samples of which the long average is the plain mean."""
STEEPEST: Final = 0.5
"""No sample takes away more than this share of the limit, before smoothing."""
FALLEN_BY: Final = 2.0
"""A long average this many times the sample is left over from an overload ..."""
FORGET: Final = 0.95
"""... and is taken down by this factor for every sample."""


class LongAverage:
    """An exponential average over ``window`` samples, whose first ``warm_up`` ones count alike."""

    __slots__ = ("_count", "_factor", "_warm_up", "value")

    def __init__(self, window: int, warm_up: int = WARM_UP) -> None:
        self.value = 0.0
        self._count = 0
        self._warm_up = warm_up
        self._factor = 2.0 / (window + 1)

    def add(self, sample: float) -> float:
        """The average with ``sample`` in it."""
        if self._count < self._warm_up:
            self._count += 1
            self.value += (sample - self.value) / self._count
        else:
            self.value += (sample - self.value) * self._factor
        return self.value


class Gradient2(Limit):
    """Grows by ``queue`` while calls take at most ``tolerance`` times their long average, else shrinks with the ratio.

    It does not grow while less than half of it is in use. A long overload moves the average that it compares
    with: after some ``long_window`` samples the limit drifts away. Source: ``Gradient2Limit`` of Netflix
    concurrency-limits, except for ``minimum`` (20 there) and ``maximum`` (200 there).
    """

    def __init__(
        self,
        *,
        initial: float = 20,
        minimum: float = 1,
        maximum: float = 1000,
        tolerance: float = TOLERANCE,
        smoothing: float = SMOOTHING,
        queue: float = QUEUE,
        long_window: int = LONG_WINDOW,
    ) -> None:
        if not tolerance >= 1:
            raise ValueError(f"a tolerance is at least 1, not {tolerance!r}")
        if not 0 < smoothing <= 1:
            raise ValueError(f"a smoothing is above 0 and at most 1, not {smoothing!r}")
        super().__init__(initial=initial, minimum=minimum, maximum=maximum)
        self.tolerance = tolerance
        self.smoothing = smoothing
        self.queue = queue
        self.average = LongAverage(long_window)

    def _learn(self, sample: Sample) -> None:
        if sample.rtt <= 0:
            return
        average = self.average.add(sample.rtt)
        if average > FALLEN_BY * sample.rtt:
            self.average.value *= FORGET
        if sample.in_flight < self.limit / 2:
            return
        gradient = max(STEEPEST, min(1.0, self.tolerance * average / sample.rtt))
        wanted = self.limit * gradient + self.queue
        self.limit = self._within(self.limit + self.smoothing * (wanted - self.limit))
