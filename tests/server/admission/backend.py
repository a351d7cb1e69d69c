"""A backend with so many places, handlers that wait for it, and a governor between: in virtual time, without a loop."""

import random
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple, Protocol

PATIENCE = 0.1
"""Seconds after which a request that has not begun is refused."""


class Governor(Protocol):
    @property
    def limit(self) -> float: ...

    def ended(self, kind: str, seconds: float, now: float, *, full: bool) -> bool: ...


class Request(NamedTuple):
    at: float
    kind: str
    seconds: float


class Simulation:
    """``places`` calls are worked on at the same time, the others wait in their order. Both may be changed."""

    def __init__(self, governor: Governor, seed: int, *, places: int = 20, seconds: float = 0.05) -> None:
        self.governor = governor
        self.chance = random.Random(seed)
        self.places = places
        self.seconds = seconds
        self.kinds: list[tuple[str, Callable[[], float]]] = [("all", lambda: self.seconds)]
        self.now = 100.0
        self.running = 0
        self.worked_on = 0
        self.refused: list[float] = []
        self.answered: list[tuple[float, float]] = []
        self.limits: list[tuple[float, float]] = []
        self._queue: deque[Request] = deque()
        self._inside: deque[tuple[float, Request]] = deque()
        self._ends: list[tuple[float, int, float, Request]] = []
        self._number = count()

    @property
    def capacity(self) -> float:
        return self.places / self.seconds

    @property
    def limit(self) -> int:
        return max(1, round(min(self.governor.limit, 1e9)))

    def run(self, rate: float, seconds: float, weights: tuple[float, ...] | None = None) -> float:
        """Answers a second. What is refused is in ``refused`` by its time, latencies are in ``answered``."""
        began = self.now
        end = began + seconds
        before = len(self.answered)
        due = began + self.chance.expovariate(rate)
        while min(due, self._ends[0][0] if self._ends else due) < end:
            if self._ends and self._ends[0][0] <= due:
                self._end()
                continue
            self.now = due
            kind, seconds_of = self.chance.choices(self.kinds, weights)[0]
            self._queue.append(Request(due, kind, seconds_of()))
            due += self.chance.expovariate(rate)
            self._begin()
        self.now = end
        return (len(self.answered) - before) / seconds

    def _begin(self) -> None:
        while self._queue and self.now - self._queue[0].at > PATIENCE:
            self.refused.append(self._queue.popleft().at)
        while self._queue and self.running < self.limit:
            self.running += 1
            self._inside.append((self.now, self._queue.popleft()))
            self._work()

    def _work(self) -> None:
        while self._inside and self.worked_on < self.places:
            began, request = self._inside.popleft()
            self.worked_on += 1
            heappush(self._ends, (self.now + request.seconds, next(self._number), began, request))

    def _end(self) -> None:
        self.now, _, began, request = heappop(self._ends)
        full = bool(self._queue) and self.running >= self.limit
        self.worked_on -= 1
        self.running -= 1
        self.answered.append((request.at, self.now - request.at))
        self.governor.ended(request.kind, self.now - began, self.now, full=full)
        self.limits.append((self.now, self.governor.limit))
        self._work()
        self._begin()
