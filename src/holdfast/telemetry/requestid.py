"""The id of a request: taken over from a peer that is believed, or a fresh one."""

import os
import re
from typing import Final

ID_BYTES: Final = 16
"""As many random bits as a UUID, so that ids of a whole fleet do not meet."""
ID_LIMIT: Final = 128
"""Characters of an id that is taken over; a UUID has 36."""
STOCK: Final = 128
"""Ids that are made at once: one call of the system costs as much as many ids."""

_DIGITS: Final = 2 * ID_BYTES
# No blank, quote, bracket, "$" or "%": an id goes into headers, log lines, queries and tables. The first character is
# none with which a spreadsheet begins a formula.
_is_sane: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=@~-]*").fullmatch


def taken_over(value: bytes) -> str | None:
    """The id that a header ``x-request-id`` has in it; None when it is too long or has anything odd in it.

    It is not repaired: an id that was changed is found in nobody's log.
    """
    return value.decode("ascii") if len(value) <= ID_LIMIT and _is_sane(value) else None


class RequestIds:
    """Makes ids of 32 hexadecimal digits from the system's randomness: they do not repeat, and nobody guesses one.

    Safe from any thread. Not to be used on both sides of a fork: the stock would be handed out twice.
    """

    __slots__ = ("_stock",)

    def __init__(self) -> None:
        self._stock: list[str] = []

    def fresh(self) -> str:
        """An id that nobody has had."""
        try:
            return self._stock.pop()
        except IndexError:
            digits = os.urandom(ID_BYTES * STOCK).hex()
            made = [digits[start : start + _DIGITS] for start in range(0, len(digits), _DIGITS)]
            last = made.pop()  # this caller's own: others may take the rest at once
            self._stock += made
            return last

    def of(self, value: bytes | None, *, trusted: bool) -> str:
        """``value`` (the header, None without one) when its sender is ``trusted`` and it is sane; else a fresh id."""
        if value is not None and trusted:
            known = taken_over(value)
            if known is not None:
                return known
        return self.fresh()
