"""All meters of one rate limit: one for each key, and one in each tier for calls without a key."""

import threading
from collections.abc import Hashable, Mapping
from typing import Any, Final

from holdfast.core.clock import Clock
from holdfast.resilience.rates.meter import Meter, Terms
from holdfast.resilience.rates.reservation import Reservation
from holdfast.resilience.rates.table import Table, carried

MAIN: Final = ""
"""The name of the tier of calls that are in none."""


class Book:
    """Finds the meter of a call, and uses it under a lock. Safe from any thread.

    A key for which there is no room shares the meter of the calls without a key in its tier, so it is counted all
    the same. Hash and equality of keys may run under the lock.
    """

    def __init__(self, terms: Mapping[str, Terms], limit: int) -> None:
        self._lock = threading.Lock()
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

    def apply(self, terms: Mapping[str, Terms], limit: int, now: float) -> None:
        """Go by other terms, and another limit of keys. The meters of keys follow when they are used."""
        with self._lock:
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
                self.shared.pop(name).close()
            self.table.limit = limit

    def reserve(
        self, now: float, n: float, patience: float, key: Hashable, tier: str, clock: Clock
    ) -> tuple[Meter, float, Any]:
        """The meter of ``key`` and ``tier``, and what its ``reserve`` returned."""
        with self._lock:
            meter = self._meter(key, tier, now)
            if now < meter.seen:
                # A stamp that comes late (other threads were faster), or a clock that was set back? Only a fresh
                # reading tells: on a clock that is monotonic it is not before any stamp.
                seen = meter.seen
                back = seen - clock.now()
                if back > 0:
                    meter.rewind(back)
            wait, mark = meter.reserve(now, n, patience)
        return meter, wait, mark

    def cancel(self, now: float, reservation: Reservation) -> float:
        """Give back what can be given back."""
        with self._lock:
            meter = self._present(reservation)
            if meter is None or meter is not reservation.meter:
                return 0.0  # nothing of it counts any more
            return meter.cancel(now, reservation.cost, reservation.when, reservation.mark)

    def settle(self, now: float, reservation: Reservation, extra: float) -> None:
        """What was reserved cost ``extra`` more, or less."""
        with self._lock:
            meter = self._present(reservation)
            if meter is not None and meter is reservation.meter:
                meter.settle(now, reservation.mark, extra)
                return
            if meter is None and extra > 0:
                meter = self._meter(reservation.key, reservation.tier, now)
            if meter is not None:
                meter.settle(now, None, extra)

    def quota(self, now: float, key: Hashable, tier: str) -> dict[str, float]:
        """What is left for ``key`` in ``tier``. A key that has no meter gets none."""
        with self._lock:
            terms = self.terms.get(tier) or self.terms[MAIN]
            if key is None:
                return self.shared[terms.name].quota(now)
            if self.table.find(key) is None:
                return terms.meter(terms).quota(now)
            return self._meter(key, tier, now).quota(now)

    def _meter(self, key: Hashable, tier: str, now: float) -> Meter:
        # Looked up here: what a caller saw before it had the lock may have been replaced.
        terms = self.terms.get(tier) or self.terms[MAIN]
        if key is None:
            return self.shared[terms.name]
        if now >= self.table.due:
            self.table.sweep(now)
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
