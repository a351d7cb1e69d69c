"""All meters of one rate limit: one for each key, and one in each tier for calls without a key."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

import msgspec

from holdfast.core.clock import Clock
from holdfast.core.turns import Turns
from holdfast.resilience.rates.line import NAP, Bell, Line, Place
from holdfast.resilience.rates.meter import APART, GRAIN, Meter, MovingMeter, Terms
from holdfast.resilience.rates.reservation import Reservation
from holdfast.resilience.rates.table import Table, carried

MAIN: Final = ""
"""The name of the tier of calls that are in none."""


class Book:
    """Finds the meter of a call, and uses it under a lock. Safe from any thread.

    A key for which there is no room shares the meter of the calls without a key in its tier, so it is counted all
    the same. Hash and equality of keys may run under the lock, and so may finalizers and signal handlers. What they
    reserve here in the middle of other work of their thread is refused; what they give back is counted after it.
    """

    def __init__(self, terms: Mapping[str, Terms], limit: int) -> None:
        self._turns = Turns()
        self._lines: dict[Meter, Line] = {}
        self.table = Table(limit)
        self.terms = dict(terms)
        self.shared = {name: made.meter(made) for name, made in terms.items()}
        self.crowded = 0
        """Uses by keys for which there was no room."""
        self.full = False
        """Whether there was none for the last new key."""

    @property
    def main(self) -> Meter:
        """The meter of calls that are in no tier and have no key."""
        return self.shared[MAIN]

    def apply(
        self, terms: Mapping[str, Terms], limit: int, now: float, then: Callable[[], None] = lambda: None
    ) -> None:
        """Go by other terms, and another limit of keys. The meters of keys follow when they are used.

        Those that wait do so by the new terms, and by the old algorithm if that is another one now. ``then`` is
        called before anybody else has his turn, later when a signal handler makes the change.
        """
        self._turns.run(self._apply, terms, limit, now, then)

    def reserve(
        self,
        now: float,
        n: float,
        patience: float,
        key: Hashable,
        tier: str,
        clock: Clock,
        bell: Callable[[], Bell] | None = None,
    ) -> tuple[Meter, float, Any]:
        """The meter of ``key`` and ``tier``, how long it takes until ``n`` may be used, and the meter's mark.

        No mark: nothing was taken. In place of the mark it is a ``Place`` where others wait, or the caller will and
        can be woken by a ``bell``. He has to call ``rest`` then, and ``abandon`` it if he gives up.
        """
        if self._turns.mine:
            return self.shared.get(tier, self.main), NAP, None
        got = self._turns.run(self._reserve, now, n, patience, key, tier, clock, bell)
        return got or (self.shared.get(tier, self.main), NAP, None)

    def rest(self, reservation: Reservation, now: float, clock: Clock) -> float:
        """How long to sleep before looking again; 0.0 when it may be used, ``inf`` when it never will be."""
        place = reservation.mark
        if not isinstance(place, Place):
            left = reservation.when - now
            return left if left > GRAIN else 0.0
        rest = self._turns.run(self._rest, place, now, clock)
        return NAP if rest is None else rest

    def abandon(self, reservation: Reservation, now: float) -> float:
        """Whoever waited will not use it: give back what can be given back."""
        place = reservation.mark
        if not isinstance(place, Place):
            return self.cancel(now, reservation)
        return self._turns.run(self._abandon, place, now) or 0.0

    def cancel(self, now: float, reservation: Reservation) -> float:
        """Give back what can be given back. Returns how much that is."""
        if isinstance(reservation.mark, Place):
            return self.abandon(reservation, now) if now <= reservation.when + GRAIN else 0.0
        return self._turns.run(self._cancel, now, reservation) or 0.0

    def settle(self, now: float, reservation: Reservation, extra: float) -> float:
        """What was reserved cost ``extra`` more, or less. Returns what was given back."""
        return self._turns.run(self._settle, now, reservation, extra) or 0.0

    def quota(self, now: float, key: Hashable, tier: str) -> dict[str, float]:
        """What is left for ``key`` in ``tier``. A key that has no meter gets none."""
        terms = self._terms(tier)
        meter = self.shared.get(terms.name) if key is None else self.table.find(key)
        if meter is None or self._turns.mine:  # in the middle of other work: what is there, and nothing is changed
            return (meter or terms.meter(terms)).quota(now)
        if meter.terms is terms and meter.atomic:
            quota = meter.quota(now)
            if quota["remaining"]:  # else it may have been closed meanwhile
                return quota
        return self._turns.look(self._quota, now, key, tier)

    # What follows has the turn.

    def _apply(self, terms: Mapping[str, Terms], limit: int, now: float, then: Callable[[], None]) -> None:
        for name, new in terms.items():
            old = self.terms.get(name)
            if old is None:
                self.shared[name] = new.meter(new)
            elif old.same(new):
                continue
            elif type(self.shared[name]) is new.meter:
                self.shared[name].move(now, new)
            else:
                self.shared[name] = carried(self.shared[name], new, now)
            self.terms[name] = new
        for name in self.terms.keys() - terms.keys():
            del self.terms[name]
            meter = self.shared.pop(name)
            if meter not in self._lines:
                meter.close()
        self.table.limit = limit
        for line in tuple(self._lines.values()):
            key, meter = line.key, line.meter
            if key is not None and self.table.find(key) is meter:
                self._meter(key, line.tier, now)
            if meter is not self.shared.get(line.tier) and (key is None or meter is not self.table.find(key)):
                # Nobody else uses it any more.
                meter.move(now, msgspec.structs.replace(self._terms(line.tier), meter=type(meter)))
            self._serve(line, now)
        then()

    def _reserve(
        self,
        now: float,
        n: float,
        patience: float,
        key: Hashable,
        tier: str,
        clock: Clock,
        bell: Callable[[], Bell] | None,
    ) -> tuple[Meter, float, Any]:
        meter = self._meter(key, tier, now)
        self._steady(meter, now, clock)
        line = self._lines.get(meter)
        if line is None:
            moves = bell is not None and meter.moves
            wait, mark = meter.reserve(now, n, 0.0 if moves else patience)
            if wait > 0 and mark is not None and bell is not None:
                wait = max(wait, meter.due + APART - now)
                meter.due = now + wait
            if mark is not None or not moves:
                return meter, wait, mark
            assert isinstance(meter, MovingMeter)
            line = Line(meter, key, tier)
        line.serve(now)
        wait, taken = line.meter.join(now, n, 0.0 if bell is None and line.crowded else patience)
        place = line.join(n, now + wait, None if bell is None else bell()) if taken else None
        self._lines[meter] = line
        self._serve(line, now)
        return meter, 0.0 if place is not None and place.served else wait, place

    def _rest(self, place: Place, now: float, clock: Clock) -> float:
        line = place.line
        self._steady(line.meter, now, clock)
        rest = line.rest(place, now)
        self._drop_if_empty(line)
        return rest

    def _abandon(self, place: Place, now: float) -> float:
        line = place.line
        if place.served:
            back = line.give_back(now, None, place.n)
        else:
            back = place.n
            line.leave(place, now)
        self._serve(line, now)
        return back

    def _cancel(self, now: float, reservation: Reservation) -> float:
        meter = self._present(reservation)
        if meter is None or meter is not reservation.meter:
            return 0.0  # nothing of it counts any more
        back = meter.cancel(now, reservation.cost, reservation.when, reservation.mark)
        if meter in self._lines:
            self._serve(self._lines[meter], now)
        return back

    def _settle(self, now: float, reservation: Reservation, extra: float) -> float:
        meter = self._present(reservation)
        mark = reservation.mark
        if meter is not reservation.meter or isinstance(mark, Place):
            mark = None
        if meter is None and extra > 0:
            meter = self._meter(reservation.key, reservation.tier, now)
        if meter is None:
            return 0.0
        line = self._lines.get(meter)
        if line is None or extra > 0:
            return meter.settle(now, mark, extra)
        back = line.give_back(now, mark, -extra)
        self._serve(line, now)
        return back

    def _quota(self, now: float, key: Hashable, tier: str) -> dict[str, float]:
        terms = self._terms(tier)
        if key is None:
            return self.shared[terms.name].quota(now)
        if self.table.find(key) is None:
            return terms.meter(terms).quota(now)
        return self._meter(key, tier, now).quota(now)

    def _terms(self, tier: str) -> Terms:
        return self.terms.get(tier) or self.terms[MAIN]

    def _serve(self, line: Line, now: float) -> None:
        line.serve(now)
        self._drop_if_empty(line)

    def _drop_if_empty(self, line: Line) -> None:
        if not line:
            self._lines.pop(line.meter, None)

    def _steady(self, meter: Meter, now: float, clock: Clock) -> None:
        """Tell ``meter``, and those that wait for it, if the clock was set back."""
        if now < meter.seen:
            # A stamp that comes late (other threads were faster), or a clock that was set back? Only a fresh
            # reading tells: on a clock that is monotonic it is not before any stamp.
            seen = meter.seen
            back = seen - clock.now()
            if back > 0:
                meter.rewind(back)
                meter.due -= back
                if meter in self._lines:
                    self._lines[meter].rewind(back)

    def _meter(self, key: Hashable, tier: str, now: float) -> Meter:
        # Looked up here: what a caller saw before it had the lock may have been replaced.
        terms = self._terms(tier)
        if key is None:
            return self.shared[terms.name]
        if now >= self.table.due:
            self.table.sweep(now)
            for line in tuple(self._lines.values()):
                self._serve(line, now)
        meter = self.table.get_or_add(key, terms, now)
        self.full = meter is None
        if meter is None:
            self.crowded += 1
            return self.shared[terms.name]
        return meter

    def _present(self, reservation: Reservation) -> Meter | None:
        """The meter that is now in the place of that of ``reservation``. None when there is none any more."""
        shared = self.shared.get(reservation.tier)
        if reservation.key is None or reservation.meter is shared:
            return shared
        return self.table.find(reservation.key)
