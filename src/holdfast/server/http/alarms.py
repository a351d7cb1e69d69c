"""Time limits of many requests, nearly all of which end before theirs.

A timer of the loop's costs 2 us to set and cancel, and most are cancelled. Here deadlines are gathered in slots of
``SLOT`` seconds, and one timer rings for the next slot: 0.5 us a request. It is the coarse end of a timing wheel
(Varghese and Lauck, SOSP 1987).
"""

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final, Protocol

SLOT: Final = 0.005
"""Seconds by which an alarm may be late; never early."""
FAR: Final = 30.0
"""Seconds from which on a deadline gets a timer of its own, so that slots do not pile up: there are at most 6,000."""

_PER_SECOND: Final = round(1 / SLOT)


class Timed(Protocol):
    """What has a deadline."""

    def expire(self) -> None:
        """Its time is over."""


Alarm = int | asyncio.TimerHandle
"""What ``Alarms.clear`` needs to know."""


class Alarms:
    """Belongs to one event loop. Times are absolute seconds of the clock that ``now`` reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now: Callable[[], float]) -> None:
        self._loop = loop
        self._now = now
        self._slots: dict[int, set[Timed]] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def set(self, timed: Timed, deadline: float, now: float) -> Alarm:
        """``timed.expire()`` will be called at ``deadline``, unless ``clear`` is called before."""
        if deadline - now > FAR:
            return self._loop.call_later(deadline - now, timed.expire)
        number = int(deadline * _PER_SECOND) + 1
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = set()
            heappush(self._order, number)
            if self._order[0] == number:
                self._wind(now)
        slot.add(timed)
        return number

    def clear(self, timed: Timed, alarm: Alarm) -> None:
        """It has ended in time. After it has rung this does nothing."""
        if isinstance(alarm, int):
            slot = self._slots.get(alarm)
            if slot is not None:
                slot.discard(timed)
        else:
            alarm.cancel()

    def close(self) -> None:
        """Ring no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slots.clear()
        self._order.clear()

    def _wind(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, self._order[0] / _PER_SECOND - now), self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self._now()
        due: list[Timed] = []
        reached = now * _PER_SECOND + 1e-6  # a timer rings on time, but for the rounding
        while self._order and self._order[0] <= reached:
            due += self._slots.pop(heappop(self._order))
        if self._order:
            self._wind(now)
        for timed in due:
            timed.expire()
