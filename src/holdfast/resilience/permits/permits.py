"""A number of permits, parts of it for some, and a bounded line of those that wait for one.

It is exact without a lock where nobody waits. Three steps make it so; each is a stretch of code in which CPython
switches to no other thread (docs/adr/0002):

- whoever has a permit looks whether anybody waits and, if not, gives it back (``_give_back``);
- whoever finds no permit free says that it waits (``_begin``). So either the waiter sees the permit, or the
  other one sees the waiter;
- a permit that is given back while somebody waits stays counted until it has a new owner (``_transfer``), so that
  nobody who comes later finds it free.

All that is more than one step is a job of ``_turns``. Permits that come back while somebody waits go through
``_returned``. Whoever has the turn, or can have it at once, passes them on; to give back never blocks.

A finalizer or a signal handler may do everything too. In the middle of a job of its own thread it can take what is
free and give back, but neither wait nor find a partition: then ``_join`` and ``_partition`` say so.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping
from enum import IntEnum
from math import inf
from typing import Any, Final, Literal, NamedTuple

from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.turns import Turns
from holdfast.resilience.permits.partitions import EACH, UNLIMITED, Partition, part_of
from holdfast.resilience.permits.waiters import GRANTED, WAITING, Waiter

STANDING: Final = 0.1
"""A line that has not been empty for so many seconds is no burst but an overload, and is told. The interval of "Fail at
Scale" (Maurer, ACM Queue 13:8, 2015), which has it from CoDel."""
KEPT: Final = 1024
"""Partitions made on demand that are kept before those in which nobody is are forgotten."""
NEWS_LIMIT: Final = 16
"""News of the line that nobody was told yet; the oldest are forgotten."""


class Step(IntEnum):
    """What became of a try: a permit, a place in the line, or neither; CHANGING in the middle of a job."""

    TAKEN = 0
    PLACED = 1
    FULL = 2
    CHANGING = 3


TAKEN: Final = Step.TAKEN
PLACED: Final = Step.PLACED
FULL: Final = Step.FULL
CHANGING: Final = Step.CHANGING


class Plan(NamedTuple):
    """How many permits, how many places to wait, who is served first, and what part of it each partition may take."""

    limit: int
    queue: int
    newest_first: bool
    shares: Mapping[Any, float]


class Permits:
    """What a policy is that hands out permits: ``_limit`` of them, and places to wait. Safe from any thread.

    ``in_flight`` permits are out and ``queued`` places taken. In one step whoever finds ``in_flight`` below ``_open``
    may count it up himself, and holds a permit then whose token is True; and whoever has the token that is
    ``_plain`` may count it down. So the path that every call takes is not a call more.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.queued = 0
        self.pushed_out = 0
        self._open = 0
        self._limit = 0
        self._plain = True
        self._everybody = Partition(None)  # those in no other one; its own count of permits means nothing
        self._queued_since = inf
        self._turns = Turns()
        self._returned: deque[Partition | Waiter] = deque()
        self._crowded: OrderedDict[Partition, None] = OrderedDict()
        self._named: dict[Hashable, Partition] = {}
        self._sweep_at = KEPT
        self._plan = Plan(0, 0, False, {})
        self._standing = False
        self._clock: Clock = SYSTEM
        self._untold: deque[tuple[bool, int, float]] = deque(maxlen=NEWS_LIMIT)

    def _line_changed(self, standing: bool, queued: int, seconds: float) -> None:
        """The line has been standing for ``STANDING`` seconds, or is empty again. Not in a job."""

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Those that are known by a name."""
        return self._turns.look(lambda: tuple(self._named.values()))

    def _configure(self, plan: Plan) -> None:
        """Change everything at once. Waiters that a new limit has room for are let in, before anybody else is.

        ``_refresh`` has to follow, where listeners may be called.
        """
        self._turns.run(self._adopt, plan)

    def _adopt(self, plan: Plan) -> None:
        """A job: change everything."""
        if self.queued:
            self._limit = -1  # newcomers of partitions that are made larger have to wait for their turn
        self._plan = plan
        for key in plan.shares.keys() - self._named.keys() - {EACH}:
            self._name(key)
        self._everybody.places = plan.queue
        for partition in self._named.values():
            self._measure(partition)
        while (waiter := self._next(plan.limit, None)) is not None:
            if self._hand(waiter) and not waiter.wake() and waiter.recall():
                self._returned.append(waiter.partition)
        self._limit = plan.limit
        self._open = -1 if plan.shares else plan.limit

    def _refresh(self) -> None:
        """See to what changed while ``_configure`` was at it."""
        self._turns.run(self._work_off)
        self._spread()
        self._settle()

    def _partition(self, key: Hashable) -> Partition | None:
        """The one that calls of that name belong to, when it is not in ``_named``. None in the middle of a job."""
        if EACH not in self._plan.shares:
            return self._everybody
        if self._turns.mine:
            return None
        partition = self._turns.look(self._made, key)
        self._spread()
        self._settle()
        return partition

    def _take(self, partition: Partition) -> bool:
        """Take a permit if there is one, in one step. A retired partition has none."""
        if self.in_flight < self._limit and partition.in_flight < partition.limit and not partition.retired:
            self.in_flight += 1
            partition.in_flight += 1
            return True
        return False

    def _join(self, waiter: Waiter, clock: Clock, *, waits: bool = True) -> Step:
        """Take a permit for ``waiter.partition`` or, if it ``waits``, a place at the end of the line.

        If the newest are served first, a full line has room for one more: it takes the place of the oldest. That is so
        too when the line has more waiters than it may have by now: one goes, one comes.
        """
        if self._turns.mine:
            return CHANGING
        step = self._turns.look(self._place, waiter, clock, waits)
        self._spread()
        self._settle()
        return step

    def _place(self, waiter: Waiter, clock: Clock, waits: bool) -> Step:
        """A job: ``_join``."""
        partition = waiter.partition
        self._clock = clock
        if partition.retired:
            partition = waiter.partition = self._made(partition.key)
        step = self._begin(partition, waits)
        if step is FULL and waits and partition.queued and self._plan.newest_first and self._plan.queue:
            self._push_out(partition)
            step = self._begin(partition, waits, instead=True)
        if step is PLACED:
            partition.line.join(waiter)
            self._crowded[partition] = None
        self._note_news()
        return step

    def _give_back(self, token: Literal[True] | Partition) -> None:
        """Give a permit back, in one step unless somebody waits: then it is the next waiter's. Never blocks."""
        partition = self._everybody if token is True else token
        if not self.queued:
            self.in_flight -= 1
            partition.in_flight -= 1
            return
        self._returned.append(partition)
        self._settle()

    def _leave(self, waiter: Waiter) -> bool:
        """Stop waiting. False when it has a permit by now, which is the caller's. Never blocks."""
        if not waiter.leave():
            return False
        self._returned.append(waiter)
        self._settle()
        return True

    def _settle(self) -> None:
        """Pass on what came back. Whoever has the turn now looks again when it is over."""
        while self._returned and self._turns.attempt(self._work_off):
            self._spread()

    def _work_off(self) -> None:
        """A job: pass on what came back."""
        while self._returned:
            item = self._returned.popleft()
            if isinstance(item, Partition):
                self._pass_on(item)
            elif item.partition.line.drop(item):
                self._unplace(item.partition)
        self._note_news()

    def _pass_on(self, freed: Partition) -> None:
        while (waiter := self._next(self._limit + 1, freed)) is not None:
            if self._transfer(freed, waiter):
                if waiter.wake() or not waiter.recall():
                    return
                freed = waiter.partition  # nobody is there any more who could use it
        self._drop(freed)

    def _next(self, limit: int, freed: Partition | None) -> Waiter | None:
        """Take out of the line whose turn it is once a permit of ``freed`` is free; the partitions take turns."""
        if self.in_flight >= limit:
            return None
        now = self._clock.now()
        while True:
            for partition in self._crowded:
                if partition.in_flight - (partition is freed) < partition.limit:
                    break
            else:
                return None
            self._crowded.move_to_end(partition)
            waiter = partition.line.take(newest=self._plan.newest_first)
            self._unplace(partition)
            if waiter.until > now:
                return waiter
            waiter.wake()  # its time was over before its own timer came

    def _unplace(self, partition: Partition) -> None:
        self._give_up_place(partition)
        if not partition.queued:
            del self._crowded[partition]

    def _push_out(self, partition: Partition) -> None:
        oldest = partition.line.take(newest=False)
        self._unplace(partition)
        if oldest.push_out():
            self.pushed_out += 1
            oldest.wake()

    # One step each: no call and no loop in them, and they begin where another thread may have been.

    def _begin(self, partition: Partition, waits: bool, *, instead: bool = False) -> Step:
        if self.in_flight < self._limit and partition.in_flight < partition.limit:
            self.in_flight += 1
            partition.in_flight += 1
            return TAKEN
        if not waits:
            return FULL
        if not instead and (self.queued >= self._plan.queue or partition.queued >= partition.places):
            return FULL
        self.queued += 1
        partition.queued += 1
        self._plain = False
        return PLACED

    def _give_up_place(self, partition: Partition) -> None:
        self.queued -= 1
        partition.queued -= 1
        self._plain = not self.queued

    def _transfer(self, freed: Partition, waiter: Waiter) -> bool:
        if waiter.stage is not WAITING:
            return False
        waiter.stage = GRANTED
        freed.in_flight -= 1
        waiter.partition.in_flight += 1
        return True

    def _hand(self, waiter: Waiter) -> bool:
        if waiter.stage is not WAITING:
            return False
        waiter.stage = GRANTED
        self.in_flight += 1
        waiter.partition.in_flight += 1
        return True

    def _drop(self, partition: Partition) -> None:
        self.in_flight -= 1
        partition.in_flight -= 1

    def _made(self, key: Hashable) -> Partition:
        """A job, or in one: the partition of that name, made now if there is none."""
        partition = self._named.get(key)
        if partition is None:
            if len(self._named) >= self._sweep_at:
                unlisted = [known for known in self._named.values() if known.key not in self._plan.shares]
                for known in unlisted:
                    if known.retire():
                        del self._named[known.key]
                self._sweep_at = max(KEPT, 2 * len(self._named))
            partition = self._name(key)
        return partition

    def _name(self, key: Hashable) -> Partition:
        """A new partition. It is measured before others can see it: until then nothing would keep it to its share."""
        partition = Partition(key)
        self._measure(partition)
        self._named[key] = partition
        return partition

    def _measure(self, partition: Partition) -> None:
        limit, queue, _, shares = self._plan
        share = shares.get(partition.key, shares.get(EACH))
        if share is None:
            partition.limit, partition.places = UNLIMITED, queue
        else:
            part = partition.limit = part_of(limit, share)
            partition.places = -(-queue * part // limit)

    def _note_news(self) -> None:
        """Note it when the line has begun to stand, or is empty again. In a job."""
        since = self._queued_since
        if not self.queued:
            self._queued_since = inf
            if self._standing:
                self._standing = False
                self._untold.append((False, 0, self._clock.now() - since))
        elif since == inf:
            self._queued_since = self._clock.now()
        elif not self._standing and (seconds := self._clock.now() - since) > STANDING:
            self._standing = True
            self._untold.append((True, self.queued, seconds))

    def _spread(self) -> None:
        for _ in range(NEWS_LIMIT):
            try:
                news = self._untold.popleft()
            except IndexError:
                return
            self._line_changed(*news)
