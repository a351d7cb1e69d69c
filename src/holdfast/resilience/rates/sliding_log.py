"""The sliding window log: the time of every use is remembered for one period. Exact, and dear in memory.

Promise: in any window of one period never more than limit, so in any interval of t seconds never more than
rate * t + limit. Under saturation ``limit`` in each period, plus the time until the next caller comes.
"""

from collections import deque
from math import inf
from typing import Final

from holdfast.resilience.rates.meter import GRAIN, Meter, Terms

ENTRIES_LIMIT: Final = 10_000
"""Uses that one log remembers one by one. Past that the last ones share an entry, which counts from the latest."""


class Entry:
    """``n`` used at the time ``at``."""

    __slots__ = ("at", "n")

    def __init__(self, at: float, n: float) -> None:
        self.at = at
        self.n = n


class SlidingLog(Meter):
    """See the module. Not atomic: needs a lock."""

    __slots__ = ("closed", "log", "total")

    atomic = False
    bursts = False

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self.log: deque[Entry] = deque()
        self.total = 0.0
        self.closed = False

    def take(self, now: float, n: float) -> bool:
        return self.reserve(now, n, 0.0)[1] is not None

    def reserve(self, now: float, n: float, patience: float) -> tuple[float, Entry | None]:
        late = max(self.seen - now, 0.0)
        now = self._forget(now)
        if self.closed or not 0 <= n <= self.terms.limit:
            return inf, None
        at = max(now, self.log[-1].at) if self.log else now
        excess = self.total + n - self.terms.limit - self.terms.rate * GRAIN
        for entry in self.log if excess > 0 else ():
            excess -= entry.n
            if excess <= 0:
                at = max(at, entry.at + self.terms.period)
                break
        wait = at - now + late if at > now else 0.0
        if wait > patience + GRAIN:
            return wait, None
        return wait if wait > GRAIN else 0.0, self._remember(at, n)

    def cancel(self, now: float, n: float, when: float, mark: Entry) -> float:
        if now > when + GRAIN or mark not in self.log:
            return 0.0
        self._change(mark, -n)
        return n

    def settle(self, now: float, mark: Entry | None, extra: float) -> float:
        now = self._forget(now)
        if mark is not None and mark in self.log:
            self._change(mark, extra)
        elif extra > 0:
            self._remember(max(now, self.log[-1].at) if self.log else now, extra)
        else:
            return 0.0
        return -extra

    def owe(self, now: float, used: float, debt: float) -> None:
        self._remember(now + debt / self.terms.rate, used)

    def left(self, now: float) -> float:
        now = max(now, self.seen)
        gone = now - self.terms.period + GRAIN
        left = self.terms.limit - sum(entry.n for entry in self.log if entry.at > gone)
        return min(left, 0.0) if self.log and self.log[-1].at > now + GRAIN else left

    def reset(self, now: float) -> float:
        now = max(now, self.seen)
        return max(self.log[-1].at + self.terms.period - now, 0.0) if self.log else 0.0

    def move(self, at: float, terms: Terms) -> None:
        self._forget(at)
        self.terms = terms

    def rewind(self, seconds: float) -> None:
        self.seen -= seconds
        for entry in self.log:
            entry.at -= seconds

    def retire(self, now: float) -> bool:
        self._forget(now)
        if not self.log:
            self.closed = True
        return self.closed

    def close(self) -> None:
        self.closed = True

    def _forget(self, now: float) -> float:
        """Drop what lies a period back, and return the time."""
        self.seen = now = max(now, self.seen)
        gone = now - self.terms.period + GRAIN
        while self.log and self.log[0].at <= gone:
            self.total -= self.log.popleft().n
        if not self.log:
            self.total = 0.0  # what floats lost does not add up
        return now

    def _remember(self, at: float, n: float) -> Entry:
        if n == 0:
            return Entry(at, n)
        self.total += n
        if self.log and (self.log[-1].at == at or len(self.log) >= ENTRIES_LIMIT):
            last = self.log[-1]
            last.at = at
            last.n += n
            return last
        self.log.append(Entry(at, n))
        return self.log[-1]

    def _change(self, entry: Entry, extra: float) -> None:
        self.total += extra
        entry.n += extra
        while self.log and not self.log[-1].n > 0:
            self.total -= self.log.pop().n
