"""Rates as people write them: ``100/s``, ``5/m``, ``1000/h``, ``1/10s``. Inside, a rate is a float per second."""

import math
import re
from decimal import Decimal
from typing import Any, Final

from holdfast.core.duration import format_duration, parse_duration
from holdfast.core.kinds import Reader

WORDS: Final = {
    "second": "s",
    "seconds": "s",
    "sec": "s",
    "minute": "m",
    "minutes": "m",
    "min": "m",
    "hour": "h",
    "hours": "h",
    "day": "d",
    "days": "d",
}
"""Names of units that other limiters write out (``5/minute``)."""
EXAMPLES: Final = "100/s, 5/m, 1000/h, 1/10s"
TEXT_LIMIT: Final = 64
"""Characters; no sensible rate is longer."""
SLOWEST: Final = 1e-15
"""A second: one in thirty million years. What is computed from slower rates overflows."""
FASTEST: Final = 1e24
"""A second; so with faster ones."""

_COUNT: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class Rate(float):
    """So many in a period. A float, per second, in every way but one: it knows how it was written.

    ``Rate(60, 60)`` prints as ``60/m``. It equals the float 1.0, but not ``Rate(1)``: a limit of sixty a minute
    lets sixty pass at once, one a second does not.
    """

    __slots__ = ("count", "period")

    count: float
    """How many ..."""
    period: float
    """... in so many seconds."""

    def __new__(cls, count: float, period: float = 1.0) -> "Rate":
        rate = super().__new__(cls, count / period)
        rate.count = float(count)
        rate.period = float(period)
        return rate

    def __getnewargs__(self) -> tuple[float, float]:  # type: ignore[override]  # float's own has one
        return self.count, self.period

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Rate):
            return self.count == other.count and self.period == other.period
        return float.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = float.__hash__

    def __str__(self) -> str:
        try:
            return format_rate(self)
        except ValueError:  # no limit can be made of it, but it can be shown
            return repr(self)

    def __repr__(self) -> str:
        return f"Rate({self.count!r}, {self.period!r})"


def parse_rate(value: Any) -> Rate:
    """The rate meant by ``value``: a number is per second, text is a count, a slash and a duration or a unit.

    Raises ``ValueError`` for anything that is not more than zero, not from ``SLOWEST`` to ``FASTEST``, or not of
    that form; its text shows the value and examples.
    """
    if isinstance(value, Rate):
        _checked(value.count, value.period, value)
        return value
    if isinstance(value, bool):
        raise _refusal(value, "it is true or false")
    if isinstance(value, int | float):
        return _checked(value, 1.0, value)
    if not isinstance(value, str):
        raise _refusal(value, f"it is of type {type(value).__name__}")
    text = value.strip()
    if len(text) > TEXT_LIMIT:
        raise _refusal(text[:TEXT_LIMIT] + "...", "it is too long")
    count, slash, period = (part.strip() for part in text.partition("/"))
    if not _COUNT.fullmatch(count):
        raise _refusal(value, f"{count!r} is not a count")
    return _checked(float(Decimal(count)), _seconds(period, value) if slash else 1.0, value)


def format_rate(rate: Rate) -> str:
    """The usual text for ``rate``, which ``parse_rate`` reads back exactly."""
    count = repr(rate.count).removesuffix(".0")
    period = format_duration(rate.period)
    # One unit is written without its number: 5/m, not 5/1m.
    return f"{count}/{period[1:] if period[0] == '1' and period[1:].isalpha() else period}"


def _seconds(text: str, value: str) -> float:
    if text in WORDS:
        text = WORDS[text]
    try:
        return parse_duration(f"1{text}" if text[:1].isalpha() else text)
    except ValueError:
        raise _refusal(value, f"{text!r} is not a duration or its unit") from None


def _checked(count: float, period: float, shown: object) -> Rate:
    try:
        rate = Rate(count, period)
    except (OverflowError, ZeroDivisionError):
        raise _refusal(shown, "it is out of range") from None
    if not math.isfinite(rate):
        raise _refusal(shown, "it is not finite")
    if rate <= 0 or rate.period <= 0:
        raise _refusal(shown, "it is not more than zero")
    if not SLOWEST <= rate <= FASTEST:
        raise _refusal(shown, "it is out of range")
    return rate


def _refusal(shown: object, why: str) -> ValueError:
    try:
        text = repr(shown)
    except ValueError:  # an int of more digits than Python prints
        text = "a huge number"
    return ValueError(f"{text} is not a rate: {why}; write for example {EXAMPLES}")


RATE: Final = Reader(parse_rate, "a rate such as 100/s, 5/m or 1/10s")
"""Reads a setting that is a rate."""
