"""What the tests of all meters share: every algorithm, and times in tenths of a second from a start."""

from typing import Any

from holdfast.resilience.rates import ALGORITHMS, Meter, Terms

START = 1000.0
NAMES = sorted(ALGORITHMS)


def at(tenths: float) -> float:
    """The time so many tenths of a second after the start."""
    return START + tenths / 10


def make(name: str, rate: float, limit: float | None = None, **more: Any) -> Meter:
    """A meter of ``rate`` a second; ``limit`` is what the rate allows in a second unless given."""
    kind = ALGORITHMS[name]
    limit = rate if limit is None else limit
    more = {"warm_up": 4.0, "period": limit / rate if rate and limit else 1.0, **more}
    return kind(Terms(kind, rate, limit, **more))


def set_back(meter: Meter, now: float) -> None:
    """Tell the meter what its owner would see on the clock: that it was set back."""
    if now < meter.seen:
        meter.rewind(meter.seen - now)
