"""Durations as people write them: ``500ms``, ``1m30s``, ``2h``. Inside, a duration is float seconds."""

import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Self, overload

UNITS: Final[dict[str, Decimal]] = {
    "us": Decimal("0.000001"),
    "µs": Decimal("0.000001"),
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
EXAMPLES: Final = "500ms, 1.5s, 1m30s, 2h"
TEXT_LIMIT: Final = 64
"""Characters; no sensible duration is longer."""
SHORT: Final = 1e-9
"""Seconds below which a duration is written as plain seconds too."""
LONG: Final = 1e9
"""Seconds (31 years) from which a duration is written as plain seconds."""
VAST: Final = 1e15
"""Seconds from which nobody counts the zeros: a rounded figure has an exponent then."""

_NUMBER: Final = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_PLAIN: Final = re.compile(_NUMBER)
_PART: Final = re.compile(rf"({_NUMBER})\s*([a-zA-Zµ]+)\s*")


class Duration(float):
    """The type of a setting that holds a duration in seconds. A float in every way; prints as ``1m30s``.

    Its ``repr`` is what messages show: in one unit, so that 60 stays ``60s``. A field of this type is given as a
    number or as text, and is a float when it is read: type checkers know that from the two methods that are only
    for them, since a dataclass's field with ``__set__`` is given what that takes.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return format_duration(self)

    def __repr__(self) -> str:
        # A nan or a negative one is nothing that a setting holds, but whoever looks for it must be able to see it.
        if not (1 <= self < LONG):
            return format_duration(self) if self >= 0 else f"{float(self)!r}s"
        return f"{_digits(Decimal(float.__repr__(self)))}s"

    if TYPE_CHECKING:

        @overload
        def __get__(self, settings: None, owner: Any, /) -> Self: ...
        @overload
        def __get__(self, settings: object, owner: Any, /) -> float: ...
        def __get__(self, settings: object, owner: Any, /) -> float: ...
        def __set__(self, settings: object, value: float | str, /) -> None: ...


def parse_duration(value: str | int | float) -> float:
    """Seconds meant by ``value``; a plain number, or text without a unit, is seconds already.

    The units are us, ms, s, m, h and d; parts add up, as in ``1m30s``. Raises ``ValueError`` for anything
    negative, not finite, empty or with an unknown unit; its text shows the value and examples.
    """
    if isinstance(value, bool):
        raise _refusal(value, "it is true or false")
    if isinstance(value, int | float):
        return _checked(value, value)
    if not isinstance(value, str):
        raise _refusal(value, f"it is of type {type(value).__name__}")
    text = value.strip()
    if len(text) > TEXT_LIMIT:
        raise _refusal(text[:TEXT_LIMIT] + "...", "it is too long")
    if not text:
        raise _refusal(value, "it is empty")
    if text.startswith("-"):
        raise _refusal(value, "it is negative")
    try:
        return _checked(float(_total(text)), value)
    except ArithmeticError:
        raise _refusal(value, "it is out of range") from None


def format_duration(seconds: float) -> str:
    """The shortest usual text for ``seconds`` (0 or more), which ``parse_duration`` reads back exactly."""
    seconds = _checked(seconds, seconds)
    if seconds >= LONG or 0 < seconds < SHORT:
        return f"{seconds!r}s"
    return _spelled(Decimal(repr(seconds)))


def rounded(seconds: float) -> str:
    """``seconds`` as a figure for people: three digits that count, and no exponent. ``4.99957`` is ``5``."""
    size = abs(seconds)
    if size < SHORT:
        return "0"
    if not size < VAST:
        return f"{seconds:.3g}"
    places = 2 - math.floor(math.log10(size))
    return _digits(Decimal(f"{seconds:.{max(places, 0)}f}"))


def _total(text: str) -> Decimal:
    if _PLAIN.fullmatch(text):
        return Decimal(text)
    total = Decimal(0)
    position = 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            raise _refusal(text, f"{text[position:]!r} is not a number with a unit")
        number, unit = part.groups()
        # "5M" is five minutes to one reader and five million to the next: units are in lower case only.
        if unit not in UNITS:
            raise _refusal(text, f"the unit {unit!r} is not one of us, ms, s, m, h, d")
        total += Decimal(number) * UNITS[unit]
        position = part.end()
    return total


def _checked(seconds: int | float, shown: object) -> float:
    try:
        result = float(seconds)
    except OverflowError:
        raise _refusal("a huge number", "it is out of range") from None
    if not math.isfinite(result):
        raise _refusal(shown, "it is not finite")
    if result < 0:
        raise _refusal(shown, "it is negative")
    return abs(result)  # -0.0 is 0


def _spelled(exact: Decimal) -> str:
    if exact == 0:
        return "0s"
    if exact < UNITS["ms"]:
        return f"{_digits(exact / UNITS['us'])}us"
    if exact < 1:
        return f"{_digits(exact / UNITS['ms'])}ms"
    parts = []
    for unit in ("d", "h", "m"):
        count, exact = divmod(exact, UNITS[unit])
        if count:
            parts.append(f"{count:f}{unit}")
    if exact:
        parts.append(f"{_digits(exact)}s")
    return "".join(parts)


def _digits(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _refusal(shown: object, why: str) -> ValueError:
    return ValueError(f"{shown!r} is not a duration: {why}; write for example {EXAMPLES}")
