"""A bounded dictionary that keeps what is asked for again: SIEVE.

Zhang et al., "SIEVE is Simpler than LRU: an Efficient Turn-Key Eviction Algorithm for Web Caches", NSDI 2024.
Entries stand in the order in which they came and never move. A hit sets a mark; a hand goes from the oldest to the
newest and back to the oldest, wipes marks, and evicts the first entry without one. So a hit needs no lock and
costs one store, where least-recently-used has to move the entry under a lock; and entries that are asked for
once go sooner, which is why it misses less on the skewed loads that caches exist for.
"""

from collections.abc import Hashable
from math import inf
from typing import Generic, Protocol, TypeVar

from holdfast.core.turns import Turns


class Slot:
    """One entry. Derive to hold something. ``until`` is when it is of no use to anybody any more.

    Whoever finds it in ``Sieve.entries`` and uses it sets ``visited``.
    """

    __slots__ = ("key", "newer", "older", "until", "visited")

    def __init__(self, key: Hashable, until: float = inf) -> None:
        self.key = key
        self.until = until
        self.visited = False
        self.newer: Slot | None = None
        self.older: Slot | None = None


class Source(Protocol):
    """Where an entry comes from."""

    @property
    def forgotten(self) -> bool:
        """Whether what comes from there is out of date."""


E = TypeVar("E", bound=Slot)


class Sieve(Generic[E]):
    """At most ``limit`` entries. Safe from any thread, from finalizers, and from keys that call back.

    ``entries`` may be read, not changed, without a lock. Changes take turns (``core.turns``), since keys are hashed
    and compared meanwhile, which may be the user's own code: a change out of the midst of another is made after it,
    and None is returned. What an entry holds is given up after the turn: methods return what they removed. An
    eviction looks at each entry at most once, and on average at few. A key that raises when it is hashed or compared
    is not taken in; one that has changed its hash since (it must not) is found when it is evicted.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.entries: dict[Hashable, E] = {}
        self.evicted = 0
        self._turns = Turns()
        self._newest: Slot | None = None
        self._oldest: Slot | None = None
        self._hand: Slot | None = None

    def put(self, entry: E, now: float, source: Source) -> E | None:
        """Take ``entry`` in. It takes the place of one with its key, else that of the one the hand chooses.

        Not when its ``source`` is forgotten: whoever marks it so and then drops the key has the last word.
        """
        return self._turns.run(self._put, entry, now, source)

    def drop(self, key: Hashable) -> E | None:
        """Remove the entry of ``key``."""
        return self._turns.run(self._drop, key)

    def clear(self) -> list[E]:
        """Remove everything."""
        gone = self._turns.run(self._clear) or []
        for entry in gone:  # links in both directions are cycles, which only the garbage collector would find
            entry.newer = entry.older = None
        return gone

    def bound(self, limit: int) -> list[E]:
        """Have another limit from now on, and remove what is too much."""
        return self._turns.run(self._bound, limit) or []

    def _put(self, entry: E, now: float, source: Source) -> E | None:
        if source.forgotten:
            return None
        key = entry.key
        gone = self.entries.get(key)
        if gone is not None:
            self.entries[key] = entry
            self._swap(gone, entry)
            return gone
        while len(self.entries) >= self.limit:
            gone = self._evict(now)
        self.entries[key] = entry  # raises, if at all, before anything else has changed
        self._add(entry)
        return gone

    def _drop(self, key: Hashable) -> E | None:
        gone = self.entries.pop(key, None)
        if gone is not None:
            self._unlink(gone)
        return gone

    def _clear(self) -> list[E]:
        gone = list(self.entries.values())
        self.entries.clear()
        self._newest = self._oldest = self._hand = None
        return gone

    def _bound(self, limit: int) -> list[E]:
        gone = []
        self.limit = limit
        while len(self.entries) > limit:
            gone.append(self._evict(-inf))
        return gone

    def _evict(self, now: float) -> E:
        at = self._hand or self._oldest
        for _ in range(len(self.entries)):  # hits go on meanwhile: without a bound they could keep the hand busy
            assert at is not None
            if not at.visited or at.until <= now:
                break
            at.visited = False
            at = at.newer or self._oldest
        assert at is not None
        self._hand = at.newer
        gone = self._take_out(at)
        self._unlink(gone)
        self.evicted += 1
        return gone

    def _take_out(self, slot: Slot) -> E:
        """Remove ``slot`` from the entries, also when its key has changed."""
        try:
            found = self.entries.get(slot.key)
        except Exception:  # whatever a key raises, it cannot be found by it
            found = None
        if found is not slot:
            return self._rebuild(slot)
        del self.entries[slot.key]
        return found

    def _rebuild(self, without: Slot) -> E:
        """Look up all entries by what their keys are now: that of ``without`` is not what it was. Return that one."""
        entries = list(self.entries.values())
        self.entries.clear()
        (gone,) = [entry for entry in entries if entry is without]
        for entry in entries:
            if entry is gone:
                continue
            try:
                is_found = self.entries.setdefault(entry.key, entry) is entry
            except Exception:  # whatever a key raises, it cannot be found by it
                is_found = False
            if not is_found:
                self._unlink(entry)
                self.evicted += 1
        return gone

    def _add(self, entry: E) -> None:
        entry.older = self._newest
        if self._newest is None:
            self._oldest = entry
        else:
            self._newest.newer = entry
        self._newest = entry

    def _unlink(self, slot: Slot) -> None:
        if slot is self._hand:
            self._hand = slot.newer
        if slot.newer is None:
            self._newest = slot.older
        else:
            slot.newer.older = slot.older
        if slot.older is None:
            self._oldest = slot.newer
        else:
            slot.older.newer = slot.newer
        slot.newer = slot.older = None

    def _swap(self, old: Slot, new: Slot) -> None:
        """Put ``new`` where ``old`` stands, marked: whoever brings a new value was asked for it."""
        new.visited = True
        new.older, new.newer = old.older, old.newer
        if old is self._hand:
            self._hand = new
        if old.newer is None:
            self._newest = new
        else:
            old.newer.older = new
        if old.older is None:
            self._oldest = new
        else:
            old.older.newer = new
        old.newer = old.older = None
