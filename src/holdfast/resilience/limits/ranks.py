"""Who is refused first: every call has a rank, and a threshold moves along the ranks with the load."""

from collections.abc import Hashable
from math import inf
from typing import Final
from zlib import crc32

from holdfast.core.context import Criticality

CLASSES: Final = len(Criticality)
BUCKETS: Final = 32
"""Steps of the threshold inside one criticality; between them it is interpolated."""
MEMORY: Final = 0.7
"""What the rates of arrival keep of their old values in each window."""
SAFE: Final = 0.9
"""While the most critical calls need no more than this share of the capacity, none of them is refused by rank."""
CALM_WINDOWS: Final = 10
"""After so many windows without a refusal the calls are not ranked any more."""
_SPREAD: Final = 2654435761
_MASK: Final = 0xFFFFFFFF
_STRIDE: Final = 0.6180339887498949


def position(key: Hashable, salt: int = 0) -> float:
    """Where a user stands among those of the same criticality: from 0.0 (refused last) to below 1.0.

    The same for the same key in every process, as long as the salt (32 bits) is the same. A key that is neither
    text nor bytes counts by its ``repr``.
    """
    if isinstance(key, str):
        data = key.encode("utf-8", "surrogatepass")
    elif isinstance(key, bytes):
        data = key
    else:
        data = repr(key).encode("utf-8", "surrogatepass")
    # CRC alone puts similar names close together; Knuth's multiplication tears them apart.
    return (crc32(data, salt) * _SPREAD & _MASK) / (_MASK + 1)


class Ranks:
    """How many calls of which rank arrive, and the rank from which on they are refused.

    A rank is 0.0 for the most important call and below ``CLASSES`` for the least: whole numbers between the
    criticalities, ``position`` inside of one. ``meet`` may be called by any thread; everything else belongs to the
    owner of the gate's lock. ``active`` says whether calls are to be ranked at all.
    """

    __slots__ = ("_calm", "_last", "_measured", "_offered", "_rates", "_seen", "active", "salt", "threshold")

    def __init__(self) -> None:
        self.active = False
        self.salt = 0
        self.threshold = inf
        self._offered = [0] * (CLASSES * BUCKETS)  # only grows, so that nothing is lost to a reset
        self._seen = list(self._offered)
        self._rates: list[float] = []
        self._measured = 0.0
        self._calm = 0
        self._last = 0.0

    def start(self, now: float) -> None:
        """Rank calls from now on."""
        self.stop()
        self._measured = now
        self._calm = 0
        self.active = True

    def stop(self) -> None:
        """Refuse nobody, and forget what was learned."""
        self.active = False
        self.threshold = inf
        self._seen = list(self._offered)
        self._rates = []

    def meet(self, criticality: int, key: Hashable) -> bool:
        """Count an arrival. Whether its rank is refused."""
        if key is None:
            # Evenly spread, so that exactly the wanted share is refused.
            where = self._last = (self._last + _STRIDE) % 1.0
        else:
            where = position(key, self.salt)
        rank = CLASSES - 1 - criticality + where
        self._offered[int(rank * BUCKETS)] += 1
        return rank >= self.threshold

    @property
    def rate(self) -> float:
        """Calls a second that arrive."""
        return sum(self._rates)

    def measure(self, now: float, shortest: float, *, quiet: bool) -> bool:
        """A window has ended, ``quiet`` if nothing was refused in it. False when there is nothing to judge by.

        After ``CALM_WINDOWS`` quiet ones calls are not ranked any more. What is shorter than ``shortest`` seconds
        is left to the next window.
        """
        self._calm = self._calm + 1 if quiet else 0
        if self._calm >= CALM_WINDOWS:
            self.stop()
            return False
        seconds = now - self._measured
        if seconds < shortest:
            return False
        offered = list(self._offered)
        rates = [(count - before) / seconds for count, before in zip(offered, self._seen, strict=True)]
        self._seen = offered
        self._measured = now
        if self._rates:
            rates = [MEMORY * old + (1 - MEMORY) * new for old, new in zip(self._rates, rates, strict=True)]
        self._rates = rates
        return True

    def admit(self, wanted: float, capacity: float) -> None:
        """Set the threshold so that ``wanted`` calls a second stay; all of them, if no more than that arrive."""
        self.threshold = inf
        if self.rate <= wanted:
            return
        taken = 0.0
        for slot, rate in enumerate(self._rates):
            if rate and taken + rate >= wanted:
                self.threshold = (slot + (wanted - taken) / rate) / BUCKETS
                break
            taken += rate
        if sum(self._rates[:BUCKETS]) <= SAFE * capacity:
            self.threshold = max(self.threshold, 1.0)
