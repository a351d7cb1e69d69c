"""Deadlines of asyncio tasks, many for one armed timer: what makes ``Timeout`` cheap.

A timer a call is the dearest part of a policy stack. Equal durations expire in the order in which they began,
so a ``Lane`` is a queue with a timer for its first entry only. A call that is done just leaves the queue.
"""

import asyncio
import heapq
import sys
from collections.abc import Callable, Hashable
from contextvars import Context, Token
from math import inf
from typing import Any, Final

from holdfast.core.clock import Clock

LEAST_DELAY: Final = 0.001
"""Seconds a timer is set for at the least; uvloop counts in milliseconds."""
STALE_LIMIT: Final = 64
"""Entries of calls that are done which a ``SortedLane`` may hold beyond the number of those under way."""

Entry = tuple[float, "asyncio.Task[Any]", int, Token[float], "Lane"]
"""Deadline, task, cancellations it had pending, the token that resets the ambient deadline, the lane it is in."""

if sys.version_info >= (3, 12):
    task_of: Callable[[asyncio.AbstractEventLoop], "asyncio.Task[Any] | None"] = asyncio.current_task
else:
    # asyncio.current_task() asks the kernel for the process id here, which costs more than all the rest.
    task_of = asyncio.tasks._current_tasks.get  # type: ignore[attr-defined]


class Lane:
    """The calls of one event loop that all have the same time, in the order in which they began.

    Belongs to its loop. ``entries`` holds the calls under way; one that is not there any more has expired, and
    its task was cancelled once.
    """

    __slots__ = ("any_deadline", "clock", "due", "entries", "loop", "seconds", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, seconds: float) -> None:
        self.loop = loop
        self.clock = clock
        self.seconds = seconds
        self.entries: dict[Hashable, Entry] = {}
        self.timer: asyncio.TimerHandle | None = None
        self.due = inf
        self.any_deadline: SortedLane | None = None

    def of_any_deadline(self) -> "SortedLane":
        """The lane beside this one, for deadlines that come from elsewhere."""
        if self.any_deadline is None:
            self.any_deadline = SortedLane(self.loop, self.clock, self.seconds)
        return self.any_deadline

    def add(self, call: Hashable, entry: Entry) -> None:
        """Take ``call`` in; its deadline is not before that of any other."""
        self.entries[call] = entry
        if self.timer is None:
            self.arm(entry[0])

    def arm(self, deadline: float) -> None:
        """Look again at ``deadline``, and not later."""
        if self.timer is not None:
            self.timer.cancel()
        self.due = deadline
        delay = max(deadline - self.clock.now(), LEAST_DELAY)
        # An empty context: the caller's would be kept alive for as long as the timer.
        self.timer = self.loop.call_later(delay, self.expire, context=Context())

    def expire(self) -> None:
        """Cancel what is overdue, and set the timer for the next."""
        self.timer = None
        now = self.clock.now()
        overdue, following = self.sorted_out(now)
        for call in overdue:
            self.entries.pop(call)[1].cancel()
        if following != inf:
            self.arm(following)

    def sorted_out(self, now: float) -> tuple[list[Hashable], float]:
        """The calls whose deadline has come, and the deadline of the next one, ``inf`` when there is none."""
        overdue: list[Hashable] = []
        for call, entry in self.entries.items():
            if entry[0] > now:
                return overdue, entry[0]
            overdue.append(call)
        return overdue, inf


class SortedLane(Lane):
    """Calls with deadlines of any order."""

    __slots__ = ("_count", "_heap")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, seconds: float) -> None:
        super().__init__(loop, clock, seconds)
        self._heap: list[tuple[float, int, Hashable, Entry]] = []
        self._count = 0

    def add(self, call: Hashable, entry: Entry) -> None:
        """Put ``call`` in its place, and set the timer if it is the next to expire."""
        if len(self._heap) > 2 * len(self.entries) + STALE_LIMIT:
            self._heap = [item for item in self._heap if self.entries.get(item[2]) is item[3]]
            heapq.heapify(self._heap)
        self._count += 1
        self.entries[call] = entry
        heapq.heappush(self._heap, (entry[0], self._count, call, entry))
        if self.timer is None or entry[0] < self.due:
            self.arm(entry[0])

    def sorted_out(self, now: float) -> tuple[list[Hashable], float]:
        overdue: list[Hashable] = []
        while self._heap:
            deadline, _, call, entry = self._heap[0]
            if self.entries.get(call) is entry:
                if deadline > now:
                    return overdue, deadline
                overdue.append(call)
            heapq.heappop(self._heap)
        return overdue, inf


class Lanes:
    """The lanes for calls of ``seconds``: one for each event loop, and each clock in use there. Safe from any thread.

    New seconds mean new lanes, since a lane holds equal durations only; the old ones run empty.
    """

    __slots__ = ("by_loop", "by_thread", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.by_thread: dict[int, Lane] = {}
        self.by_loop: dict[tuple[asyncio.AbstractEventLoop, int], Lane] = {}

    def here(self, clock: Clock, ident: int) -> Lane:
        """The lane of the loop that runs here, remembered for the next call of this thread.

        Loops other than asyncio's (uvloop) do not tell their thread, and are looked for at each call.
        """
        loop = asyncio.get_running_loop()
        lane = self.by_loop.get((loop, id(clock)))  # the lane keeps the clock, so the id stays its own
        if lane is None:
            self._forget_closed()
            lane = self.by_loop[loop, id(clock)] = Lane(loop, clock, self.seconds)
        if hasattr(loop, "_thread_id"):
            self.by_thread[ident] = lane
        return lane

    def _forget_closed(self) -> None:
        for key, lane in tuple(self.by_loop.items()):
            if lane.loop.is_closed():
                self.by_loop.pop(key, None)
        for ident, lane in tuple(self.by_thread.items()):
            if lane.loop.is_closed():
                self.by_thread.pop(ident, None)
