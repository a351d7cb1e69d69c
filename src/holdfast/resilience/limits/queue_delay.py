"""The default: as many calls as the server can work on at once, and as many more as may wait for ``target`` seconds."""

from typing import Final

from holdfast.resilience.limits.sample import Limit, Sample

TARGET: Final = 0.05
TOLERANCE: Final = 0.6
"""The floor lets calls take this share longer than undisturbed ones: what keeps a server busy, and lets it grow."""
SETPOINT_TOLERANCE: Final = 0.4
SETPOINT_WAIT: Final = 0.2
"""At the set point calls take these shares longer: of the undisturbed latency, and of ``target``."""
FLOOR_AT_FIRST: Final = 0.5
"""The share of the limit that counts as its floor while nothing is known."""
WARM_UP: Final = 8
"""Windows of which the undisturbed latency is the plain mean."""
FALL, RISE = 0.1, 0.03
"""How fast the undisturbed latency follows quicker and slower windows; a slower one may have had a queue."""
LARGEST_STEP: Final = 2.0
"""No window changes the limit by more than this factor."""
PROBE_DEPTH: Final = 0.7
"""A probe takes the floor down to this share of what the server seems to work on at once."""
PROBE_LEAST: Final = 2.0
PROBE_SETTLES: Final = 2.0
"""A probe measures after so many round trips: calls from before it have ended by then."""
PROBE_TRUSTED: Final = 1.3
"""More calls in flight than the probe allowed, times this: they were not undisturbed."""
PROBE_AFTER: Final = 3
"""Busy windows before the first probe."""
PROBE_INTERVAL: Final = 10.0
PROBE_SHARE: Final = 30.0
"""The next probe is at least ``PROBE_INTERVAL`` seconds, and this many times the length of the last one, away ..."""
PROBE_AGAIN: Final = 0.5
"""... except when the last one found the latency below ``PROBE_FOUND`` of what it was taken for: then so many s."""
PROBE_FOUND: Final = 0.75
SMALL: Final = 0.25
"""An undisturbed latency below this share of ``target`` need not be known exactly, so it is not probed for."""
SHRUNK: Final = 0.6
"""A floor that has shrunk to this share without bringing the latency down calls for a probe."""
SHRUNK_WAIT: Final = 0.6


class QueueDelay(Limit):
    """Little's law: ``limit = capacity * (latency * (1 + TOLERANCE) + target)``.

    ``capacity`` is the throughput (calls a second) while there is more to do than can be done; ``latency`` what a
    call takes that does not have to wait. Both are only learned where they can be seen: the capacity in busy
    windows, the latency in quiet ones. The limit moves in busy windows only, and in one step to where it
    belongs, since with a queue the throughput does not depend on the limit.

    In an overload there are no quiet windows. So from time to time the floor is lowered for some round trips: what
    calls then take is their latency, whether they had been waiting or the server had become slower. It costs next
    to nothing where one call at a time is worked on, and 1 % of the throughput where many are.

    The model is that of TCP BBR (Cardwell and others, 2016: bottleneck bandwidth, round-trip propagation time, and
    a short probe of the latter), plus a queue of ``target`` seconds for bursts. It needs samples of windows.
    """

    def __init__(
        self, *, initial: float = 20, minimum: float = 1, maximum: float = 1000, target: float = TARGET
    ) -> None:
        super().__init__(initial=initial, minimum=minimum, maximum=maximum)
        self.target = target
        self.latency = 0.0
        self._floor = max(minimum, self.limit * FLOOR_AT_FIRST)
        self._windows = 0
        self._since_quiet = 0
        # The floor that was right when it was last seen to be; 0.0 as long as the latency is only a guess.
        self._proven = 0.0
        self._probe_began = 0.0
        self._probe_settled = 0.0
        self._probe_floor = 0.0
        self._next_probe = float("-inf")

    @property
    def floor(self) -> float:
        return min(self._floor, self.limit)

    @property
    def working(self) -> float:
        return 0.0 if self.probing else self.capacity * self.latency

    @property
    def setpoint(self) -> float:
        if self._probe_floor:
            return self._probe_floor
        if not self.capacity:
            return self.limit / 2
        wait = self.latency * (1 + SETPOINT_TOLERANCE) + self.target * SETPOINT_WAIT
        return max(PROBE_LEAST, self.capacity * wait)

    def bound(self, minimum: float, maximum: float) -> None:
        super().bound(minimum, maximum)
        self._floor = self._within(self._floor)

    def _learn(self, sample: Sample) -> None:
        if not sample.completed or sample.seconds <= 0:
            return
        self._windows += 1
        if self._windows <= WARM_UP:
            self.latency += (sample.rtt - self.latency) / self._windows
        if self.probing:
            if sample.now - sample.seconds >= self._probe_settled:
                self._end_probe(sample)
        elif self.busy:
            self._learn_busy(sample)
        elif sample.shedding:
            self._move()  # a higher capacity may have been seen
        else:
            self._learn_quiet(sample)

    def _learn_quiet(self, sample: Sample) -> None:
        self._since_quiet = 0
        if self._windows > WARM_UP:
            self._follow(sample.rtt)
            self._proven = self._proven or self._floor

    def _learn_busy(self, sample: Sample) -> None:
        self._since_quiet += 1
        if sample.rtt < self.latency and self._windows > WARM_UP:
            self._follow(sample.rtt)
        if self.busy > 1:
            self._move()
            if self._wants_probe(sample):
                self._begin_probe(sample)

    def _follow(self, rtt: float) -> None:
        self.latency += (rtt - self.latency) * (FALL if rtt < self.latency else RISE)

    def _move(self) -> None:
        busy = self.latency * (1 + TOLERANCE)
        # While the latency is a guess it may be a queue's, and a limit that grows makes the queue longer.
        most = LARGEST_STEP if self._proven else 1.0
        self._floor = self._step(self._floor, self.capacity * busy, most)
        self.limit = self._step(self.limit, self.capacity * (busy + self.target), most)

    def _step(self, old: float, wanted: float, most: float) -> float:
        return self._within(min(max(wanted, old / LARGEST_STEP), old * most))

    def _wants_probe(self, sample: Sample) -> bool:
        if self._since_quiet >= PROBE_AFTER and sample.now >= self._next_probe:
            return not self._proven or self.latency > SMALL * self.target
        explained = self.latency * (1 + TOLERANCE) + SHRUNK_WAIT * self.target
        return self._since_quiet > PROBE_AFTER and self._floor < SHRUNK * self._proven and sample.rtt > explained

    def _begin_probe(self, sample: Sample) -> None:
        self._probe_began = sample.now
        self._probe_settled = sample.now + PROBE_SETTLES * sample.rtt
        self.probing = True
        self._probe_floor = max(self.minimum, PROBE_LEAST, PROBE_DEPTH * self.capacity * self.latency)
        self._floor = self._within(self._probe_floor)
        self.limit = self._within(min(self.limit, self._probe_floor + self.capacity * self.target))

    def _end_probe(self, sample: Sample) -> None:
        before = self.latency
        undisturbed = sample.completed / sample.seconds * sample.rtt < PROBE_TRUSTED * self._probe_floor
        self.latency = sample.rtt if undisturbed else min(sample.rtt, before)
        took = sample.now - self._probe_began
        found = self.latency < PROBE_FOUND * before
        self._next_probe = sample.now + (PROBE_AGAIN if found else max(PROBE_INTERVAL, PROBE_SHARE * took))
        self._probe_floor = 0.0
        self.probing = False
        self._since_quiet = 0
        self._proven = self._floor
        self._move()
        self._proven = self._floor
