"""Callers that wait for their turn at one meter: threads, and tasks of any event loop, in the order in which they came.

What each of them will use is taken from the meter when he joins, so nobody who comes later finds it, and how long the
wait will be is known before it begins. When one leaves, or somebody else gives back what he has not used, all those
behind move up. One at the head of the line is served as soon as the meter has enough for him alone: no more than its
limit is there at any time, however late somebody wakes up.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Hashable
from math import inf
from typing import Final, Protocol

from holdfast.resilience.rates.meter import GRAIN, NEVER, MovingMeter

NAP: Final = 0.001
"""The shortest sleep, in seconds; uvloop counts in milliseconds, and may wake somebody early."""
LATENESS: Final = 0.02
"""Seconds that timers may be late: what came in for those that wait in more than that is spilt, as it would be if
nobody waited."""
PLACES_LIMIT: Final = 10_000
"""Places in a line with which nobody may reserve another one, behind those that wait."""


class Bell(Protocol):
    """Wakes somebody who waits. ``ring`` may be called from any thread."""

    def ring(self) -> None:
        """Wake him now, or as soon as he goes to sleep."""


class ThreadBell:
    """For a thread. A signal handler may ring it in the middle of ``wait``, which an ``Event`` would not survive."""

    __slots__ = ("_silence",)

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        try:
            self._silence.release()
        except RuntimeError:  # it rings already
            return

    def wait(self, seconds: float) -> None:
        """Block until it rings, ``seconds`` of real time at most."""
        self._silence.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))


def thread_bell() -> type[ThreadBell] | None:
    """What wakes this thread; None where it must not sleep, since an event loop runs in it."""
    return ThreadBell if asyncio._get_running_loop() is None else None


class TaskBell:
    """For a task of the running event loop."""

    __slots__ = ("_future", "_loop", "_rung")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._rung = False

    def ring(self) -> None:
        if asyncio._get_running_loop() is self._loop:
            self._wake()
            return
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop was closed around a task that still waited: nobody is there any more
            return

    async def wait(self, seconds: float) -> None:
        """Return when it rings, after ``seconds`` at most. A cancellation gets out at once."""
        if not self._rung:
            self._future = self._loop.create_future()
            timer = self._loop.call_later(seconds, self._wake)
            try:
                await self._future
            finally:
                timer.cancel()
                self._future = None
        self._rung = False

    def _wake(self) -> None:
        self._rung = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class Place:
    """A place in a line, of somebody who will use ``n`` when he is ``served``.

    ``when`` is what he was told; it is sooner if others leave. One without a ``bell`` keeps that time: he holds a
    reservation.
    """

    __slots__ = ("armed", "bell", "line", "n", "served", "when")

    def __init__(self, line: "Line", n: float, when: float, bell: Bell | None) -> None:
        self.line = line
        self.n = n
        self.when = when
        self.bell = bell
        self.served = False
        self.armed = inf
        """When he looks again by himself."""


class Line:
    """Those that wait at ``meter``, which is that of ``key`` and ``tier``. Whoever uses it holds the owner's lock."""

    __slots__ = ("_places", "_total", "key", "meter", "tier")

    def __init__(self, meter: MovingMeter, key: Hashable, tier: str) -> None:
        self.meter = meter
        self.key = key
        self.tier = tier
        self._places: OrderedDict[Place, None] = OrderedDict()
        self._total = 0.0

    def __len__(self) -> int:
        return len(self._places)

    @property
    def crowded(self) -> bool:
        """Whether nobody may reserve a place any more; those who wait have a bound of their own."""
        return len(self._places) >= PLACES_LIMIT

    def join(self, n: float, when: float, bell: Bell | None) -> Place:
        """Go to the end, after ``MovingMeter.join``."""
        place = Place(self, n, when, bell)
        self._places[place] = None
        self._total += n
        return place

    def leave(self, place: Place, now: float) -> None:
        """Give up ``place``: those behind move up. Not for one that has been served."""
        del self._places[place]
        self._total -= place.n
        self.meter.leave(place.n)
        self.serve(now)

    def serve(self, now: float) -> None:
        """Let those pass for whom there is enough; see to it that the next one wakes up in time."""
        level = self.meter.left(now) + self._total
        while (head := self._head()) is not None:
            if head.bell is not None:
                level = self._spilt(level, now)
            if self._due(head, level, now) > now + GRAIN:
                if head.bell is not None and head.n > self.meter.terms.limit:
                    head.bell.ring()  # there will never be enough under other terms: he is to go away
                break
            del self._places[head]
            self._total -= head.n
            level -= head.n
            head.served = True
            if head.bell is not None:
                head.bell.ring()
        if head is None:
            self._total = 0.0  # what floats lost does not add up
            return
        watch = self._watch()
        if watch is not None and watch.bell is not None and self._due(head, level, now) < watch.armed - NAP:
            watch.bell.ring()

    def rest(self, place: Place, now: float) -> float:
        """How long its owner, who calls this, may sleep if nobody wakes him before; 0.0 when he has been served.

        ``inf`` when he will never be, since he wants more than the limit is now.
        """
        shortest = 0.0 if place.armed == inf else NAP
        place.armed = NEVER  # he is awake
        self.serve(now)
        head = self._head()
        if place.served or head is None:
            return 0.0
        if place.n > self.meter.terms.limit:
            return inf
        due = self._due(head, self.meter.left(now) + self._total, now)
        if place is not self._watch():
            due = max(due, place.when)
        rest = max(due - now, shortest)
        place.armed = now + rest
        return rest

    def give_back(self, now: float, mark: object, n: float) -> float:
        """Give ``n`` back to the meter for those that wait, no more than fits. Returns how much that is."""
        back = self.meter.settle(now, mark, -n)
        spilt = min(self.meter.left(now) + self._total - self.meter.terms.limit, back)
        if spilt > 0:
            self.meter.settle(now, None, spilt)
            back -= spilt
        return back

    def rewind(self, seconds: float) -> None:
        """The clock was set back by so many seconds."""
        for place in self._places:
            place.when -= seconds
            place.armed -= seconds

    def _head(self) -> Place | None:
        return next(iter(self._places), None)

    def _watch(self) -> Place | None:
        """The first one who can be woken: he looks after those before him, who hold reservations."""
        return next((place for place in self._places if place.bell is not None), None)

    def _spilt(self, level: float, now: float) -> float:
        """``level``, what there is for those that wait, without what came in while somebody was late."""
        terms = self.meter.terms
        over = level - terms.limit - terms.rate * LATENESS
        if over > 0:
            self.meter.settle(now, None, over)
        return level - max(over, 0.0)

    def _due(self, place: Place, level: float, now: float) -> float:
        """When there is enough for ``place``, if it is at the head."""
        rate = self.meter.terms.rate
        # A reservation is used at its time, also when the limit is smaller by then: those behind it pay.
        missing = (place.n if place.bell is not None else min(place.n, self.meter.terms.limit)) - level
        due = now if missing <= rate * GRAIN else now + missing / rate
        return max(due, place.when if place.bell is None else NEVER)
