"""The generic cell rate algorithm (ITU-T I.371): a use is expected every 1 / rate seconds, and may come early.

The state is one time, the theoretical arrival time of the next use. A use may come ``limit`` intervals before the
next one is expected. It admits what a token bucket admits; the state is a time, which stores with an expiry like.
Each use rounds that time once: after a year of uptime an error of 4 ns.

Promise: in any interval of t seconds never more than rate * t + limit, and under saturation all of it.
"""

from math import inf

from holdfast.resilience.rates.meter import GRAIN, Meter, Terms


class Gcra(Meter):
    """See the module."""

    __slots__ = ("expected", "interval", "last", "shift", "tolerance")

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self.interval = 1 / terms.rate
        self.tolerance = terms.limit * self.interval + GRAIN
        self.expected = -inf
        # Marks are counted in intervals from ``shift`` on, so that they outlive other terms and clocks.
        self.last = -inf
        self.shift = 0.0

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
        wait = after - self.tolerance - now
        wait = wait + late if wait > 0 else 0.0
        if wait > patience:
            return wait + GRAIN, None
        due = now + self.tolerance
        mark = ((after if after > due else due) - self.shift) / self.interval
        self.seen = now
        self.expected = after
        if mark > self.last:
            self.last = mark
        return wait + GRAIN if wait else 0.0, mark

    def cancel(self, now: float, n: float, when: float, mark: float) -> float:
        later = self.last - mark
        back = n - later if later > 0 else n
        if back <= 0 or now > when + GRAIN:
            return 0.0
        self.expected -= back * self.interval
        if later == 0:
            self.last = mark - n
        return back

    def settle(self, now: float, mark: float | None, extra: float) -> None:
        if now < self.seen:
            now = self.seen
        expected = self.expected
        if expected < now:
            expected = now
        self.seen = now
        self.expected = expected + extra * self.interval

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
