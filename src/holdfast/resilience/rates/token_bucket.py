"""The token bucket: ``limit`` tokens at first, ``rate`` new ones a second, never more than ``limit``.

The state is one number. Time is counted in tokens: by the time ``now`` the clock has earned ``now * rate`` of them,
and ``spent`` of those are gone, used or spilt. What is left is the difference, so a use is one addition, and what
floats lose does not add up. Folly's and Envoy's buckets do the same on the axis of time.

Promise: in any interval of t seconds never more than rate * t + limit, and under saturation all of it.
"""

from math import inf

from holdfast.resilience.rates.meter import GRAIN, WHOLE, Meter, Terms


class TokenBucket(Meter):
    """See the module. Reservations go into debt: ``left`` is negative until they are due."""

    __slots__ = ("last", "rate", "shift", "size", "spent")

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self.rate = terms.rate
        self.size = terms.limit + terms.rate * GRAIN
        self.spent = -inf
        # When reservations are due, as marks: what the clock will have earned then. ``last`` is the latest of them;
        # ``shift`` is how far other rates or clocks have moved the axis, so that marks outlive them.
        self.last = -inf
        self.shift = 0.0

    def take(self, now: float, n: float) -> bool:
        # RateLimit.enter is this once more, without the call.
        if now < self.seen:
            now = self.seen
        earned = now * self.rate
        spent = self.spent
        floor = earned - self.size
        if spent < floor:
            spent = floor
        after = spent + n
        if after <= earned and after >= spent:
            self.seen = now
            self.spent = after
            return True
        return False

    def reserve(self, now: float, n: float, patience: float) -> tuple[float, float | None]:
        late = 0.0
        if now < self.seen:
            late = self.seen - now
            now = self.seen
        earned = now * self.rate
        spent = self.spent
        floor = earned - self.size
        if spent < floor:
            spent = floor
        after = spent + n
        if not 0 <= n <= self.terms.limit or spent == inf:
            return inf, None
        if after <= earned:
            wait = 0.0
        elif self.rate > 0:
            wait = (after - earned) / self.rate + late
        else:
            return inf, None
        if wait > patience:
            return wait + GRAIN, None
        mark = (after if after > earned else earned) - self.shift
        self.seen = now
        self.spent = after
        if mark > self.last:
            self.last = mark
        return wait + GRAIN if wait else 0.0, mark

    def cancel(self, now: float, n: float, when: float, mark: float) -> float:
        later = self.last - mark
        back = n - later if later > 0 else n
        if back <= 0 or now > when + GRAIN:
            return 0.0
        self.spent -= back
        if later == 0:
            self.last = mark - n
        return back

    def settle(self, now: float, mark: float | None, extra: float) -> None:
        if now < self.seen:
            now = self.seen
        floor = now * self.rate - self.size
        spent = self.spent
        if spent < floor:
            spent = floor
        self.seen = now
        self.spent = spent + extra

    def left(self, now: float) -> float:
        if now < self.seen:
            now = self.seen
        left = now * self.rate - self.spent
        return left if left < self.terms.limit else self.terms.limit

    def reset(self, now: float) -> float:
        missing = self.terms.limit - self.left(now)
        if missing <= 0:
            return 0.0
        return missing / self.rate if self.rate > 0 else inf

    def short(self, now: float, n: float) -> tuple[float, dict[str, float]]:
        # The same as everywhere, in one go: refusals have to be cheap.
        late = 0.0
        if now < self.seen:
            late = self.seen - now
            now = self.seen
        terms = self.terms
        rate = self.rate
        left = now * rate - self.spent
        if left > terms.limit:
            left = terms.limit
        wait = (n - left) / rate + late + GRAIN if 0 <= n <= terms.limit and rate > 0 else inf
        return wait, quota(terms, left)

    def move(self, at: float, terms: Terms) -> None:
        size = terms.limit + terms.rate * GRAIN
        if at < self.seen:
            at = self.seen
        earned = at * self.rate
        left = earned - self.spent
        if left > self.size:
            left = self.size
        if left > size:
            left = size
        self.shift += at * terms.rate - earned
        self.seen = at
        self.rate = terms.rate
        self.size = size
        self.spent = at * terms.rate - left
        self.terms = terms

    def rewind(self, seconds: float) -> None:
        back = seconds * self.rate
        self.seen -= seconds
        self.spent -= back
        self.shift -= back

    def retire(self, now: float) -> bool:
        if now < self.seen:
            now = self.seen
        if self.spent <= now * self.rate - self.terms.limit:
            self.spent = inf
            return True
        return False

    def close(self) -> None:
        self.spent = inf


def quota(terms: Terms, left: float) -> dict[str, float]:
    """What a refusal tells of a bucket in which ``left`` are left."""
    return {
        "limit": terms.limit,
        "remaining": int(left + WHOLE) if left + WHOLE >= 1 else 0,
        "reset": (terms.limit - left) / terms.rate if terms.rate > 0 else inf,
        "period": terms.period,
    }
