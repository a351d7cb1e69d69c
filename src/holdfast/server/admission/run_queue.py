"""Requests that wait for their turn: fair between users, and short when there is more to do than can be done.

A handler that computes for 5 ms lets 64 requests be read while one is worked on. Whoever starts them all at once
has no queue to govern: all are late together. So only so many run at a time, and the others wait here.

It is FQ-CoDel (RFC 8290), carried over from packets to requests, with the rule of "Fail at scale" (Maurer, ACM
Queue 2015) in the place of CoDel's drop schedule: a packet that is dropped comes again, a request that is refused
should not have waited first.

- *Flows.* Requests of one user, tenant or address wait in one line; the lines are served in turn, and one that has
  just begun goes first. Twelve times the traffic of one tenant makes that tenant wait, and nobody else: who has had
  clearly more turns lately lets others go before. (In turn alone, a burst of two of a light tenant waits for the heavy
  one in between: the 99th percentile of the light ones was 1.45 times that before, and is 0.9 times now.)
- *Classes.* More critical requests go before less critical ones, which then are those that wait too long.
- *Standing queues.* A request may wait for ``patience``: a burst passes, and so does a pool of connections that are all
  busy. Once somebody has waited for longer there is more to do than can be done: from then on nobody in that class may
  wait for longer than ``target``, until nothing has been refused for ``HOLD``. As a queue of clients that come back at
  once would never end that, there is a *trial* now and then: ``patience`` counts again, and when it suffices, the
  overload is over.
- *Who pays.* When somebody has waited for too long, the oldest request of who has clearly sent more lately is refused,
  else that of the longest line, and most often it is the same one. Where it is another's, who waited stays. Lines alone
  do not tell: in an overload they are so short that each has one request.
"""

from collections import deque
from collections.abc import Hashable, Iterator
from itertools import chain, islice
from math import exp, inf
from typing import Any, Final, Generic, TypeVar

R = TypeVar("R")

FLOWS: Final = 1024
"""Lines in one class. Keys share them by their hash, so no key can make the memory grow; the default of RFC 8290."""
LENGTH_LIMIT: Final = 4096
"""Requests that may wait, of all classes together."""
LOOKS: Final = 64
"""Lines that are looked at for the longest one, or a lighter one."""
LATELY: Final = 1.0
"""Seconds for which what somebody has sent is remembered, as the time constant of a decay."""
HEAVIER: Final = 2.0
"""Who has sent this many times as much as another pays for both, and who has begun as many lets the other go first."""
MARGIN: Final = 4.0
"""... and so many more: the turns of equal ones differ by chance."""
SCALE_LIMIT: Final = 1e12
"""Up to so much the weight of a request that begins grows, where it is not those of before that decay."""
SPARED_LIMIT: Final = 4
"""So many may stay although nobody has paid for them, since what the heaviest sends is refused already."""
TRIAL: Final = 10.0
"""Seconds until the first trial; each one that fails doubles them, ..."""
TRIAL_LIMIT: Final = 60.0
"""... up to so many."""
TRIAL_LENGTH: Final = 1.0
"""Seconds of a trial in which nobody waits for too long, and which ends the overload."""
HOLD: Final = 0.3
"""Seconds for which a class is kept short after its last refusal. In a simulation of 5 ms of work a request 0.1 to 1.0
made no difference from 1.4 times the capacity on; shorter ones refuse less of a load just below that."""
TARGET: Final = 0.015
"""Seconds; three times the work of a request is a good one: 97 % of the capacity is used, and nobody waits for long."""
PATIENCE: Final = 0.5
"""Seconds that a request may wait while there is no overload: 64 connections that are always busy, with 5 ms of work a
request, make each wait for 0.32."""


class Entry(Generic[R]):
    """One request that waits. ``gone``: it has been taken, has waited too long, or nobody wants it any more."""

    __slots__ = ("arrived", "flow", "gone", "request")

    def __init__(self, request: R, arrived: float, flow: "_Flow[R]") -> None:
        self.request = request
        self.arrived = arrived
        self.flow = flow
        self.gone = False


class _Flow(Generic[R]):
    """A line. It is ``listed`` while its turn will come."""

    __slots__ = ("begun", "entries", "group", "listed", "sent", "sent_at", "waiting")

    def __init__(self, group: "_Class[R]") -> None:
        self.group = group
        self.entries: deque[Entry[R]] = deque()
        self.waiting = 0
        self.listed = False
        self.begun = 0.0  # how many have begun lately, in the weight of the class
        self.sent = 0.0
        self.sent_at = -inf

    def count(self, now: float) -> None:
        """One more has come."""
        self.sent = self.sent_by(now) + 1.0
        self.sent_at = now

    def sent_by(self, now: float) -> float:
        """How many have come lately: those of ``LATELY`` seconds ago count for a third."""
        return self.sent * exp((self.sent_at - now) / LATELY) if self.sent else 0.0


class _Class(Generic[R]):
    """The requests of one criticality. ``order`` has all by arrival, ``spared`` those for whom another one paid."""

    __slots__ = (
        "epoch",
        "flows",
        "heaviest",
        "new",
        "old",
        "order",
        "short_until",
        "spared",
        "trial_at",
        "trial_in",
        "trying",
        "waiting",
    )

    def __init__(self) -> None:
        self.flows: dict[int, _Flow[R]] = {}
        self.epoch = -inf
        self.heaviest: _Flow[R] | None = None
        self.new: deque[_Flow[R]] = deque()
        self.old: deque[_Flow[R]] = deque()
        self.order: deque[Entry[R]] = deque()
        self.spared: deque[Entry[R]] = deque()
        self.waiting = 0
        self.short_until = -inf
        self.trial_in = TRIAL
        self.trial_at = inf
        self.trying = False

    def short(self, now: float) -> bool:
        """Whether there is more to do than can be done."""
        return now < self.short_until

    def refused(self, now: float) -> None:
        """Somebody has waited for too long."""
        if self.trying:
            self.trial_in = min(2 * self.trial_in, TRIAL_LIMIT)
        if self.trying or not self.short(now):
            self.trying = False
            self.trial_at = now + self.trial_in
        self.short_until = now + HOLD

    def limit(self, now: float, target: float, patience: float) -> float:
        """How long one may wait."""
        if not self.short(now):
            self.trying = False
            self.trial_in = TRIAL
            return patience
        if not self.trying and now >= self.trial_at:
            self.trying = True
            self.short_until = now + TRIAL_LENGTH
        return patience if self.trying else target

    def put(self, request: R, arrived: float, key: Hashable) -> Entry[R]:
        number = hash(key) % FLOWS
        flow = self.flows.get(number)
        if flow is None:
            flow = self.flows[number] = _Flow(self)
        flow.count(arrived)
        if self.heaviest is None or flow.sent_by(arrived) > self.heaviest.sent_by(arrived):
            self.heaviest = flow
        entry = Entry(request, arrived, flow)
        flow.entries.append(entry)
        self.order.append(entry)
        flow.waiting += 1
        self.waiting += 1
        if not flow.listed:
            flow.listed = True
            self.new.append(flow)
        return entry

    def first(self, now: float) -> Entry[R]:
        """Take the first of the line whose turn it is. Something must wait."""
        flow = self.new.popleft() if self.new else self.old.popleft()
        while not flow.waiting:
            flow.listed = False
            flow = self.new.popleft() if self.new else self.old.popleft()
        weight = self.weight(now)
        if flow.begun > MARGIN * weight:
            for other in islice(chain(self.new, self.old), LOOKS):
                if other.waiting and flow.begun > HEAVIER * other.begun + MARGIN * weight:
                    self.old.appendleft(flow)  # it keeps its turn
                    (self.new if other in self.new else self.old).remove(other)
                    flow = other
                    break
        # A line that is empty now stays for one round: else whoever sends one request at a time would always be new,
        # and go before all others.
        self.old.append(flow)
        flow.begun += weight
        return self.drop(next(entry for entry in flow.entries if not entry.gone))

    def weight(self, now: float) -> float:
        """What a request that begins ``now`` counts: ever more, so that those of before count ever less beside it.

        That is forward decay (Cormode and others, ICDE 2009): one number to compute, however many lines there are.
        """
        weight = exp(min(now - self.epoch, LATELY * 700) / LATELY)
        if weight > SCALE_LIMIT:
            for flow in self.flows.values():
                flow.begun /= weight
            self.epoch = now
            return 1.0
        return weight

    def longest(self) -> _Flow[R]:
        """The longest line, among those that are looked at. Something must wait."""
        flow = max(islice(chain(self.old, self.new), LOOKS), key=lambda flow: flow.waiting)
        return flow if flow.waiting else max(chain(self.old, self.new), key=lambda flow: flow.waiting)

    def payer(self, flow: _Flow[R], now: float) -> _Flow[R] | None:
        """Whose request goes when one of ``flow`` has waited for too long; None for nobody's."""
        heaviest = self.heaviest
        if heaviest is not None and heaviest.sent_by(now) > HEAVIER * flow.sent_by(now) + 1.0:
            if heaviest.waiting:
                return heaviest
            if len(self.spared) < SPARED_LIMIT:
                return None
        longest = self.longest()
        if longest.waiting <= flow.waiting or flow.sent_by(now) > HEAVIER * longest.sent_by(now) + 1.0:
            return flow
        return longest

    def too_late(self, now: float, target: float, patience: float) -> Iterator[Entry[R]]:
        """Take out those that have to go, oldest first."""
        spared, order = self.spared, self.order
        while spared and (spared[0].gone or now - spared[0].arrived > patience):
            entry = spared.popleft()
            if not entry.gone:
                yield self.drop(entry)
        limit = self.limit(now, target, patience)
        while order and (order[0].gone or now - order[0].arrived > limit):
            entry = order.popleft()
            if entry.gone:
                continue
            if now - entry.arrived <= patience:
                payer = self.payer(entry.flow, now)
                if payer is not entry.flow:
                    spared.append(entry)
                    if payer is None:
                        continue
                    entry = next(entry for entry in payer.entries if not entry.gone)
            yield self.drop(entry)

    def drop(self, entry: Entry[R]) -> Entry[R]:
        flow = entry.flow
        entry.gone = True
        flow.waiting -= 1
        self.waiting -= 1
        # Of those that go from the middle of a line no more stay behind than wait before them.
        for line in (flow.entries, self.order, self.spared):
            while line and line[0].gone:
                line.popleft()
            while line and line[-1].gone:
                line.pop()
        return entry


class RunQueue(Generic[R]):
    """Belongs to one event loop. Times are absolute seconds of one clock, given by the caller; nothing waits here.

    ``target`` and ``patience`` (seconds) may be set at any time, and count for all that waits.
    """

    def __init__(self, classes: int, *, target: float = TARGET, patience: float = PATIENCE) -> None:
        self.target = target
        self.patience = patience
        self.expired = 0
        self.evicted = 0
        self._classes: tuple[_Class[R], ...] = tuple(_Class() for _ in range(classes))
        self.length = 0
        """Requests that wait."""

    def __len__(self) -> int:
        return self.length

    def overloaded(self, now: float) -> bool:
        """Whether there is more to do than can be done."""
        return any(group.short(now) for group in self._classes)

    def push(self, request: R, *, arrived: float, rank: int, key: Hashable = None) -> tuple[Entry[R], R | None]:
        """Let ``request`` wait in class ``rank`` (0 the least critical); and the one that goes, if there is no room.

        That may be ``request`` itself. ``arrived`` never goes back.
        """
        entry = self._classes[rank].put(request, arrived, key)
        self.length += 1
        if self.length <= LENGTH_LIMIT:
            return entry, None
        self.evicted += 1
        self.length -= 1
        group = next(group for group in self._classes if group.waiting)
        newest = next(entry for entry in reversed(group.longest().entries) if not entry.gone)
        return entry, group.drop(newest).request

    def expire(self, now: float) -> list[R]:
        """Those that have to go because somebody has waited for too long."""
        out: list[R] = []
        for group in self._classes:
            if group.waiting:
                late = [entry.request for entry in group.too_late(now, self.target, self.patience)]
                if late:
                    group.refused(now)
                    out += late
        self.expired += len(out)
        self.length -= len(out)
        return out

    def pop(self, now: float) -> R | None:
        """The next to begin, None when nothing waits. ``expire`` comes first."""
        for group in reversed(self._classes):
            if group.waiting:
                self.length -= 1
                return group.first(now).request
        return None

    def snapshot(self, now: float) -> dict[str, Any]:
        """How it is just now, as plain values."""
        return {
            "waiting": self.length,
            "overloaded": self.overloaded(now),
            "expired": self.expired,
            "evicted": self.evicted,
        }
