"""RateLimit: so many calls in so much time, for everybody or for each key, at once or after a wait."""

from collections.abc import Callable, Hashable
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.core.call import Call, bare_call
from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.context import current_deadline
from holdfast.core.duration import rounded
from holdfast.core.errors import RateLimited
from holdfast.core.event import Event
from holdfast.core.fuse import Around, Fragment
from holdfast.core.policy import Gate, accepts
from holdfast.resilience.rates import Meter, TokenBucket
from holdfast.resilience.rates.book import MAIN, Book
from holdfast.resilience.rates.line import LATENESS, NAP, Bell, TaskBell, ThreadBell, thread_bell
from holdfast.resilience.rates.meter import GRAIN, check_amount, checked_patience
from holdfast.resilience.rates.reservation import Reservation
from holdfast.resilience.rates.settings import RateLimitSettings
from holdfast.resilience.rates.token_bucket import ROUNDING, quota

if TYPE_CHECKING:
    from holdfast.core.pipeline import Pipeline

__all__ = ["KeysCrowded", "RateLimit", "RateLimitSettings", "Reservation"]

WORTHWHILE: Final = 1e-6
"""Seconds before its deadline at which a call that has waited begins at the latest."""


class KeysCrowded(Event, frozen=True):
    """More keys than ``max_keys`` are busy: new ones share one limit until there is room again."""

    policy: str
    keys: int


class RateLimit(Gate[RateLimitSettings]):
    """Admits ``rate`` calls, ``burst`` of them at once; refuses others as ``RateLimited``, or lets them wait.

    ``call.cost`` is what a call takes. A cost above the burst is refused at once, with no ``retry_after``. With
    ``max_wait`` a call reserves its place in the line and sleeps until its turn, never past its deadline: one
    that would have to wait longer is refused without sleeping, and takes nothing. A cancelled wait gives back what
    can be given back. Calls get their turn in the order in which they came.

    ``try_acquire``, ``acquire``, ``acquire_async`` and ``reserve`` are for code that is no call; they go by the
    same limit, and raise ``ValueError`` for an amount that is negative or no number. Everything may be called from
    any thread and any loop. Observing, nothing is refused and nobody waits; what would have been refused takes
    nothing, what would have waited takes its place.
    """

    kind = "rate_limit"

    @accepts(RateLimitSettings)
    def __init__(self, settings: RateLimitSettings) -> None:
        self.waiting = 0
        self.waited = 0
        self._clock: Clock = settings.clock or SYSTEM
        self._book = Book(settings.terms(self._clock.now()), settings.max_keys)
        super().__init__(settings)

    def apply(self, settings: RateLimitSettings) -> None:
        self._clock = settings.clock or self._clock
        self._keyed = bool(settings.per or settings.key or settings.tier)
        self._key = attrgetter(settings.per) if settings.per else settings.key or _nothing
        self._tier = attrgetter(settings.tier) if isinstance(settings.tier, str) else settings.tier
        self._max_wait = float(settings.max_wait)
        self._strict = not settings.observe
        self._patience = 0.0 if self._strict else self._max_wait
        self.waits = self._max_wait > 0 and not settings.observe
        now = self._clock.now()
        self._book.apply(settings.terms(now), settings.max_keys, now, self._shorten)

    def _shorten(self) -> None:
        """What may be used without a lock. Else they are what gives nothing, and _decide has the word."""
        book = self._book
        main = book.main
        self._table, self._tiers, self._terms = book.table, book.terms, book.terms[MAIN]
        closed = TokenBucket(msgspec.structs.replace(self._terms))
        closed.close()
        self._main = main if main.atomic else closed
        self._find: Callable[[Hashable], Meter | None] = book.table.find if main.atomic else _nothing
        self._plain = isinstance(main, TokenBucket) and not self._keyed and not self._patience
        self._bucket = main if self._plain and isinstance(main, TokenBucket) else closed

    def used_by(self, pipeline: "Pipeline") -> None:
        super().used_by(pipeline)
        if self.settings.clock is None and pipeline.clock is not SYSTEM:
            self._clock = pipeline.clock

    def fragment(self, asynchronous: bool) -> Fragment:
        if self.waits:
            return Around(self.admit_async if asynchronous else self.admit, waits=True)
        return Around(self.enter if self._plain else self._enter_keyed if self._keyed else self._enter_main)

    def enter(self, call: Call) -> object:
        # TokenBucket.take and its refusal written out: calling them would take half as long again.
        bucket = self._bucket
        now = call.now
        if now >= bucket.seen:
            earned = now * bucket.rate
            spent = bucket.spent
            floor = earned - bucket.size
            if spent < floor:
                spent = floor
            after = spent + call.cost
            if after <= earned:
                if after >= spent:  # a cost is never negative; two tests, for a chain of them is slower
                    bucket.seen = now
                    bucket.spent = after
                    return None
            elif after != inf:
                terms = bucket.terms
                far = after - earned > ROUNDING * (earned + bucket.size)
                if far and 0 <= call.cost <= terms.limit and self._strict:
                    facts = quota, terms, earned - spent
                    wait = (after - earned) / bucket.rate + GRAIN
                    raise self.counted(call, RateLimited(self.name, terms.text, wait, facts, call.operation))
        return (self._enter_keyed if self._keyed else self._enter_main)(call)

    def _enter_main(self, call: Call) -> None:
        """As ``enter``, whatever the algorithm."""
        main, now = self._main, call.now
        if main.take(now, call.cost):
            return
        if now >= main.seen and self._strict:
            wait, facts = main.short(now, call.cost)
            if GRAIN < wait < inf:
                raise self.counted(call, RateLimited(self.name, main.terms.text, wait, facts, call.operation))
        _raise(self._decide(call, None, MAIN))

    def _enter_keyed(self, call: Call) -> None:
        """As ``enter``, with a meter for each key, or tier."""
        key = self._key(call)
        tier, terms = MAIN, self._terms
        if self._tier is not None:
            tier = self._tier(call) or MAIN
            terms = self._tiers.get(tier, terms)
        meter, now = self._find(key), call.now
        if meter is not None and meter.terms is terms and now < self._table.due:
            if meter.take(now, call.cost):
                return
            if now >= meter.seen and self._strict:
                wait, facts = meter.short(now, call.cost)
                if GRAIN < wait < inf:
                    raise self.counted(call, RateLimited(self.name, terms.text, wait, facts, call.operation))
        _raise(self._decide(call, key, tier))

    def admit(self, call: Call) -> None:
        if not self._bucket.take(call.now, call.cost):
            self._pause(self._line_up(call, *self._place(call), self._max_wait, thread_bell()), call)

    async def admit_async(self, call: Call) -> None:
        if not self._bucket.take(call.now, call.cost):
            await self._sleep(self._line_up(call, *self._place(call), self._max_wait, TaskBell), call)

    # Code that is no call.

    def try_acquire(self, n: float = 1.0, *, key: Hashable = None, tier: str = MAIN) -> bool:
        """Take ``n`` now, or nothing. Never waits."""
        now = self._clock.now()
        if not tier:
            meter = self._main if key is None else self._find(key)
            if meter is not None and meter.terms is self._terms and now < self._table.due:
                if meter.take(now, n):
                    return True
                if self._plainly_short(meter, now, n, key):
                    self.refused += 1
                    return False
        call = bare_call(self.name, clock=self._clock, now=now, key=key, cost=n)
        return self._decide(call, key, tier) is None

    def acquire(
        self, n: float = 1.0, timeout: float | None = None, *, key: Hashable = None, tier: str = MAIN
    ) -> Reservation:
        """Take ``n``, and block the thread until it may be used: ``timeout`` seconds at most, else ``max_wait``.

        Raises ``RateLimited`` at once, and has taken nothing, when that or the deadline around it is too short,
        ``max_waiting`` callers wait already, or the thread runs an event loop, which must not be blocked.
        """
        call = bare_call(self.name, clock=self._clock, key=key, cost=n, deadline=current_deadline())
        patience = self._max_wait if timeout is None else timeout
        return self._pause(self._line_up(call, key, tier, patience, thread_bell()), call)

    async def acquire_async(
        self, n: float = 1.0, timeout: float | None = None, *, key: Hashable = None, tier: str = MAIN
    ) -> Reservation:
        """As ``acquire``, but lets other tasks run. A cancelled wait gives everything back."""
        call = bare_call(self.name, clock=self._clock, key=key, cost=n, deadline=current_deadline())
        patience = self._max_wait if timeout is None else timeout
        return await self._sleep(self._line_up(call, key, tier, patience, TaskBell), call)

    def reserve(self, n: float = 1.0, timeout: float = inf, *, key: Hashable = None, tier: str = MAIN) -> Reservation:
        """Take ``n`` from the time ``when`` on, which is at most ``timeout`` seconds away. Waiting is the caller's.

        Raises ``RateLimited`` when that is not possible.
        """
        call = bare_call(self.name, clock=self._clock, key=key, cost=n)
        return self._booked(call, key, tier, checked_patience(timeout), "its turn would come too late")

    def cancel(self, reservation: Reservation) -> float:
        """It will not be used: give back what can be given back, and say how much that was.

        Nothing once its time has come; and not what others have reserved after it, who keep their times.
        """
        if not reservation.claim(self._book):
            return 0.0
        return self._book.cancel(self._clock.now(), reservation)

    def settle(self, reservation: Reservation, actual: float) -> float:
        """It cost ``actual``: give back the rest, or take what is missing. Says how much was given back.

        What is missing is taken in any case: the limit goes into debt, and the next calls pay.
        """
        check_amount(actual)
        if not reservation.claim(self._book):
            return 0.0
        return self._book.settle(self._clock.now(), reservation, actual - reservation.cost)

    def refund(self, reservation: Reservation) -> float:
        """It cost nothing: give back all of it."""
        return self.settle(reservation, 0.0)

    def usage(self, key: Hashable = None, *, tier: str = MAIN) -> dict[str, float]:
        """``limit``, ``remaining``, ``reset`` and ``period`` (seconds), as ``RateLimit-*`` headers tell them."""
        return self._book.quota(self._clock.now(), key, tier)

    def snapshot(self) -> dict[str, Any]:
        settings = self.settings
        book = self._book
        return super().snapshot() | {
            "algorithm": settings.algorithm,
            "rate": str(settings.rate),
            **self.usage(),
            "waiting": self.waiting,
            "waited": self.waited,
            "keys": len(book.table),
            "evicted": book.table.evicted,
            "crowded": book.crowded,
        }

    # What they have in common.

    def _place(self, call: Call) -> tuple[Hashable, str]:
        key = self._key(call)
        tier = MAIN if self._tier is None else self._tier(call) or MAIN
        return key, tier

    def _plainly_short(self, meter: Meter, now: float, n: float, key: Hashable) -> bool:
        """Whether ``meter`` would not give ``n`` under the lock either, and nobody wants to hear of it."""
        if not self._strict or self.listeners.active or not 0 <= n < inf or now < meter.seen:
            return False
        return meter is self._main if key is None else meter is self._find(key)

    def _decide(self, call: Call, key: Hashable, tier: str) -> RateLimited | None:
        """Take what the call costs if that is possible now, else return the refusal."""
        meter, wait, mark = self._reserve(call, key, tier, self._patience)
        if mark is not None:
            return None
        error = self._refusal(meter, call, wait, meter.terms.text)
        return None if self.spares(call, error) else error

    def _line_up(
        self, call: Call, key: Hashable, tier: str, patience: float, bell: Callable[[], Bell] | None
    ) -> Reservation:
        """Take what the call costs, or a place that is served within ``patience``: then it is one of ``waiting``.

        Nobody waits without a bell.
        """
        left = call.deadline - call.now - WORTHWHILE
        reason = ""
        patience = checked_patience(patience)
        if patience > 0:
            reason = f"its turn would come after more than {rounded(patience)} s"
            if left < patience:
                patience, reason = max(left, 0.0), "its turn would come after the deadline"
            if bell is None:
                patience, reason = 0.0, "a thread that runs an event loop must not wait"
        queued = patience > 0 and self._queue()
        if patience > 0 and not queued:
            patience, reason = 0.0, f"{self.settings.max_waiting} callers wait already"
        place = None
        try:
            place = self._booked(call, key, tier, patience, reason, None if self.settings.observe else bell)
            place.until = call.now + patience + LATENESS
            if self.settings.observe:
                place.delay = 0.0
            return place
        finally:
            if queued and (place is None or not place.delay):
                self.waiting -= 1

    def _booked(
        self, call: Call, key: Hashable, tier: str, patience: float, reason: str, bell: Callable[[], Bell] | None = None
    ) -> Reservation:
        meter, wait, mark = self._reserve(call, key, tier, patience, bell)
        if mark is not None:
            return Reservation(call.cost, call.now + wait, wait, key, meter, mark, self._book)
        self.refuse(call, self._refusal(meter, call, wait, reason or meter.terms.text))
        return Reservation(0.0, call.now, 0.0, key)

    def _reserve(
        self, call: Call, key: Hashable, tier: str, patience: float, bell: Callable[[], Bell] | None = None
    ) -> tuple[Meter, float, Any]:
        book = self._book
        full = book.full
        got = book.reserve(call.now, call.cost, patience, key, tier, call.clock, bell)
        if book.full and not full and self.listeners.active:
            at, keys = call.clock.wall(), len(book.table)
            self.listeners.emit(lambda: KeysCrowded(at, self.name, keys))
        return got

    def _refusal(self, meter: Meter, call: Call, wait: float, reason: str) -> RateLimited:
        quota = meter.quota(call.now)
        if wait == inf:
            check_amount(call.cost)
            reason = f"{call.cost:g} at once is more than the limit of {quota['limit']:g}"
            return RateLimited(self.name, reason, None, quota, call.operation)
        return RateLimited(self.name, reason, wait, quota, call.operation)

    def _queue(self) -> bool:
        """Become one of those who wait, if there is room. One step."""
        if self.waiting < self.settings.max_waiting:
            self.waiting += 1
            return True
        return False

    def _pause(self, place: Reservation, call: Call) -> Reservation:
        """Block the thread until ``place`` may be used. Stamps the call."""
        if place.delay:
            bell = place.bell
            try:
                while (rest := self._rest(place, call)) > 0:
                    if isinstance(bell, ThreadBell) and call.clock is SYSTEM:
                        bell.wait(rest)
                    else:
                        call.clock.pause(rest)
            except BaseException:
                self._book.abandon(place, call.clock.now())
                raise
            finally:
                self.waiting -= 1
        return place

    async def _sleep(self, place: Reservation, call: Call) -> Reservation:
        """As ``_pause``, for a task."""
        if place.delay:
            bell = place.bell
            try:
                while (rest := self._rest(place, call)) > 0:
                    if isinstance(bell, TaskBell):
                        await bell.wait(rest)
                    else:
                        await call.clock.sleep(max(rest, NAP))
            except BaseException:
                self._book.abandon(place, call.clock.now())
                raise
            finally:
                self.waiting -= 1
        return place

    def _rest(self, place: Reservation, call: Call) -> float:
        """How long to sleep, 0.0 when its turn has come. Raises ``RateLimited`` when it comes too late after all."""
        now = call.clock.now()
        place.when -= max(call.now - now, 0.0)  # a clock that was set back
        call.now = now
        rest = self._book.rest(place, now, call.clock)
        if now >= call.deadline or (rest and now + rest > place.until):
            changed = "its turn would come too late since the limit was changed"
            reason = changed if now < call.deadline else "its deadline passed while it waited"
            retry_after = rest if 0 < rest < inf else None
            quota = self._book.quota(now, place.key, place.tier)
            self.refuse(call, RateLimited(self.name, reason, retry_after, quota, call.operation))
            # It only observes by now.
            self._book.abandon(place, now)
            place.open, rest = False, 0.0
        if rest:
            return min(rest, call.deadline - now)
        place.when = now
        self.waited += 1
        return 0.0


def _nothing(_: object) -> None:
    """The key of a call when there are tiers only, or the meter of a key when none can be used without a lock."""


def _raise(error: RateLimited | None) -> None:
    """Raise ``error``, if there is one, and keep it nowhere: see ``Gate.enter``."""
    try:
        if error is not None:
            raise error
    finally:
        del error
