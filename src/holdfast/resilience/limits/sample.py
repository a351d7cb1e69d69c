"""What an algorithm is told, and what it answers: a sample in, a limit out."""

from abc import ABC, abstractmethod
from typing import Final

import msgspec

BUSY: Final = 0.8
"""This share of the set point under way means that there is always work to do."""
CAPACITY_FALL: Final = 0.2
"""How fast the capacity follows a busy window with a lower throughput; one with a higher throughput counts at once."""


class Sample(msgspec.Struct, frozen=True):
    """What was seen of one call, or of all the calls that ended in one window.

    ``now`` is monotonic seconds at the end of the window, ``rtt`` the mean time (seconds) that the calls took,
    ``in_flight`` how many were under way: the limit if it was reached, else the mean. ``dropped``: at least one
    came too late. ``completed`` calls ended in ``seconds``; ``refused`` found the limit reached. ``cpu`` is the share
    of one processor that the process used, 0.0 to 1.0, or -1.0 when unknown. ``shedding``: calls are being kept away
    before they reach the limit, so that a quiet window says nothing about the load.
    """

    now: float
    rtt: float
    in_flight: int
    dropped: bool = False
    completed: int = 1
    refused: int = 0
    seconds: float = 0.0
    cpu: float = -1.0
    shedding: bool = False


class Limit(ABC):
    """How many calls may be under way at once. Not thread-safe: whoever owns it sees to that.

    ``limit`` always lies between ``minimum`` and ``maximum``. ``capacity`` is the throughput (calls a second) that
    was reached when there was more to do than could be done, 0.0 while unknown; ``busy`` how many windows in a row
    that has been so. Nothing here reads a clock or waits.
    """

    needs_cpu = False
    """Whether ``Sample.cpu`` has to be filled in."""
    probing = False
    """Whether the limit is held low for a moment: all but the most critical calls are to keep to ``floor``."""

    def __init__(self, *, initial: float, minimum: float, maximum: float) -> None:
        if not 1 <= minimum <= maximum:
            raise ValueError(f"a limit needs 1 <= minimum <= maximum, not {minimum!r} and {maximum!r}")
        self.minimum = minimum
        self.maximum = maximum
        self.limit = min(max(initial, minimum), maximum)
        self.capacity = 0.0
        self.busy = 0

    @property
    def floor(self) -> float:
        """The part of ``limit`` that keeps the server busy; what is above it is a queue. Half of it, unless known."""
        return self.limit / 2

    @property
    def working(self) -> float:
        """How many calls are under way when the server is busy and none waits; 0.0 unless known."""
        return 0.0

    @property
    def setpoint(self) -> float:
        """The mean number of calls under way at which the server is busy and the queue is short."""
        return self.limit / 2

    def update(self, sample: Sample) -> None:
        """Learn from ``sample``, and change ``limit``."""
        if sample.completed and sample.seconds > 0:
            self._see_capacity(sample)
        self._learn(sample)

    @abstractmethod
    def _learn(self, sample: Sample) -> None:
        """What the algorithm makes of ``sample``."""

    def _see_capacity(self, sample: Sample) -> None:
        throughput = sample.completed / sample.seconds
        in_flight = throughput * sample.rtt  # Little's law: the mean number under way
        self.busy = self.busy + 1 if sample.refused or in_flight >= BUSY * self.setpoint else 0
        # What was done can be done. Less says something only where there was more to do: not in the first busy
        # window, which was partly a quiet one, and not while the limit itself is held low.
        if throughput > self.capacity:
            self.capacity = throughput
        elif self.busy > 1 and not self.probing:
            self.capacity += CAPACITY_FALL * (throughput - self.capacity)

    def bound(self, minimum: float, maximum: float) -> None:
        """New bounds, which hold at once. What was learned stays."""
        self.minimum = minimum
        self.maximum = maximum
        self.limit = self._within(self.limit)

    def _within(self, value: float) -> float:
        return min(max(value, self.minimum), self.maximum)
