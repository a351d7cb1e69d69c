"""The sliding window counter: two counts in place of a log, those of this window and of the one before.

What the window before counts for falls evenly to nothing while this one passes, as if its uses had come evenly.
That is wrong when they did not, and the bound says by how much. A window begins with the first use, not at the full
minute, so that not everybody's begin together.

Promise: in any interval of t seconds never more than rate * t + limit. So two periods' worth at most in one period
(all of one window at its end, then nearly all of the next), where a log would let one pass. Under saturation at least
limit - 1 in each period; for small limits take another algorithm.
"""

from math import inf

from holdfast.resilience.rates.meter import GRAIN, NEVER, Meter, Terms


class SlidingCounter(Meter):
    """See the module. Windows are numbered from ``origin`` on. ``booked``: when the last reservation is due.

    Only two windows are known. Once one that is still to come has a reservation, nobody gets in before it, also
    when that reservation is cancelled.
    """

    __slots__ = ("before", "booked", "count", "number", "origin", "room")

    bursts = False

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self.room = terms.limit + terms.rate * GRAIN
        self.origin = NEVER
        self.number = 0.0
        self.before = 0.0
        self.count = 0.0
        self.booked = NEVER

    def take(self, now: float, n: float) -> bool:
        return self.reserve(now, n, 0.0)[1] is not None

    def reserve(self, now: float, n: float, patience: float) -> tuple[float, tuple[float, float, float] | None]:
        late = 0.0
        if now < self.seen:
            late = self.seen - now
            now = self.seen
        limit, period, origin = self.terms.limit, self.terms.period, self.origin
        number, before, count = self.number, self.before, self.count
        booked = self.booked
        if not 0 <= n <= limit or origin == inf:
            return inf, None
        at = booked if booked > now else now
        if origin == NEVER:
            origin = at
        passed = (at - origin + GRAIN) // period - number
        if passed > 0:
            before = count if passed == 1 else 0.0
            count = 0.0
            number += passed
        begin = origin + number * period
        if at < begin:
            at = begin
        room = self.room - n
        if before * (1 - (at - begin) / period) + count > room:
            # Once the window before has faded enough; else once this one is that, and has.
            if count <= room:
                at = begin + period * (1 - (limit - n - count) / before)
            else:
                at = begin + period * (2 - (limit - n) / count)
            passed = (at - origin + GRAIN) // period - number
            if passed > 0:
                before = count if passed == 1 else 0.0
                count = 0.0
                number += passed
        wait = at - now
        if wait > 0:
            wait += late
        if wait > patience + GRAIN:
            return wait, None
        self.seen = now
        self.origin = origin
        self.number = number
        self.before = before
        self.count = count + n
        if at > now:
            self.booked = at
        return wait if wait > GRAIN else 0.0, (number, at, booked)

    def cancel(self, now: float, n: float, when: float, mark: tuple[float, float, float]) -> float:
        number, at, booked = mark
        if now > when + GRAIN:
            return 0.0
        if number == self.number:
            self.count -= n
        elif number == self.number - 1:
            self.before -= n
        else:
            return 0.0
        if self.booked == at:
            self.booked = booked
        return n

    def settle(self, now: float, mark: tuple[float, float, float] | None, extra: float) -> float:
        if now < self.seen:
            now = self.seen
        number, before, count = self.number, self.before, self.count
        if self.origin == NEVER:
            self.origin = now
        passed = (now - self.origin + GRAIN) // self.terms.period - number
        if passed > 0:
            before = count if passed == 1 else 0.0
            count = 0.0
            number += passed
        used = -1.0 if mark is None else mark[0]
        if used == number - 1:
            before += extra
        elif used == number or extra > 0:
            count += extra
        else:
            extra = 0.0
        self.seen = now
        self.number = number
        self.before = before
        self.count = count
        return -extra

    def owe(self, now: float, used: float, debt: float) -> None:
        self.count = used
        self.origin = self.booked = now + debt / self.terms.rate

    def left(self, now: float) -> float:
        if now < self.seen:
            now = self.seen
        limit, period = self.terms.limit, self.terms.period
        before, count = self.before, self.count
        at = self.booked if self.booked > now else now
        if self.origin == NEVER:
            return limit
        within = (at - self.origin + GRAIN) / period - self.number
        if within >= 1:
            before, count = (count, 0.0) if within < 2 else (0.0, 0.0)
            within %= 1.0
        left = limit - count - before * (1 - within)
        return 0.0 if left > 0 and (at > now or within < 0) else left

    def reset(self, now: float) -> float:
        if now < self.seen:
            now = self.seen
        windows = 2 if self.count > 0 else 1 if self.before > 0 else 0
        ahead = self.origin + (self.number + windows) * self.terms.period - now
        return ahead if windows and ahead > 0 else 0.0

    def move(self, at: float, terms: Terms) -> None:
        """What counts at that time stays; with another period as if it had been used just then."""
        if at < self.seen:
            at = self.seen
        old = self.terms.period
        if terms.period != old and self.origin != NEVER:
            before, count = self.before, self.count
            within = (at - self.origin + GRAIN) / old - self.number
            if within >= 1:
                before = count if within < 2 else 0.0
                count = 0.0
                within %= 1.0
            if within < 0:
                within = 0.0
            # Other numbers than before: marks of old windows are good for nothing now.
            self.number += 2
            self.origin = at - self.number * terms.period
            self.before = 0.0
            self.count = count + before * (1 - within)
        self.seen = at
        self.room = terms.limit + terms.rate * GRAIN
        self.terms = terms

    def rewind(self, seconds: float) -> None:
        self.seen -= seconds
        self.origin -= seconds
        self.booked -= seconds

    def retire(self, now: float) -> bool:
        if now < self.seen:
            now = self.seen
        windows = 2 if self.count > 0 else 1 if self.before > 0 else 0
        if self.booked <= now and (not windows or self.origin + (self.number + windows) * self.terms.period <= now):
            self.origin = inf
            return True
        return False

    def close(self) -> None:
        self.origin = inf
