"""Starts handlers in their turn, and only so many in one turn of the loop, so that the loop goes on looking.

An event loop that starts a handler for each request that it has read does not look at its sockets again before all of
them have computed. A queue forms that nobody governs, in the loop and in the kernel. Here a turn starts about
``BUDGET`` seconds of work: one handler that computes for 5 ms, or dozens that wait for others most of the time. The
rest waits in a ``RunQueue``, and in an overload what has waited for too long is refused.

Measured with a handler that computes for 5 ms, one worker, an open loop, two shared cores: at twice the capacity 92 to
94 % of it was used, and the slowest percent of the answers took 28 ms, against 14 ms without load. Without the queue
they took 2.8 s, and more each second.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from math import inf
from typing import Any, Final, Generic, TypeVar

from holdfast.server.admission.run_queue import PATIENCE, RunQueue

R = TypeVar("R")

BUDGET: Final = 0.009
"""Seconds of work that one turn of the loop starts: one handler of 5 ms, or ninety of 0.1, which then need no queue."""
LEAST_TURN: Final = 0.002
"""Seconds after which the loop has looked again, as far as that is known while nobody waits."""
MEASURE_INTERVAL: Final = 0.02
"""Seconds between two looks at how much work a handler is, while nobody waits."""
SMOOTHING: Final = 0.1
"""How fast the measure of a handler's work follows."""
WAITS: Final = 2.5
"""In an overload nobody waits for longer than it takes to begin so many requests ..."""
LEAST_TARGET: Final = 0.005
"""... or for so many seconds."""
BLOCK: Final = 0.1
"""A turn that takes so many seconds, ..."""
UNUSUAL: Final = 10.0
"""... and this many times as long as expected, was blocked: an accident that says nothing about the load."""
EXCUSED: Final = 0.5
"""What has come meanwhile is answered late rather than refused, when it takes no more than so many seconds of work."""
EXCUSE_LIMIT: Final = 2.0
"""Seconds, at most, for which that holds; else as long as the loop was blocked."""
LEAST_PATIENCE: Final = 1.2
"""Targets that a request may at least wait for while there is no overload."""
REFUSING: Final = 0.1
"""The share of the loop's time that refusals may take while others wait: who comes back at once after a refusal, on a
thousand connections, must not leave the handlers without any. The rest of the refused are told a little later."""
REFUSAL: Final = 4e-5
"""Seconds that a refusal takes, with reading the request that is refused: about twice what it was measured to take, so
that slower machines keep to the share too."""
CREDIT_LIMIT: Final = 0.02
"""Seconds of refusals that may be saved up."""
UNTOLD_LIMIT: Final = 4096
"""Refused requests that may wait to be told; beyond that they are told at once."""


class Starter(Generic[R]):
    """Belongs to one event loop. ``start`` begins a request's handler, ``refuse`` answers one that is not to begin.

    ``wanted`` tells whether somebody still waits for the answer. At most ``limit`` handlers run at a time: as many as
    there are threads where they run in threads. It may be set at any time.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        classes: int,
        start: Callable[[R], None],
        refuse: Callable[[R], None],
        wanted: Callable[[R], bool],
        limit: float,
    ) -> None:
        self.limit = limit
        self.running = 0
        self.started = 0
        self.refused = 0
        self.work = 0.0
        """Seconds of the loop's time that a handler takes in one go, as a moving mean; 0.0 while unknown."""
        self.duration = 0.0
        """Seconds from its start to its end, likewise."""
        self.queue: RunQueue[R] = RunQueue(classes)
        self._patience = PATIENCE
        self._untold: deque[R] = deque()
        self._credit = CREDIT_LIMIT
        self._loop = loop
        self._start = start
        self._refuse = refuse
        self._wanted = wanted
        self._turning = False
        self._turned_at = 0.0
        self._looked_at = 0.0
        self._in_turn = 0
        self._measuring = False
        self._measure_at = -inf
        self._blocked = False
        self._excused_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def patience(self) -> float:
        """Seconds that a request may wait while there is no overload, but never much less than one may in an
        overload."""
        return self._patience

    @patience.setter
    def patience(self, seconds: float) -> None:
        self._patience = seconds
        self.queue.patience = max(seconds, LEAST_PATIENCE * self.queue.target)

    def submit(self, request: R, *, rank: int, key: Hashable = None) -> None:
        """Start ``request``, now or when its turn comes, or refuse it."""
        if not self.take(request):
            self.wait(request, rank=rank, key=key)

    def take(self, request: R) -> bool:
        """Start ``request`` now, if it has its turn now; False when it has to ``wait``."""
        # Once for each request: what ``_has_room`` and ``_begin`` do is written out. While nobody waits there is no
        # need of turns, each of which costs as much as a short request.
        measure = False
        if not self._turning:
            now = self._loop.time()
            if now - self._turned_at >= LEAST_TURN:
                self._in_turn = 0
                self._looked_at = self._turned_at = now
            measure = now >= self._measure_at
        in_turn = self._in_turn
        if self.queue.length or self.running >= self.limit:
            return False
        if in_turn and not 0.0 < (in_turn + 1) * self.work <= BUDGET:
            return False
        if measure:
            in_turn = 0
            self._turned_at = now
            self._measuring = True
        self._in_turn = in_turn + 1
        self.running += 1
        self.started += 1
        self._start(request)
        if measure:
            self._go_on()  # after the handler
        return True

    def wait(self, request: R, *, rank: int, key: Hashable = None) -> None:
        """Start ``request`` when its turn comes, or refuse it."""
        # It came since the loop had looked before, or, as asyncio reads after the handlers, a turn earlier.
        _, out = self.queue.push(request, arrived=self._looked_at, rank=rank, key=key)
        if out is not None:
            self._turn_away(out)
        self._go_on()

    def done(self, seconds: float) -> None:
        """A handler has come to its end, ``seconds`` after its start."""
        self.running -= 1
        self.duration = _mean(self.duration, seconds)
        if self.queue.length:
            self._go_on()

    @property
    def full(self) -> bool:
        """Whether requests wait since ``limit`` handlers run."""
        return self.queue.length > 0 and self.running >= self.limit

    def clear(self) -> None:
        """Refuse all that waits: the time is over."""
        now = self._loop.time()
        while (request := self.queue.pop(now)) is not None:
            self._turn_away(request)
        self._tell(inf)

    def snapshot(self) -> dict[str, Any]:
        """How it is just now, as plain values."""
        return {
            **self.queue.snapshot(self._loop.time()),
            "untold": len(self._untold),
            "running": self.running,
            "limit": self.limit,
            "started": self.started,
            "refused": self.refused,
            "work": self.work,
            "duration": self.duration,
            "target": self.queue.target,
        }

    def _has_room(self) -> bool:
        if self.running >= self.limit:
            return False
        return self._in_turn == 0 or (self.work > 0.0 and (self._in_turn + 1) * self.work <= BUDGET)

    def _begin(self, request: R) -> None:
        self._in_turn += 1
        self.running += 1
        self.started += 1
        self._start(request)

    def _go_on(self) -> None:
        """See to it that there is a turn, after what has been started in this one."""
        if not self._turning:
            self._turning = True
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Once in each turn of the loop, after the handlers that the last one started, while there is work to do."""
        now = self._loop.time()
        began, self._in_turn = self._in_turn, 0
        took = now - self._turned_at
        if not self._measuring:
            pass  # it was begun in the middle of something
        elif took > BLOCK and self.work and took > UNUSUAL * self.work * max(began, 1) and not self._blocked:
            self._blocked = True
            self._excused_until = now + min(took, EXCUSE_LIMIT)
        elif began:
            self._blocked = False
            self._measure(took / began)
        self._measure_at = now + MEASURE_INTERVAL
        self._looked_at, self._turned_at = self._turned_at, now
        self._turning = False
        if not self._excuses(now):
            for request in self.queue.expire(now):
                self._turn_away(request)
        while self._has_room():
            following = self.queue.pop(now)
            if following is None:
                break
            if self._wanted(following):
                self._begin(following)
        if self._untold:
            idle = not (self._in_turn or began)
            self._credit = inf if idle else min(self._credit + REFUSING * (now - self._looked_at), CREDIT_LIMIT)
            self._tell(self._credit)
        self._measuring = self._in_turn > 0
        if self._in_turn or self._untold:
            self._go_on()
        elif len(self.queue):  # it waits for others to end; who has waited too long is to be told in time
            self._timer = self._loop.call_later(self.queue.target, self._go_on)

    def _excuses(self, now: float) -> bool:
        """Whether what waits has been kept waiting by a loop that was blocked, and can soon be worked off."""
        return now < self._excused_until and len(self.queue) * self._pace <= EXCUSED

    @property
    def _pace(self) -> float:
        """Every so often somebody begins: the loop has time for one, or, where all places are taken, one is free."""
        return max(self.work, self.duration / self.limit)

    def _measure(self, seconds: float) -> None:
        self.work = _mean(self.work, seconds)
        self.queue.target = max(LEAST_TARGET, WAITS * self._pace)
        self.queue.patience = max(self._patience, LEAST_PATIENCE * self.queue.target)

    def _turn_away(self, request: R) -> None:
        self.refused += 1
        self._untold.append(request)

    def _tell(self, credit: float) -> None:
        """Answer the refused, the longest waiting first, for so many seconds."""
        while self._untold and (credit > 0 or len(self._untold) > UNTOLD_LIMIT):
            request = self._untold.popleft()
            if self._wanted(request):
                self._refuse(request)
                credit -= REFUSAL
        self._credit = min(credit, CREDIT_LIMIT)


def _mean(mean: float, value: float) -> float:
    return mean + (value - mean) * SMOOTHING if mean else value
