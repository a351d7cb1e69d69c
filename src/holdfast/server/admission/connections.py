"""How much each client has open at the same time."""

from typing import Final

CLIENTS_LIMIT: Final = 65_536
"""Clients that are told apart: about 8 MB. Past that, new ones are counted together."""
TOGETHER: Final = "together"
"""The key under which they are."""
SHARED: Final = 100
"""How many times the limit of one client they have."""
SEEN_OFF_LIMIT: Final = 128
"""Refused connections that are told why and seen to their end, at the same time: they count for nobody any more, and
each keeps a descriptor until its client has read the answer and gone, or for the ``linger`` of ``HttpSettings``. What
comes beyond them is closed at once."""


class Connections:
    """Counts by client, at most ``limit`` each; 0 is no limit. Belongs to one thread.

    A client is there only while it holds something, so the table is no larger than what is held. When it is full,
    clients that are new share one count, of ``SHARED`` times the limit: they are many, and none of them is known to
    have done anything; but one that has something open cannot push another one out and begin anew.
    """

    def __init__(self, limit: int = 0, clients: int = CLIENTS_LIMIT) -> None:
        self.limit = limit
        self.refused = 0
        self.crowded = 0
        """Times that a client was counted together with others."""
        self.leaving = 0
        """Connections that are seen off."""
        self._clients = clients
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def take(self, key: str) -> str | None:
        """Count one for ``key``: what has to be given back. None when it has as many as it may have."""
        counts = self._counts
        count = counts.get(key, 0)
        limit = self.limit
        if not count and len(counts) >= self._clients:
            self.crowded += 1
            key = TOGETHER
            count = counts.get(key, 0)
            limit *= SHARED
        if 0 < limit <= count:
            self.refused += 1
            return None
        counts[key] = count + 1
        return key

    def give_back(self, key: str) -> None:
        """One that ``take`` has counted under ``key`` has ended."""
        count = self._counts[key] - 1
        if count:
            self._counts[key] = count
        else:
            del self._counts[key]

    def see_off(self) -> bool:
        """Whether a connection that ``take`` has refused may be told why. If so ``seen_off`` must be called once."""
        if self.leaving >= SEEN_OFF_LIMIT:
            return False
        self.leaving += 1
        return True

    def seen_off(self) -> None:
        """A connection of which ``see_off`` said yes has ended."""
        self.leaving -= 1

    def held(self, key: str) -> int:
        """How much ``key`` has open."""
        return self._counts.get(key, 0)
