"""A place in a rate limit that somebody holds."""

from collections.abc import Hashable
from math import inf
from typing import Any

from holdfast.resilience.rates.line import Bell, Place
from holdfast.resilience.rates.meter import Meter


class Reservation:
    """So much of a limit, taken at the time ``when``: from then on it may be used.

    Give it back to the limit that it is from: ``cancel`` when it will not be used, ``settle`` when the use turned out
    to cost more or less, ``refund`` when it cost nothing. The first of these counts, later ones do nothing; another
    limit raises ``ValueError``. ``delay`` is how long it was until ``when`` at the time it was made, 0.0 for at once.
    """

    __slots__ = ("cost", "delay", "key", "mark", "meter", "open", "owner", "tier", "until", "when")

    def __init__(
        self,
        cost: float,
        when: float,
        delay: float,
        key: Hashable = None,
        meter: Meter | None = None,
        mark: Any = None,
        owner: object = None,
    ) -> None:
        self.cost = cost
        self.when = when
        self.delay = delay
        self.key = key
        # The limit's own; the mark is what the meter gave, or a place in a line. No meter: it was let pass by a limit
        # that only observes, and holds nothing.
        self.meter = meter
        self.mark = mark
        self.tier = "" if meter is None else meter.terms.name
        self.open = meter is not None
        self.owner = owner
        self.until = inf
        """When whoever waits for it goes away without it."""

    @property
    def bell(self) -> Bell | None:
        """What wakes whoever waits for it."""
        return self.mark.bell if isinstance(self.mark, Place) else None

    def claim(self, owner: object) -> bool:
        """Whether it can still be given back to ``owner``, whose it must be; from now on it cannot. One step."""
        if self.owner is not owner and self.owner is not None:
            raise ValueError("a reservation is given back to the limit that it is from, and this is another one")
        if self.open:
            self.open = False
            return True
        return False

    def __repr__(self) -> str:
        return f"Reservation(cost={self.cost:g}, when={self.when:g}, delay={self.delay:g}, key={self.key!r})"
