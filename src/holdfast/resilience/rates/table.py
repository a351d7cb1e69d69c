"""Meters by key, and never more than a limit of them."""

from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from math import inf
from typing import Final

from holdfast.resilience.rates.meter import Meter, Terms

NEIGHBOURS: Final = 2
"""Keys that are looked at whenever a new one comes. Two make idle ones go faster than new ones can come."""
TRIES: Final = 32
"""Keys that are looked at to find one that may go when there is no room."""
SWEEP_SECONDS: Final = 1.0
"""How often keys are looked at although no new one comes ..."""
SWEEP_KEYS: Final = 500
"""... and how many of them: a fifth of a millisecond's work."""


class Table:
    """``find`` may be called without the owner's lock; everything else needs it.

    A key goes once its meter is as good as new, so that forgetting it loses nothing. They are looked at in turn,
    those that came first first, like the hand of a clock.
    """

    __slots__ = ("_meters", "_ring", "due", "evicted", "find", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.evicted = 0
        self.due = inf
        """When the next sweep is due; never while there are no keys."""
        self._meters: dict[Hashable, Meter] = {}
        self._ring: deque[Hashable] = deque()
        self.find: Callable[[Hashable], Meter | None] = self._meters.get

    def __len__(self) -> int:
        return len(self._meters)

    def get_or_add(self, key: Hashable, terms: Terms, now: float) -> Meter | None:
        """The meter of ``key``, by ``terms`` from now on. None when it has none and there is no room."""
        meter = self._meters.get(key)
        if meter is None:
            self._look_at(NEIGHBOURS, now)
            if len(self._meters) >= self.limit and not self._make_room(now):
                return None
            meter = self._meters[key] = terms.meter(terms)
            self._ring.append(key)
            if self.due == inf:
                self.due = now + SWEEP_SECONDS
        elif meter.terms is not terms:
            meter = self._meters[key] = carried(meter, terms, now)
        return meter

    def sweep(self, now: float) -> None:
        """Look at some keys, so that idle ones go although no new ones come."""
        self._look_at(SWEEP_KEYS, now)
        self.due = now + SWEEP_SECONDS if self._meters else inf

    def _make_room(self, now: float) -> bool:
        for _ in range(TRIES):
            self._look_at(1, now)
            if len(self._meters) < self.limit:
                return True
        return False

    def _look_at(self, count: int, now: float) -> None:
        for _ in range(min(count, len(self._ring))):
            if not self._ring:  # there were more than one that had changed
                break
            key = self._ring.popleft()
            try:
                meter = self._meters.get(key)
            except Exception:  # what a key raises is no concern of whoever comes with another one
                meter = None
            if meter is None:
                self._drop_changed(key)
            elif meter.retire(now):
                del self._meters[key]
                self.evicted += 1
            else:
                self._ring.append(key)

    def _drop_changed(self, changed: Hashable) -> None:
        """Forget ``changed``, whose hash is not what it was. No lookup finds it, so all others are put in anew."""
        kept: dict[Hashable, Meter] = {}
        for key, meter in self._meters.items():
            with suppress(Exception):  # as above
                if key is not changed:
                    kept[key] = meter
        self.evicted += len(self._meters) - len(kept)
        self._meters.clear()
        self._meters.update(kept)
        self._ring = deque(kept)


def carried(meter: Meter, terms: Terms, now: float) -> Meter:
    """A meter that goes by ``terms`` and has what ``meter`` has left, which is not to be used by others any more.

    That is the same one where it can be; a new one when that is as good, or the algorithm is another one. Those that
    wait at the old one go on there, and the new one counts what they will use.
    """
    at = terms.since if meter.terms.name == terms.name else now
    if meter.retire(at):
        return terms.meter(terms)
    if type(meter) is terms.meter:
        meter.move(at, terms)
        return meter
    left = meter.left(at)
    debt = max(-left, (meter.due - at) * terms.rate, 0.0)
    new = terms.meter(terms)
    new.owe(at, min(max(meter.terms.limit - left, 0.0), terms.limit), debt)
    if not debt:
        meter.close()
    return new
