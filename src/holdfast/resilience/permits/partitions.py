"""Parts of a bulkhead's permits: how many one of them may hold, and how that is written down."""

import sys
from collections.abc import Hashable, Mapping
from math import floor
from typing import Any, Final

from holdfast.core.kinds import Reader, Refused
from holdfast.resilience.permits.waiters import Line

EACH: Final = "*"
"""The partition that stands for every name which is not listed, each by itself."""
LISTED_LIMIT: Final = 64
"""Partitions that settings may list."""
UNLIMITED: Final = sys.maxsize
"""The limit of a partition for which only the bulkhead's own limit counts."""

EXPECTED: Final = "a share such as 0.3 or 30%, or a whole number of calls, at least 1"


class Partition:
    """Those calls of a bulkhead that belong together. ``limit`` and ``places`` are theirs, of permits and to wait.

    Its numbers are the bulkhead's bookkeeping. ``retired``: nobody was in it, and it has been forgotten; whoever
    still knows it has to look it up again.
    """

    __slots__ = ("in_flight", "key", "limit", "line", "places", "queued", "retired")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.limit = UNLIMITED
        self.places = 0
        self.in_flight = 0
        self.queued = 0
        self.retired = False
        self.line = Line()

    def retire(self) -> bool:
        """Forget it if nobody is in it; one step, since others may be about to enter."""
        if self.in_flight == 0 and self.queued == 0:
            self.retired = True
            return True
        return False


def part_of(whole: int, share: float) -> int:
    """``share`` of ``whole``, rounded, at least 1. An int is a number already."""
    if isinstance(share, int):
        return min(share, whole)
    return max(1, floor(whole * share + 0.5))


def _read_partitions(value: Any) -> dict[Hashable, float]:
    if not isinstance(value, Mapping):
        raise ValueError
    if len(value) > LISTED_LIMIT:
        raise Refused(f"at most {LISTED_LIMIT} partitions", f'"{EACH}" stands for each one that is not listed')
    return {name: _read_share(name, share) for name, share in value.items()}


def _read_share(name: Hashable, share: Any) -> float:
    if isinstance(share, str) and share.strip().endswith("%"):
        try:
            share = float(share.strip()[:-1]) / 100
        except ValueError:
            raise Refused(f"for {name!r} {EXPECTED}") from None
    whole_number = type(share) is int and share >= 1
    if whole_number or (type(share) is float and 0 < share <= 1):
        return share  # type: ignore[no-any-return]  # an int or a float, as just seen
    raise Refused(f"for {name!r} {EXPECTED}")


PARTITIONS: Final = Reader(_read_partitions, "a table of partitions, each with " + EXPECTED)
