"""What all algorithms of a rate limit have in common.

A *meter* is the state of one limit: of one user, one route, or everybody. The time is an argument, in seconds that
only go up; a time before the last one is taken for the last one, so a late stamp gives no refill and no error.
(golang.org/x/time/rate goes back instead, and earns the time between twice: golang/go issue 56287.)
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import inf, isnan
from typing import Any, ClassVar, Final

import msgspec

GRAIN: Final = 1e-9
"""Seconds that do not count: what is due in less is due. More than floats lose in the first months of uptime.

So each promise below is for an interval that is longer by so much, or by what the clock resolves if that is more.
"""

APART: Final = 2e-9
"""Seconds between reservations that would be due at the same time, so that timers keep their order."""
NEVER: Final = -inf
"""A time before all others; one object for all meters."""
WHOLE: Final = 1e-6
"""What a token may lack and be counted as a whole one."""


class Terms(msgspec.Struct, frozen=True, eq=False):
    """What a meter goes by; shared by all meters of a tier.

    ``rate`` is per second. ``limit`` is what may be used at once: a bucket's burst, a window's count. A window is
    ``period`` seconds long. ``warm_up`` and ``cold`` are for ``WarmUp``. ``text`` is what refusals say, ``name`` the
    tier, ``since`` when these terms began to hold.
    """

    meter: "type[Meter]"
    rate: float
    limit: float
    period: float = 1.0
    warm_up: float = 0.0
    cold: float = 3.0
    text: str = ""
    name: str = ""
    since: float = NEVER

    def same(self, other: "Terms") -> bool:
        """Whether ``other`` says the same, whenever it began."""
        return msgspec.structs.astuple(self)[:-1] == msgspec.structs.astuple(other)[:-1]


def check_amount(n: float) -> None:
    """Raise ``ValueError`` unless ``n`` can be used."""
    if not 0 <= n < inf:
        raise ValueError(f"a cost of {n!r} makes no sense; give 0 or more")


def checked_patience(seconds: float) -> float:
    """``seconds`` to wait; less than none is none. ``ValueError`` for what is no number."""
    if isnan(seconds):
        raise ValueError(f"a timeout of {seconds!r} makes no sense; give seconds")
    return max(seconds, 0.0)


class Meter(ABC):
    """The state of one limit. Begins with nothing used.

    Where ``atomic`` is true each method is one step: no other thread can run between what it reads and what it
    stores (see ``core.policy``), so no lock is needed. Else whoever uses it brings one. ``n`` is never negative.
    """

    __slots__ = ("due", "seen", "terms")

    atomic: ClassVar[bool] = True
    bursts: ClassVar[bool] = True
    """Whether ``Terms.limit`` is free to choose; else it is the count of the rate."""
    moves: ClassVar[bool] = False
    """Whether those that wait move up when somebody gives something back: then it is a ``MovingMeter``."""
    terms: Terms
    seen: float
    """The latest time that was given."""
    due: float
    """When the last one of those that wait goes, where they do not stand in a ``Line``."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.seen = NEVER
        self.due = NEVER

    @abstractmethod
    def take(self, now: float, n: float) -> bool:
        """Use ``n`` now. False, and nothing has changed, when that is not possible, or ``n`` is no number."""

    @abstractmethod
    def reserve(self, now: float, n: float, patience: float) -> tuple[float, Any]:
        """Use ``n`` as soon as possible, after those that have reserved before, if that is within ``patience``.

        Returns the seconds to wait, ``inf`` when no wait would do, and a mark for ``cancel`` and ``settle``; no
        mark (None) means that nothing was taken.
        """

    @abstractmethod
    def cancel(self, now: float, n: float, when: float, mark: Any) -> float:
        """A reservation of ``n`` for the time ``when`` will not be used: give back what can be given back.

        That is nothing once ``when`` has passed. Those that have reserved after it keep their times; what they got
        already is not given back a second time (CancelAt of golang.org/x/time/rate). Returns how much it was.
        """

    @abstractmethod
    def settle(self, now: float, mark: Any, extra: float) -> float:
        """A use turned out to be ``extra`` more than was taken, or less when negative. Returns what was given back.

        That is a use of less than nothing at the time ``now``: with it counted in, the promises hold.
        """

    def owe(self, now: float, used: float, debt: float) -> None:
        """A new one takes the place of another, of which ``used`` counts, and whose waiters will use ``debt`` more.

        They go at the rate of this one, and nobody finds anything in it before they have gone.
        """
        self.settle(now, None, used + debt)

    @abstractmethod
    def left(self, now: float) -> float:
        """How much could be used now; negative when more is reserved than there is."""

    @abstractmethod
    def reset(self, now: float) -> float:
        """Seconds until nothing of what was used counts any more."""

    def quota(self, now: float) -> dict[str, float]:
        """What ``RateLimit-*`` headers tell: ``limit``, ``remaining`` whole ones, ``reset`` and ``period``, seconds."""
        terms = self.terms
        left = self.left(now)
        return {
            "limit": terms.limit,
            "remaining": int(left + WHOLE) if left + WHOLE >= 1 else 0,
            "reset": self.reset(now),
            "period": terms.period,
        }

    def short(self, now: float, n: float) -> tuple[float, Mapping[str, float] | tuple[Any, ...]]:
        """How long until ``n`` could be used, and the quota as refusals carry it; changes nothing."""
        return self.reserve(now, n, -1.0)[0], self.quota(now)

    @abstractmethod
    def move(self, at: float, terms: Terms) -> None:
        """Go by other terms from the time ``at`` on. What is left stays, as far as the new limit lets it."""

    @abstractmethod
    def rewind(self, seconds: float) -> None:
        """The clock was set back by so many seconds: go on from there as if it had not been."""

    @abstractmethod
    def retire(self, now: float) -> bool:
        """Close it for ever if a new one would do as well; whoever still has it will find that it gives nothing."""

    @abstractmethod
    def close(self) -> None:
        """Close it for ever, whatever it has."""


class MovingMeter(Meter):
    """One at which those that wait may move up: see ``Line``."""

    __slots__ = ()

    moves = True

    @abstractmethod
    def join(self, now: float, n: float, patience: float) -> tuple[float, bool]:
        """As ``reserve``, for somebody who does not keep the time that he is told. Whether it was taken."""

    @abstractmethod
    def leave(self, n: float) -> None:
        """Give back all that somebody took by ``join`` who has not used it."""
