"""A rate that rises: after idle time uses come ``cold`` times as far apart, and close up while they go on.

For what must get warm itself: caches, connection pools, a service that has just started. It is SmoothWarmingUp of
Guava (SmoothRateLimiter.java, whose comment derives the figures): unused permits are stored, up to ``most``, and
above ``threshold`` a stored permit takes longer than a fresh one, the more of them the longer. From cold it takes
``warm_up`` seconds of use to get to the full rate, and as many idle ones to get cold again.

Uses are spaced as those of a leaky bucket are: a use of n may begin at once and is paid for by the next.

Promise: in any interval of t seconds never more than rate * t + the largest single use. With callers that wait,
once warm, all of rate * t under saturation.
"""

from math import inf

from holdfast.resilience.rates.meter import GRAIN, NEVER, Meter, Terms


class WarmUp(Meter):
    """See the module. The state is how much is stored, and the time at which the next use may begin."""

    __slots__ = ("cool", "free", "interval", "most", "shift", "slope", "stored", "threshold")

    bursts = False

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self.interval = 1 / terms.rate
        self.threshold = terms.warm_up / self.interval / 2
        above = 2 * terms.warm_up / (self.interval * (1 + terms.cold))
        self.most = self.threshold + above
        self.slope = self.interval * (terms.cold - 1) / above if above else 0.0
        # Seconds in which an idle meter stores one permit.
        self.cool = terms.warm_up / self.most if self.most else 1.0
        self.stored = self.most
        self.free = NEVER
        # Marks are counted in seconds from ``shift`` on, so that they outlive other clocks.
        self.shift = 0.0

    def take(self, now: float, n: float) -> bool:
        return self.reserve(now, n, 0.0)[1] is not None

    def reserve(self, now: float, n: float, patience: float) -> tuple[float, tuple[float, float] | None]:
        late = 0.0
        if now < self.seen:
            late = self.seen - now
            now = self.seen
        start = self.free
        if start == inf or not 0 <= n < inf:
            return inf, None
        wait = start - now + late if start > now else 0.0
        if wait > patience + GRAIN:
            return wait, None
        stored = self.stored
        if start < now:
            stored += (now - start) / self.cool
            if stored > self.most:
                stored = self.most
            start = now
        # The area under the curve of the interval, from what is stored now to what will be.
        used = n if n < stored else stored
        above = stored - self.threshold
        seconds = n * self.interval
        if above > 0:
            slow = used if used < above else above
            seconds += slow * (above + above - slow) * self.slope / 2
        after = start + seconds
        self.seen = now
        self.stored = stored - used
        self.free = after
        return wait if wait > GRAIN else 0.0, (after - self.shift, seconds)

    def cancel(self, now: float, n: float, when: float, mark: tuple[float, float]) -> float:
        """Only the last one in the line gives something back: its time, not what was stored."""
        at, seconds = mark
        if now > when + GRAIN or self.free > at + self.shift + GRAIN:
            return 0.0
        self.free -= seconds
        return n

    def settle(self, now: float, mark: tuple[float, float] | None, extra: float) -> float:
        """What cost less gives back the rest, at the full rate, unless somebody came after it."""
        if now < self.seen:
            now = self.seen
        start = self.free
        if extra < 0 and (mark is None or start > mark[0] + self.shift + GRAIN):
            return 0.0
        if start < now and extra > 0:
            start = now
        self.seen = now
        self.free = start + extra * self.interval
        return -extra

    def left(self, now: float) -> float:
        return 1.0 - self.reset(now) / self.interval

    def reset(self, now: float) -> float:
        if now < self.seen:
            now = self.seen
        ahead = self.free - now
        return ahead if ahead > 0 else 0.0

    def move(self, at: float, terms: Terms) -> None:
        """As cold as before, by its share of ``most``; what has begun is paid for at the old rate (as in Guava)."""
        self._become(at, WarmUp(terms))

    def _become(self, at: float, new: "WarmUp") -> None:
        if at < self.seen:
            at = self.seen
        stored = self.stored
        if self.free < at:
            stored += (at - self.free) / self.cool
            self.free = at
        self.stored = new.most * (1.0 if stored >= self.most else stored / self.most)
        self.seen = at
        self.interval = new.interval
        self.threshold = new.threshold
        self.most = new.most
        self.slope = new.slope
        self.cool = new.cool
        self.terms = new.terms

    def rewind(self, seconds: float) -> None:
        self.seen -= seconds
        self.free -= seconds
        self.shift -= seconds

    def retire(self, now: float) -> bool:
        if now < self.seen:
            now = self.seen
        if self.free <= now and self.stored + (now - self.free) / self.cool >= self.most:
            self.free = inf
            return True
        return False

    def close(self) -> None:
        self.free = inf
