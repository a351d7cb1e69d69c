"""AdaptiveLimit: finds out how many calls the server can work on at once, and refuses the least important others."""

import time
from math import ceil, inf
from typing import Any, ClassVar, Final, NamedTuple
from zlib import crc32

from holdfast.core.call import FAILED, OK, Call
from holdfast.core.context import Criticality, current
from holdfast.core.errors import Overloaded
from holdfast.core.event import Event
from holdfast.core.policy import Gate, accepts
from holdfast.resilience.limits.algorithms import LIMITS, QueueDelay
from holdfast.resilience.limits.ranks import Ranks
from holdfast.resilience.limits.sample import Limit, Sample
from holdfast.resilience.limits.settings import AdaptiveLimitSettings

SHARES: Final = {
    Criticality.SHEDDABLE: 0.15,
    Criticality.SHEDDABLE_PLUS: 0.3,
    Criticality.CRITICAL: 0.6,
    Criticality.CRITICAL_PLUS: 1.0,
}
"""How much of what lies above the limit's floor each criticality may use. The floor, which keeps the server busy, is
everybody's: shares of the whole limit would leave the server idle while calls are refused."""
SAMPLES: Final = 32
"""A window with fewer calls goes on, ..."""
LONGEST_WINDOW: Final = 2.0
"""... for so many seconds at most."""
SPARE: Final = 1 / 3
"""While fewer calls than this share of the floor are under way the rank does not matter: the server would be idle."""
HASTE_UP: Final = 1.0
HASTE_DOWN: Final = 0.5
"""How strongly the admitted rate answers to a shorter and to a longer queue than wanted. More strongly to a shorter
one: what is let through too much the limit catches, what is refused too much is lost."""

REFUSED_BY_LIMIT: Final = "the limit of calls under way is reached"
REFUSED_BY_RANK: Final = "more important calls take all the capacity"
REFUSED_FOR_WAITING: Final = "the call has waited too long already"


class OverloadBegan(Event, frozen=True):
    """The limit was reached: from now on calls are ranked, and the least important ones refused."""

    policy: str
    limit: float


class OverloadEnded(Event, frozen=True):
    """No call has been refused for some time."""

    policy: str
    limit: float


class _Levels(NamedTuple):
    """What follows from the limit, by criticality: how many calls may be under way, and how long one may have waited.

    With fewer than ``spare`` under way, or after less than ``spare_wait`` seconds, the rank does not matter.
    """

    levels: tuple[float, ...]
    waits: tuple[float, ...]
    spare: float
    spare_wait: float


class AdaptiveLimit(Gate[AdaptiveLimitSettings]):
    """Admits as many calls as can be worked on at once, with a short queue; refuses others at once, as ``Overloaded``.

    Two things are decided. *How many*: an algorithm (``resilience.limits``) learns the limit from how long calls
    take. *Who*: each criticality may use more of what lies above the limit's floor than the one below it; and
    while there is an overload, calls are ranked by criticality and, inside of one, by a hash of ``call.key``, and
    a threshold refuses those of the lowest ranks before they meet the limit. So one user gets the same answer to
    all calls; and since the limit only has to catch what the threshold lets through too much, no capacity is lost.

    Put it where calls are still cheap to refuse and all of them are seen: in the server's protocol. Behind a
    queue (in a middleware of a CPU-bound app) it cannot see who waits; then ``call.arrived`` must be stamped, and
    it refuses what has waited too long.

    An answer that came past the call's deadline counts as dropped; other failures and ignored calls say nothing
    about the limit. Safe from any thread; the limit is worked out once a window, in one of them.
    """

    kind: ClassVar[str] = "adaptive_limit"
    timed = True

    @accepts(AdaptiveLimitSettings)
    def __init__(self, settings: AdaptiveLimitSettings) -> None:
        self.in_flight = 0
        # These only grow; a window is the difference of two readings, so no update can get lost in a reset.
        self._completed = 0
        self._spent = 0.0
        self._late = 0
        self.refused_by_limit = 0
        self.refused_by_rank = 0
        self.refused_for_waiting = 0
        self._window_began = -inf
        self._window_end = -inf
        self._before = (0, 0.0, 0, 0, 0, 0.0)
        self._limit = _make(settings, settings.initial)
        self._ranks = Ranks()
        super().__init__(settings)

    def apply(self, settings: AdaptiveLimitSettings) -> None:
        limit = self._limit
        if settings.algorithm != self.settings.algorithm:
            # A limit at its maximum was none (bbr), and nothing to begin with.
            limit = _make(settings, settings.initial if limit.limit >= limit.maximum else limit.limit)
        else:
            limit.bound(settings.minimum, settings.maximum)
        if isinstance(limit, QueueDelay):
            limit.target = settings.target
        self._limit = limit
        self._ranks.salt = crc32(settings.salt.encode("utf-8", "surrogatepass"))
        if not settings.priorities:
            self._ranks.stop()
        self._derive(limit, settings)

    @property
    def limit(self) -> float:
        """How many calls may be under way, for the most important ones."""
        return self._limit.limit

    def enter(self, call: Call) -> float:
        in_flight = self.in_flight
        # Below the least important calls' limit nobody has to be judged.
        if in_flight < self._open and not call.arrived:
            self.in_flight = in_flight + 1
            return call.now
        answer = self._judge(call)
        if not isinstance(answer, Overloaded):
            return answer
        try:
            raise answer
        finally:
            del answer  # see Gate.enter

    def exit(self, call: Call, token: float) -> None:
        now = call.now
        self.in_flight -= 1
        if call.verdict is OK:
            self._completed += 1
            self._spent += now - token
        elif call.verdict is FAILED and now >= call.deadline:
            self._completed += 1
            self._late += 1
            self._spent += now - token
        if now >= self._window_end:
            self._end_window(call)

    def snapshot(self) -> dict[str, Any]:
        limit, threshold = self._limit, self._ranks.threshold
        return {
            **super().snapshot(),
            "algorithm": self.settings.algorithm,
            "limit": limit.limit,
            "floor": limit.floor,
            "in_flight": self.in_flight,
            "capacity": limit.capacity,
            "threshold": None if threshold == inf else threshold,
            "overloaded": self._ranks.active,
            "completed": self._completed,
            "late": self._late,
            "refused_by_limit": self.refused_by_limit,
            "refused_by_rank": self.refused_by_rank,
            "refused_for_waiting": self.refused_for_waiting,
        }

    def _judge(self, call: Call) -> float | Overloaded:
        criticality = call.criticality if call.criticality is not None else current().criticality
        waited = call.now - call.arrived if call.arrived else 0.0
        ranks = self._ranks
        refused = ranks.active and ranks.meet(criticality, call.key)
        # A server that would have nothing to do takes any call.
        if refused and (self.in_flight >= self._at.spare or waited >= self._at.spare_wait):
            self.refused_by_rank += 1
            return self._turn_away(call, REFUSED_BY_RANK)
        if waited >= self._at.waits[criticality]:
            self.refused_for_waiting += 1
            return self._turn_away(call, REFUSED_FOR_WAITING)
        if self._take(self._at.levels[criticality]):
            return call.arrived or call.now
        self.refused_by_limit += 1
        return self._turn_away(call, REFUSED_BY_LIMIT)

    def _take(self, level: float) -> bool:
        in_flight = self.in_flight
        if in_flight >= level:
            return False
        self.in_flight = in_flight + 1
        return True

    def _turn_away(self, call: Call, why: str) -> float | Overloaded:
        if self.settings.priorities and not self._ranks.active:
            self._start_ranking(call)
        if call.now >= self._window_end:
            self._end_window(call)
        facts = {"limit": self._limit.limit, "in_flight": self.in_flight}
        error = Overloaded(self.name, why, None, facts, call.operation)
        if not self.spares(call, error):
            return error
        self._take(inf)
        return call.arrived or call.now

    def _start_ranking(self, call: Call) -> None:
        # Never waits for the lock: this may run in a signal handler, in the thread that holds it.
        if not self.lock.acquire(blocking=False):
            return
        try:
            began = not self._ranks.active
            if began:
                self._ranks.start(call.now)
                self._open = 0
        finally:
            self.lock.release()
        if began and self.listeners.active:
            self.listeners.emit(lambda: OverloadBegan(call.clock.wall(), self.name, self.limit))

    def _end_window(self, call: Call) -> None:
        limit = self._limit
        used = (self.settings.cpu or time.process_time)() if limit.needs_cpu else 0.0
        # Whoever comes second finds the window ended.
        if not self.lock.acquire(blocking=False):
            return
        ranking = self._ranks.active
        try:
            self._learn(limit, call.now, used)
            ended = ranking and not self._ranks.active
        finally:
            self.lock.release()
        if ended and self.listeners.active:
            self.listeners.emit(lambda: OverloadEnded(call.clock.wall(), self.name, self.limit))

    def _learn(self, limit: Limit, now: float, used: float) -> None:
        seconds = now - self._window_began
        reading = (
            self._completed,
            self._spent,
            self._late,
            self.refused_by_limit + self.refused_for_waiting,
            self.refused_by_rank,
            used,
        )
        completed, spent, late, refused, ranked, cpu = (
            new - old for new, old in zip(reading, self._before, strict=True)
        )
        rtt = spent / completed if completed else 0.0
        if not 0 <= seconds <= 2 * LONGEST_WINDOW:  # the first window, or nobody called for a while
            if self._window_began > -inf:
                self._ranks.stop()
                self._derive(limit, self.settings)
            self._next_window(now, reading)
            return
        if seconds < LONGEST_WINDOW and (seconds < self.settings.window or completed < SAMPLES or seconds < rtt):
            self._window_end = max(self._window_began, now) + self.settings.window / 4
            return
        in_flight = spent / seconds
        limit.update(
            Sample(
                now=now,
                rtt=rtt,
                # A limit that refused was in full use, whatever the mean of the window is.
                in_flight=round(limit.limit if refused else in_flight),
                dropped=late > 0,
                completed=int(completed),
                refused=int(refused),
                seconds=seconds,
                cpu=cpu / seconds if limit.needs_cpu else -1.0,
                shedding=self._ranks.threshold < inf,
            )
        )
        if self._ranks.active and self._ranks.measure(now, self.settings.window / 2, quiet=not refused and not ranked):
            self._rank(limit, in_flight)
        self._next_window(now, reading)
        self._derive(limit, self.settings)

    def _rank(self, limit: Limit, in_flight: float) -> None:
        if limit.capacity:
            # Of a queue that is too short its own length counts: 1.0 when nothing waits. Of one that is too long
            # all that is under way counts, so that what is refused now does not leave the server idle later.
            missing = limit.setpoint - in_flight
            room = missing / (limit.setpoint - limit.working) if missing > 0 else missing / limit.setpoint
            room = min(max(room, -1.0), 1.0)
            # Squared: around the set point the threshold rests, so that users keep the answer that they have.
            haste = room * abs(room) * (HASTE_UP if room > 0 else HASTE_DOWN)
            self._ranks.admit(limit.capacity * (1 + haste), limit.capacity)

    def _next_window(self, now: float, reading: tuple[int, float, int, int, int, float]) -> None:
        self._before = reading
        self._window_began = now
        self._window_end = now + self.settings.window

    def _derive(self, limit: Limit, settings: AdaptiveLimitSettings) -> None:
        floor, most = limit.floor, limit.limit
        if settings.priorities:
            top = len(SHARES) - 1
            shares = [0.0 if limit.probing and number < top else share for number, share in enumerate(SHARES.values())]
            levels = tuple(max(1.0, floor + (most - floor) * share) for share in shares)
        else:
            levels = (floor if limit.probing else most,) * len(SHARES)
        spare = min(max(1.0, floor * SPARE), levels[0])
        # Little's law: so long does a call wait that finds so many before it.
        capacity, target = limit.capacity, settings.target
        waits = tuple(level / capacity if capacity else target for level in levels)
        self._at = _Levels(levels, waits, spare, spare / capacity if capacity else target)
        self._open = 0 if self._ranks.active else ceil(levels[0])  # comparing an int with a float is slow


def _make(settings: AdaptiveLimitSettings, initial: float) -> Limit:
    return LIMITS[settings.algorithm](initial=initial, minimum=settings.minimum, maximum=settings.maximum)
