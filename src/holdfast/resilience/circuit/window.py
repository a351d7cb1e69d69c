"""How the latest calls ended: those of the last seconds, or the last so many. Pure; the time is an argument.

Counters only grow. What has left the window is told by an earlier reading of them, so that the commonest event, a
success, is one comparison and one increment, which the owner writes out itself::

    if now < window.edge:
        window.ok += 1
    else:
        with lock:
            window.add(now)

That is one step (docs/adr/0002): it needs no lock. Every method does.
"""

from collections import deque
from math import inf
from typing import Final, TypeAlias

BUCKETS_LIMIT: Final = 1000
"""Buckets of a ``TimeWindow``."""
LAST_LIMIT: Final = 100_000
"""Calls that a ``CountWindow`` may look back on."""

Counts: TypeAlias = tuple[int, int, int]
"""Calls that went well, calls that failed, and a third count for whatever the owner marks."""


class TimeWindow:
    """The calls of the last ``seconds``, in a ring of ``buckets``: memory does not grow with the calls.

    Buckets lie on a fixed grid: one begins whenever the time is a multiple of ``seconds / buckets``. The window is
    the current bucket and those before it, so it is up to one bucket shorter than ``seconds``. A time before the
    current bucket counts as in it; a failure that is a whole window before it comes from another clock, and the
    window begins anew.

    ``end`` is when the current bucket ends, ``-inf`` before there was a call. ``edge`` is the same, but ``-inf`` while
    the owner watches every call.
    """

    __slots__ = ("_begin", "_index", "_readings", "_watched", "_width", "edge", "end", "failed", "marked", "ok")

    def __init__(self, seconds: float, buckets: int) -> None:
        self.ok = self.failed = self.marked = 0
        self.edge = -inf
        self._watched = False
        self._width = seconds / buckets
        self._index: int | None = None
        # The current bucket; empty before the first call.
        self._begin = inf
        self.end = -inf
        # What the counters read when each bucket began.
        self._readings: list[Counts] = [(0, 0, 0)] * buckets

    def add(self, now: float, failed: bool = False, marked: bool = False) -> None:
        """Count a call that ended at ``now``; of a success ``now`` may be the begin."""
        if now >= self.end or (failed and now < self._begin):
            self.roll(now)
        if failed:
            self.failed += 1
        else:
            self.ok += 1
        if marked:
            self.marked += 1

    def mark(self, now: float) -> None:
        """Count something that was no call."""
        if not self._begin <= now < self.end:
            self.roll(now)
        self.marked += 1

    def roll(self, now: float) -> None:
        """Go on to the bucket of ``now``."""
        index = int(now // self._width)
        buckets = len(self._readings)
        if self._index is not None:
            if self._index - buckets < index <= self._index:
                return
            reading = (self.ok, self.failed, self.marked)
            first = index - buckets if index < self._index else max(self._index, index - buckets)
            for begun in range(first + 1, index + 1):
                self._readings[begun % buckets] = reading
        self._move_to(index)

    def watch(self, every_call: bool) -> None:
        """Whether each call has to be told by ``add``."""
        self._watched = every_call
        self.edge = -inf if every_call else self.end

    def counts(self, now: float = -inf) -> Counts:
        """What the window holds, at ``now`` if that is later than what was counted last."""
        ok, failed, marked = self.before(now)
        return self.ok - ok, self.failed - failed, self.marked - marked

    def before(self, now: float = -inf) -> Counts:
        """What the counters read when the oldest bucket began."""
        buckets = len(self._readings)
        index = self._index or 0
        if self._index is not None and now >= self.end:
            behind = int(now // self._width) - index
            if behind >= buckets:
                return self.ok, self.failed, self.marked
            index += behind
        return self._readings[(index + 1) % buckets]

    def failing(self) -> int:
        """For how many buckets, up to the current one, calls have failed and none has gone well."""
        index = self._index or 0
        buckets = len(self._readings)
        ok, failed = self.ok, self.failed
        failing = 0
        for back in range(buckets):
            ok_before, failed_before, _ = self._readings[(index - back) % buckets]
            if ok > ok_before:
                break
            failing += failed > failed_before
            ok, failed = ok_before, failed_before
        return failing

    def resize(self, now: float, seconds: float, buckets: int) -> None:
        """Become a window of another size. What this one holds counts as if it had just happened."""
        if (seconds / buckets, buckets) == (self._width, len(self._readings)):
            return
        before = self.before(now)
        self._width = seconds / buckets
        self._readings = [before] * buckets
        if self._index is not None:
            self._move_to(int(now // self._width))

    def _move_to(self, index: int) -> None:
        self._index = index
        self._begin = index * self._width
        self.end = (index + 1) * self._width
        if not self._watched:
            self.edge = self.end


class CountWindow:
    """The ``last`` calls, whenever they were. It remembers only the places of those that failed or are marked.

    ``edge`` is ``inf``, or ``-inf`` while the owner watches every call. The time does not matter.
    """

    __slots__ = ("_failures", "_last", "_marks", "_start", "edge", "failed", "marked", "ok")

    def __init__(self, last: int) -> None:
        self.ok = self.failed = self.marked = 0
        self.edge = inf
        self._last = last
        # Calls up to this one, in the order in which they ended, are not known.
        self._start = 0
        self._failures: deque[int] = deque(maxlen=last)
        self._marks: deque[int] = deque(maxlen=last)

    def add(self, now: float, failed: bool = False, marked: bool = False) -> None:
        """Count a call."""
        if failed:
            self.failed += 1
        else:
            self.ok += 1
        place = self.ok + self.failed
        if failed:
            self._failures.append(place)
        if marked:
            self.marked += 1
            self._marks.append(place)

    def watch(self, every_call: bool) -> None:
        """Whether each call has to be told by ``add``."""
        self.edge = -inf if every_call else inf

    def counts(self, now: float = -inf) -> Counts:
        """What the window holds."""
        calls = self.ok + self.failed
        before = max(calls - self._last, self._start)
        failed = _after(self._failures, before)
        return calls - before - failed, failed, _after(self._marks, before)

    def resize(self, last: int) -> None:
        """Become a window of another size, with as many of the latest calls as are known."""
        if last == self._last:
            return
        self._start = max(self.ok + self.failed - self._last, self._start)
        self._last = last
        self._failures = deque(self._failures, maxlen=last)
        self._marks = deque(self._marks, maxlen=last)


Window: TypeAlias = TimeWindow | CountWindow


def _after(places: deque[int], before: int) -> int:
    """How many ``places`` come after ``before``; the others are forgotten."""
    while places and places[0] <= before:
        places.popleft()
    return len(places)
