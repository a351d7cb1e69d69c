"""Amounts of memory as people write them: ``16KiB``, ``1MB``. Inside, a size is a whole number of bytes."""

import re
from decimal import Decimal
from typing import Final

UNITS: Final[dict[str, int]] = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    # A bare letter is binary, as it is to systemd, to Docker and to Linux's cgroups.
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
}
NAMES: Final = ("TiB", "TB", "GiB", "GB", "MiB", "MB", "KiB", "kB")
"""Units that a size is written in, largest first."""
EXAMPLES: Final = "65536, 64KiB, 1MB, 1.5GiB"
SIZE_LIMIT: Final = 2**63 - 1
"""Bytes; what the operating system's calls can hold."""
TEXT_LIMIT: Final = 40

_TEXT: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zA-Z]*)")


class Size(int):
    """The type of a setting that holds a size in bytes. An int in every way; prints as ``64KiB``."""

    __slots__ = ()

    def __str__(self) -> str:
        return format_size(self)

    def __repr__(self) -> str:
        return f"Size({int(self)})"


def parse_size(value: str | int) -> int:
    """Bytes meant by ``value``: a whole number, or text with a unit in any case.

    kB, MB, GB and TB count in thousands; KiB, MiB, GiB, TiB and the bare letters K, M, G, T in 1024s.
    Raises ``ValueError`` for anything negative, broken, past ``SIZE_LIMIT``, or not a whole number of bytes;
    its text shows the value and examples.
    """
    if isinstance(value, bool):
        raise _refusal(value, "it is true or false")
    if isinstance(value, int):
        return _checked(value, value)
    if not isinstance(value, str):
        raise _refusal(value, f"it is of type {type(value).__name__}")
    text = value.strip()
    if len(text) > TEXT_LIMIT:
        raise _refusal(text[:TEXT_LIMIT] + "...", "it is too long")
    if text.startswith("-"):
        raise _refusal(value, "it is negative")
    match = _TEXT.fullmatch(text)
    if match is None:
        raise _refusal(value, "it is not a number with a unit")
    number, unit = match.groups()
    if (unit or "b").lower() not in UNITS:
        raise _refusal(value, f"the unit {unit!r} is unknown")
    exact = Decimal(number) * UNITS[(unit or "b").lower()]
    if exact > SIZE_LIMIT:
        raise _refusal(value, "it is too large")
    if exact != int(exact):
        raise _refusal(value, "it is not a whole number of bytes")
    return int(exact)


def format_size(size: int) -> str:
    """``size`` bytes in the largest unit that divides it, which ``parse_size`` reads back exactly."""
    size = _checked(size, size)
    for name in NAMES:
        if size and size % UNITS[name.lower()] == 0:
            return f"{size // UNITS[name.lower()]}{name}"
    return f"{size}B"


def _checked(size: int, shown: object) -> int:
    if size < 0:
        raise _refusal(shown, "it is negative")
    if size > SIZE_LIMIT:
        raise _refusal("a huge number", "it is too large")
    return int(size)


def _refusal(shown: object, why: str) -> ValueError:
    return ValueError(f"{shown!r} is not a size: {why}; write for example {EXAMPLES}")
