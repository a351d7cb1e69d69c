"""The leaky bucket as a queue: what is used leaves one by one, 1 / rate seconds apart, however it comes.

It has no burst, so it wants callers that wait: without ``max_wait`` whoever comes early is refused. A use of n
may begin at once when nothing is before it, and keeps the line closed for n / rate seconds.

Promise: in any interval of t seconds never more than rate * t + the largest single use. With callers that wait,
all of rate * t under saturation.
"""

from math import inf

from holdfast.resilience.rates.meter import GRAIN, NEVER, Meter, Terms


class LeakyBucket(Meter):
    """See the module. The state is the time at which the next use may begin."""

    __slots__ = ("free", "interval", "last", "shift")

    bursts = False

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self.interval = 1 / terms.rate
        self.free = NEVER
        # When the last one in the line begins.
        self.last = NEVER
        # Marks are counted in intervals from ``shift`` on, so that they outlive other terms and clocks.
        self.shift = 0.0

    def take(self, now: float, n: float) -> bool:
        if now < self.seen:
            now = self.seen
        start = self.free
        if start < now:
            start = now
        if start <= now + GRAIN and 0 <= n < inf:
            self.seen = now
            self.free = start + n * self.interval
            return True
        return False

    def reserve(self, now: float, n: float, patience: float) -> tuple[float, float | None]:
        late = 0.0
        if now < self.seen:
            late = self.seen - now
            now = self.seen
        start = self.free
        if start == inf or not 0 <= n < inf:
            return inf, None
        if start < now:
            start = now
        wait = start - now
        if wait > 0:
            wait += late
        if wait > patience + GRAIN:
            return wait, None
        after = start + n * self.interval
        self.seen = now
        self.free = after
        self.last = start
        return wait if wait > GRAIN else 0.0, (after - self.shift) / self.interval

    def cancel(self, now: float, n: float, when: float, mark: float) -> float:
        """Only the last one in the line gives something back: others would have to come out of their order."""
        if now > when + GRAIN or self.free > mark * self.interval + self.shift + GRAIN:
            return 0.0
        self.free -= n * self.interval
        return n

    def settle(self, now: float, mark: float | None, extra: float) -> float:
        """A use that cost less gives back the rest unless somebody came after it: uses stay in their order."""
        if now < self.seen:
            now = self.seen
        start = self.free
        if extra < 0 and (mark is None or start > mark * self.interval + self.shift + GRAIN):
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
        if at < self.seen:
            at = self.seen
        interval = 1 / terms.rate
        before = self.free
        after = begin = self.last if at < self.last < before else at
        if before > begin:
            # Those in the line keep their times, and nobody goes before them. What lies behind leaves at the new rate.
            after = begin + (before - begin) / self.interval * interval
        self.shift = at - (at - self.shift) / self.interval * interval
        self.free = after
        self.seen = at
        self.interval = interval
        self.terms = terms

    def rewind(self, seconds: float) -> None:
        self.seen -= seconds
        self.free -= seconds
        self.last -= seconds
        self.shift -= seconds

    def retire(self, now: float) -> bool:
        if now < self.seen:
            now = self.seen
        if self.free <= now:
            self.free = inf
            return True
        return False

    def close(self) -> None:
        self.free = inf
