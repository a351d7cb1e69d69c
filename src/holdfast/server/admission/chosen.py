"""How many handlers may run at a time by one of the algorithms of ``AdaptiveLimit``, for who has chosen one."""

import time
from collections.abc import Hashable
from math import inf
from typing import Any, Final

from holdfast.resilience.adaptive import LONGEST_WINDOW, SAMPLES
from holdfast.resilience.limits.algorithms import LIMITS, QueueDelay
from holdfast.resilience.limits.sample import Limit, Sample
from holdfast.resilience.limits.settings import AdaptiveLimitSettings


class Chosen:
    """The algorithm's ``limit``, learned from how long handlers take from start to end.

    The queue before the handlers is the only one: of ``queue_delay`` the floor counts, without the calls that
    would wait further in. Priorities and who is refused are the queue's business. Belongs to one event loop.
    """

    def __init__(self, settings: AdaptiveLimitSettings) -> None:
        self.settings: Final = settings
        self._limit: Limit = LIMITS[settings.algorithm](
            initial=settings.initial, minimum=settings.minimum, maximum=settings.maximum
        )
        if isinstance(self._limit, QueueDelay):
            self._limit.target = settings.target
        self._completed = 0
        self._spent = 0.0
        self._late = False
        self._full = False
        self._cpu = 0.0
        self._began = -inf
        self.due = -inf
        """Until then ends are only gathered."""

    @property
    def limit(self) -> float:
        """How many handlers may run at a time."""
        limit = self._limit
        return limit.floor if isinstance(limit, QueueDelay) and limit.capacity else limit.limit

    def ended(self, kind: Hashable, seconds: float, now: float, *, full: bool, late: bool = False) -> bool:
        """A handler has ended, ``late`` when its deadline had passed. True when ``limit`` was looked at."""
        self._completed += 1
        self._spent += seconds
        self._full = self._full or full
        self._late = self._late or late
        if now < self.due:
            return False
        return self._end_window(now)

    def snapshot(self) -> dict[str, Any]:
        """How it is just now, as plain values."""
        return {"algorithm": self.settings.algorithm, "limit": self.limit, "capacity": self._limit.capacity}

    def _end_window(self, now: float) -> bool:
        limit = self._limit
        seconds = now - self._began
        known = seconds <= 2 * LONGEST_WINDOW  # else it is the first one, or nothing has ended for a while
        rtt = self._spent / self._completed
        if known and seconds < LONGEST_WINDOW and (self._completed < SAMPLES or seconds < rtt):
            self.due = now + self.settings.window / 4
            return False
        used = (self.settings.cpu or time.process_time)() if limit.needs_cpu else 0.0
        if known:
            limit.update(
                Sample(
                    now=now,
                    rtt=rtt,
                    in_flight=round(self.limit if self._full else self._spent / seconds),
                    dropped=self._late,
                    completed=self._completed,
                    refused=int(self._full),
                    seconds=seconds,
                    cpu=(used - self._cpu) / seconds if limit.needs_cpu else -1.0,
                )
            )
        self._cpu = used
        self._completed = 0
        self._spent = 0.0
        self._late = self._full = False
        self._began = now
        self.due = now + self.settings.window
        return known
