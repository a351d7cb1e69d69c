"""A quantile of what was measured lately, exact and in bounded memory."""

from collections import deque
from itertools import chain
from math import ceil, nan
from typing import Final

BATCH: Final = 128
"""Values after which the quantile is worked out again."""
RUNS: Final = 8
"""Batches that are remembered, at most: 1024 values."""
CAPACITY: Final = BATCH * RUNS


class RecentQuantile:
    """The ``quantile`` of the last values, at most ``CAPACITY``, of batches that ended within ``window`` seconds.

    By nearest rank: the least value that is not below a share ``quantile`` of all (definition 1 of Hyndman and
    Fan, 1996). It is exact, as of the last full batch. A histogram would cost each value a logarithm; the P2
    algorithm of Jain and Chlamtac costs more, and never forgets. Here a value costs an ``append``, and a batch is
    merged with the sorted ones before it.

    ``batch`` takes the values, from any thread. Whoever finds ``BATCH`` of them there calls ``turn``, under a lock.
    """

    def __init__(self, quantile: float, window: float) -> None:
        self.quantile = quantile
        self.window = window
        self.batch: list[float] = []
        self.count = 0
        self.value = nan
        self._runs: deque[tuple[float, list[float]]] = deque(maxlen=RUNS)

    def turn(self, now: float) -> float:
        """The batch is full: take it in, forget what is too old, and work the quantile out. NaN without values."""
        full, self.batch = self.batch, []
        self._runs.append((now, sorted(full)))
        while self._runs and self._runs[0][0] <= now - self.window:
            self._runs.popleft()
        # Sorting what consists of sorted runs is merging them.
        values = sorted(chain.from_iterable(run for _, run in self._runs))
        self.count = len(values)
        self.value = values[ceil(self.quantile * self.count) - 1] if values else nan
        return self.value
