"""The shedder of Kratos and go-zero: most calls a second times fastest latency, while the processor is hot."""

from collections import deque
from math import ceil, floor
from typing import Final, Self

from holdfast.resilience.limits.sample import Limit, Sample

GRAIN: Final = 0.001
"""The sources count latencies in whole milliseconds, rounded up."""
COOL_OFF: Final = 1.0
"""Seconds for which the limit holds after the processor was last hot."""
CPU_KEEP: Final = 0.95
"""What the average of the processor's use keeps of its old value in each ``cpu_interval``."""
LEAST_SHARE: Final = 0.1
"""However hot the processor is, this share of the limit stays."""


class Bbr(Limit):
    """``most calls in a bucket * fastest mean latency of a bucket / seconds of a bucket``: what the server held.

    It applies while the process uses more than ``threshold`` of its processor, and for ``COOL_OFF`` seconds
    after; at other times ``limit`` is ``maximum``. The average of the processor's use needs seconds to rise, and
    what queues up meanwhile is its weakness. One sample is one of ``buckets`` buckets, which together make the
    window; the current one does not count. Source: ``ratelimit/bbr`` of go-kratos/aegis, whose defaults these
    are; ``Bbr.go_zero`` has those of ``core/load`` of zeromicro/go-zero.
    """

    needs_cpu = True

    def __init__(
        self,
        *,
        initial: float = 20,
        minimum: float = 1,
        maximum: float = 1000,
        threshold: float = 0.8,
        buckets: int = 100,
        cpu_interval: float = 0.5,
        scaled: bool = False,
    ) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"a threshold is above 0 and below 1, not {threshold!r}")
        super().__init__(initial=maximum, minimum=minimum, maximum=maximum)
        self.threshold = threshold
        self.scaled = scaled
        self.cpu = 0.0
        self._cpu_interval = cpu_interval
        self._buckets: deque[tuple[int, float, float]] = deque(maxlen=buckets)
        self._hot_until = float("-inf")

    @classmethod
    def go_zero(cls, *, initial: float = 20, minimum: float = 1, maximum: float = 1000) -> Self:
        """As go-zero has it: hot at 90 %, a window of 5 s, and a limit that shrinks with what is left of the CPU."""
        return cls(
            initial=initial,
            minimum=minimum,
            maximum=maximum,
            threshold=0.9,
            buckets=50,
            cpu_interval=0.25,
            scaled=True,
        )

    @property
    def floor(self) -> float:
        return self.limit

    @property
    def setpoint(self) -> float:
        return self.limit

    @property
    def held(self) -> int:
        """The calls that the server held at its best, rounded; at least 1."""
        whole = list(self._buckets)[:-1]
        if not whole:
            return 1
        most = max(count / seconds for count, _, seconds in whole)
        fastest = min(ceil(round(rtt / GRAIN, 9)) * GRAIN for _, rtt, _ in whole)
        return max(1, floor(most * fastest + 0.5))

    def _learn(self, sample: Sample) -> None:
        if sample.completed and sample.seconds > 0:
            self._buckets.append((sample.completed, sample.rtt, sample.seconds))
        if sample.cpu >= 0:
            kept = CPU_KEEP ** (sample.seconds / self._cpu_interval)
            self.cpu = self.cpu * kept + min(sample.cpu, 1.0) * (1 - kept)
        if self.cpu >= self.threshold:
            self._hot_until = sample.now + COOL_OFF
        if sample.now > self._hot_until or not self._buckets:
            self.limit = self.maximum
            return
        share = 1.0
        if self.scaled:
            share = min(max((1 - self.cpu) / (1 - self.threshold), LEAST_SHARE), 1.0)
        self.limit = self._within(max(1.0, self.held * share))
