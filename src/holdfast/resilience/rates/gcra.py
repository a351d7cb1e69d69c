"""The generic cell rate algorithm (ITU-T I.371): a use is expected every 1 / rate seconds, and may come early.

The state is one time, the theoretical arrival time of the next use. A use may come ``limit`` intervals before the
next one is expected. It admits what a token bucket admits; the state is a time, which stores with an expiry like.
Each use rounds that time once: after a year of uptime an error of 4 ns.

Promise: in any interval of t seconds never more than rate * t + limit, and under saturation all of it.
"""

from math import inf

from holdfast.resilience.rates.meter import GRAIN, NEVER, WHOLE, MovingMeter, Terms


class Gcra(MovingMeter):
    """See the module."""

    __slots__ = ("expected", "interval", "last", "peak", "refunded", "shift", "tolerance")

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self.interval = 1 / terms.rate
        self.tolerance = terms.limit * self.interval + GRAIN
        self.expected = NEVER
        # What has been reserved keeps its time, see TokenBucket; here marks are counted in intervals.
        self.last = NEVER
        self.shift = 0.0
        self.peak = NEVER
        self.refunded = False

    def take(self, now: float, n: float) -> bool:
        if now < self.seen:
            now = self.seen
        expected = self.expected
        if expected < now:
            expected = now
        after = expected + n * self.interval
        if after <= now + self.tolerance and after >= expected:
            self.seen = now
            self.expected = after
            return True
        return False

    def reserve(self, now: float, n: float, patience: float) -> tuple[float, float | None]:
        late = 0.0
        if now < self.seen:
            late = self.seen - now
            now = self.seen
        expected = self.expected
        if expected < now:
            expected = now
        after = expected + n * self.interval
        if not 0 <= n <= self.terms.limit or expected == inf:
            return inf, None
        axis = (now + self.tolerance - self.shift) / self.interval
        mark = (after - self.shift) / self.interval if after > now + self.tolerance else axis
        last = peak = NEVER
        refunded = False
        if self.last > axis:
            # Others have reserved: whoever comes now is not before them, also where something was given back.
            last = self.last
            peak = self.peak
            refunded = self.refunded
            if mark < last:
                mark = last
        wait = 0.0
        if mark > axis:
            wait = (mark - axis) * self.interval + late
            if wait > patience:
                return wait + GRAIN, None
            wait += GRAIN
        elif patience < 0:
            return 0.0, None
        self.seen = now
        self.expected = after
        self.last = mark
        self.peak = n if mark > last and n > peak else peak
        self.refunded = refunded
        return wait, mark

    def join(self, now: float, n: float, patience: float) -> tuple[float, bool]:
        late = 0.0
        if now < self.seen:
            late = self.seen - now
            now = self.seen
        expected = self.expected
        if expected < now:
            expected = now
        after = expected + n * self.interval
        if not 0 <= n <= self.terms.limit or expected == inf:
            return inf, False
        wait = after - self.tolerance - now
        wait = wait + late + GRAIN if wait > 0 else 0.0
        if wait - GRAIN > patience:
            return wait, False
        self.seen = now
        self.expected = after
        return wait, True

    def leave(self, n: float) -> None:
        self.expected -= n * self.interval

    def cancel(self, now: float, n: float, when: float, mark: float) -> float:
        behind = self.last - mark
        back = n - behind if behind > 0 else n
        if self.refunded:
            room = self.terms.limit - self.peak
            if back > room:
                back = room
        if back <= 0 or now > when + GRAIN:
            return 0.0
        if behind == 0 and (self.expected - self.shift) / self.interval > mark - WHOLE:
            self.last = mark - n
        self.expected -= back * self.interval
        self.peak += back
        return back

    def settle(self, now: float, mark: float | None, extra: float) -> float:
        if now < self.seen:
            now = self.seen
        expected = self.expected
        if expected < now:
            expected = now
        axis = (now + self.tolerance - self.shift) / self.interval
        if extra < 0 and self.last > axis:
            # Those that have reserved keep their times. What would be more than the limit until then is lost.
            room = self.terms.limit - self.peak
            if extra < -room:
                extra = -room if room > 0 else 0.0
            self.peak -= extra
            self.refunded = True
        self.seen = now
        self.expected = expected + extra * self.interval
        return -extra

    def left(self, now: float) -> float:
        if now < self.seen:
            now = self.seen
        ahead = self.expected - now
        return self.terms.limit - ahead / self.interval if ahead > 0 else self.terms.limit

    def reset(self, now: float) -> float:
        if now < self.seen:
            now = self.seen
        ahead = self.expected - now
        return ahead if ahead > 0 else 0.0

    def move(self, at: float, terms: Terms) -> None:
        if at < self.seen:
            at = self.seen
        interval = 1 / terms.rate
        tolerance = terms.limit * interval + GRAIN
        ahead = self.expected - at
        left = self.terms.limit - ahead / self.interval if ahead > 0 else self.terms.limit
        if left > terms.limit:
            left = terms.limit
        self.shift = at + tolerance - (at + self.tolerance - self.shift) / self.interval * interval
        self.seen = at
        self.interval = interval
        self.tolerance = tolerance
        self.expected = at + (terms.limit - left) * interval
        self.terms = terms

    def rewind(self, seconds: float) -> None:
        self.seen -= seconds
        self.expected -= seconds
        self.shift -= seconds

    def retire(self, now: float) -> bool:
        if now < self.seen:
            now = self.seen
        if self.expected <= now:
            self.expected = inf
            return True
        return False

    def close(self) -> None:
        self.expected = inf
