"""The token bucket: ``limit`` tokens at first, ``rate`` new ones a second, never more than ``limit``.

The state is one number. Time is counted in tokens: by the time ``now`` the clock has earned ``now * rate`` of them,
and ``spent`` of those are gone, used or spilt. What is left is the difference, so a use is one addition, and what
floats lose does not add up. Folly's and Envoy's buckets do the same on the axis of time.

Promise: in any interval of t seconds never more than rate * t + limit, and under saturation all of it.
"""

from math import inf
from typing import Any, Final

from holdfast.resilience.rates.meter import GRAIN, NEVER, WHOLE, MovingMeter, Terms

ROUNDING: Final = 4e-16
"""Of the largest number in a sum, what it may be wrong by: a full bucket gives all that it has, however slow or old."""


class TokenBucket(MovingMeter):
    """See the module. Reservations go into debt: ``left`` is negative until they are due."""

    __slots__ = ("last", "peak", "rate", "refunded", "shift", "size", "spent")

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self.rate = terms.rate
        self.size = terms.limit + terms.rate * GRAIN
        self.spent = NEVER
        # What has been reserved keeps its time. Times are marks: what the clock will have earned by then, without
        # ``shift``, by which other rates and clocks have moved that axis. ``last`` is the latest one.
        self.last = NEVER
        self.shift = 0.0
        # What is given back while others are still to come must not make more of the bucket than its size when they
        # act: the rest is spilt. ``peak`` is the most that can be left just before one of them acts; without a list
        # of them it falls only when all of them have acted.
        self.peak = NEVER
        self.refunded = False

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
        if after <= earned + ROUNDING * (earned + self.size) and after >= spent:
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
        axis = earned - self.shift
        mark = after - self.shift if after > earned + ROUNDING * (earned + self.size) else axis
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
            if self.rate <= 0:
                return inf, None
            wait = (mark - axis) / self.rate + late
            if wait > patience:
                return wait + GRAIN, None
            wait += GRAIN
        elif patience < 0:
            return 0.0, None
        self.seen = now
        self.spent = after
        self.last = mark
        self.peak = n if mark > last and n > peak else peak
        self.refunded = refunded
        return wait, mark

    def join(self, now: float, n: float, patience: float) -> tuple[float, bool]:
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
        if not 0 <= n <= self.terms.limit or spent == inf or self.rate <= 0:
            return inf, False
        wait = (after - earned) / self.rate + late + GRAIN if after > earned else 0.0
        if wait - GRAIN > patience:
            return wait, False
        self.seen = now
        self.spent = after
        return wait, True

    def leave(self, n: float) -> None:
        self.spent -= n

    def cancel(self, now: float, n: float, when: float, mark: float) -> float:
        behind = self.last - mark
        back = n - behind if behind > 0 else n
        if self.refunded:
            room = self.terms.limit - self.peak
            if back > room:
                back = room
        if back <= 0 or now > when + GRAIN:
            return 0.0
        if behind == 0 and self.spent - self.shift > mark - WHOLE:
            self.last = mark - n  # as if it had never been; unless what others gave back has been used in its place
        self.spent -= back
        self.peak += back
        return back

    def settle(self, now: float, mark: float | None, extra: float) -> float:
        if now < self.seen:
            now = self.seen
        earned = now * self.rate
        floor = earned - self.size
        spent = self.spent
        if spent < floor:
            spent = floor
        axis = earned - self.shift
        if extra < 0 and self.last > axis:
            # Those that have reserved keep their times. What would not fit into the bucket until then is spilt.
            room = self.terms.limit - self.peak
            if extra < -room:
                extra = -room if room > 0 else 0.0
            self.peak -= extra
            self.refunded = True
        self.seen = now
        self.spent = spent + extra
        return -extra

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

    def short(self, now: float, n: float) -> tuple[float, tuple[Any, ...]]:
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
        return wait, (quota, terms, left)

    def move(self, at: float, terms: Terms) -> None:
        size = terms.limit + terms.rate * GRAIN
        if at < self.seen:
            at = self.seen
        earned = at * self.rate
        left = earned - self.spent
        if left > self.size:
            left = self.size
        left += (terms.rate - self.rate) * GRAIN
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
