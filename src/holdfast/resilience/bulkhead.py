"""Bulkhead: so many calls at the same time, and a bounded line for those that may wait."""

import asyncio
from collections.abc import Callable, Hashable, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias, cast

from holdfast.core.call import Call
from holdfast.core.duration import Duration, rounded
from holdfast.core.errors import BulkheadFull
from holdfast.core.event import Event
from holdfast.core.policy import Gate, accepts
from holdfast.core.settings import FUNCTION, GateSettings, Seconds, about
from holdfast.resilience.permits.partitions import PARTITIONS, Partition
from holdfast.resilience.permits.permits import CHANGING, PLACED, TAKEN, Permits, Plan
from holdfast.resilience.permits.waiters import PUSHED_OUT, TaskWaiter, ThreadWaiter, Waiter

QUEUE_LIMIT: Final = 100_000
"""The longest line that settings may ask for."""
IN_A_LOOP: Final = "a thread that runs an event loop must not wait"
NO_TIME: Final = "no time is left to wait for a permit"
PUSHED: Final = "newer calls took its place in the queue"
TOO_LATE: Final = "the deadline passed while it waited"
IN_THE_MIDDLE: Final = "its permits are changing hands"
"""For a finalizer or a signal handler in the middle of that: to wait, in the thread that does it, would be for ever."""

Token: TypeAlias = Literal[True] | Partition | None
"""What a call holds: True is a permit, a partition one of its permits, None nothing."""


class BulkheadSettings(GateSettings, frozen=True):
    """Settings of ``Bulkhead``."""

    limit: Annotated[int, about("Calls at the same time.", ge=1)] = 25
    queue: Annotated[int, about("Calls that may wait for their turn.", ge=0, le=QUEUE_LIMIT)] = 0
    max_wait: Annotated[Seconds, about("How long a call may wait; never past its deadline.", gt=0)] = Duration(1.0)
    order: Annotated[
        Literal["fifo", "lifo"],
        about("Who is served first: the one that has waited longest, or the newest."),
    ] = "fifo"
    partitions: Annotated[
        Mapping[Any, float],
        about(
            "The most that calls of each name may take, as a share or a number; * is each other name by itself.",
            reader=PARTITIONS,
        ),
    ] = {}
    partition_by: Annotated[
        Callable[[Call], Hashable] | None,
        about("The name of a call's partition; by default its key.", reader=FUNCTION),
    ] = None

    def check(self) -> None:
        if self.partition_by is not None and not self.partitions:
            raise self.wrong("partition_by", "partitions to go with it")


class QueueStanding(Event, frozen=True):
    """Calls have been waiting for ``seconds`` without a break: more work comes in than goes out."""

    policy: str
    queued: int
    seconds: float


class QueueCleared(Event, frozen=True):
    """Nobody waits any more, after ``seconds``."""

    policy: str
    seconds: float


class Bulkhead(Permits, Gate[BulkheadSettings]):
    """At most ``limit`` calls at the same time; up to ``queue`` others wait, at most ``max_wait`` seconds each.

    Refuses with ``BulkheadFull``. A permit that is given back goes straight to the waiter whose turn it is:
    nobody who comes later can take it, and nobody else is woken. Threads and tasks of any event loops may wait at
    the same time. A wait never goes past ``call.deadline``. A cancelled waiter holds nothing; if it was granted a
    permit in the same moment, the permit goes to the next. With ``observe`` nobody waits and nobody is refused:
    calls above the limit pass, are counted as ``observed`` and hold no permit.

    ``update`` changes the limit at once: a higher one lets waiters in, a lower one lets those that are in finish.
    """

    kind: ClassVar[str] = "bulkhead"

    @accepts(BulkheadSettings)
    def __init__(self, settings: BulkheadSettings) -> None:
        Permits.__init__(self)
        self.waited = 0
        self.timeouts = 0
        self.longest_wait = 0.0
        Gate.__init__(self, settings)

    def apply(self, settings: BulkheadSettings) -> None:
        self.waits = settings.queue > 0
        self._full = _under_way(settings.limit)
        if settings.queue:
            self._full += f" and {settings.queue} wait{'s' * (settings.queue == 1)}"
        self._configure(Plan(settings.limit, settings.queue, settings.order == "lifo", settings.partitions))

    def replace_settings(self, settings: BulkheadSettings) -> None:
        super().replace_settings(settings)
        self._refresh()

    def snapshot(self) -> dict[str, Any]:
        return {
            **super().snapshot(),
            "in_flight": self.in_flight,
            "limit": self.settings.limit,
            "queued": self.queued,
            "waited": self.waited,
            "timeouts": self.timeouts,
            "pushed_out": self.pushed_out,
            "longest_wait": self.longest_wait,
            "partitions": {
                str(partition.key): {
                    "in_flight": partition.in_flight,
                    "limit": partition.limit,
                    "queued": partition.queued,
                }
                for partition in self.partitions
            },
        }

    def enter(self, call: Call) -> Token:
        in_flight = self.in_flight
        if in_flight < self._open:
            self.in_flight = in_flight + 1
            return True
        if self._open >= 0:  # no partitions: a refusal is as cheap as can be
            facts = _facts, in_flight, self._open, self.queued
            if self.settings.observe:
                self.refuse(call, BulkheadFull(self.name, self._full, None, facts, call.operation))
                return None
            raise self.counted(call, BulkheadFull(self.name, self._full, None, facts, call.operation))
        found = self._otherwise(call, None)
        try:
            if type(found) is BulkheadFull:
                raise found
            return cast("Token", found)
        finally:
            del found  # see Gate.enter

    def exit(self, call: Call, token: Token) -> None:
        if token is self._plain:
            self.in_flight -= 1
        elif token is not None:
            self._give_back(token)

    def admit(self, call: Call) -> Token:
        in_flight = self.in_flight
        if in_flight < self._open:
            self.in_flight = in_flight + 1
            return True
        # To block a thread in which an event loop runs could mean to wait for one's own tasks.
        found = self._otherwise(call, ThreadWaiter if asyncio._get_running_loop() is None else None)
        if type(found) is ThreadWaiter:
            try:
                found.wait(found.until - call.now)
            except BaseException:
                self._abandon(found)
                raise
            found = self._outcome(call, found)
        try:
            if type(found) is BulkheadFull:
                raise found
            return cast("Token", found)
        finally:
            del found  # see Gate.enter

    async def admit_async(self, call: Call) -> Token:
        in_flight = self.in_flight
        if in_flight < self._open:
            self.in_flight = in_flight + 1
            return True
        found = self._otherwise(call, TaskWaiter)
        if type(found) is TaskWaiter:
            try:
                await found.wait(found.until - call.now)
            except BaseException:
                self._abandon(found)
                raise
            found = self._outcome(call, found)
        try:
            if type(found) is BulkheadFull:
                raise found
            return cast("Token", found)
        finally:
            del found  # see Gate.enter

    def _otherwise(self, call: Call, kind: type[Waiter] | None) -> Token | BulkheadFull | Waiter:
        """A permit of the call's partition, or a waiter that stands in line for one, or a refusal."""
        settings = self.settings
        partition = self._everybody
        if settings.partitions:
            by = settings.partition_by
            key = call.key if by is None else by(call)
            found = self._named.get(key) or self._partition(key)
            if found is None:
                return self._refuse(call, IN_THE_MIDDLE)
            partition = found
            if self._take(partition):
                return True if partition is self._everybody else partition
        if (kind is None or settings.observe) and not partition.retired:
            return self._refuse(call, self._why(partition, kind))
        until = min(call.now + settings.max_wait, call.deadline)
        waits = kind is not None and not settings.observe and until > call.now
        waiter = (kind if kind is not None and waits else Waiter)(partition, call.now, until)
        step = self._join(waiter, call.clock, waits=waits)
        partition = waiter.partition
        if step is TAKEN:
            return self._token(partition)
        if step is PLACED:
            self.waited += 1
            return waiter
        if step is CHANGING:
            return self._refuse(call, IN_THE_MIDDLE)
        if kind is not None and until <= call.now:
            return self._refuse(call, NO_TIME)
        return self._refuse(call, self._why(partition, kind))

    def _outcome(self, call: Call, waiter: Waiter) -> Token | BulkheadFull:
        """What became of ``waiter``, which was woken or has waited long enough."""
        now = call.now = call.clock.now()
        waited = now - waiter.began
        if waited > self.longest_wait:
            self.longest_wait = waited
        if self._leave(waiter):
            if waiter.stage is PUSHED_OUT:
                return self._refuse(call, PUSHED)
            self.timeouts += 1
            return self._refuse(call, TOO_LATE if now >= call.deadline else f"no permit came in {rounded(waited)} s")
        if now < call.deadline:
            return self._token(waiter.partition)
        self._abandon(waiter)
        self.timeouts += 1
        return self._refuse(call, TOO_LATE)

    def _abandon(self, waiter: Waiter) -> None:
        if not self._leave(waiter):
            self._give_back(self._token(waiter.partition))

    def _token(self, partition: Partition) -> Literal[True] | Partition:
        return True if partition is self._everybody else partition

    def _why(self, partition: Partition, kind: type[Waiter] | None) -> str:
        if kind is None and self.waits and not self.settings.observe and asyncio._get_running_loop() is not None:
            return IN_A_LOOP
        if partition.in_flight >= partition.limit and partition is not self._everybody:
            return _under_way(partition.limit, f" of {partition.key!r}")
        return self._full

    def _refuse(self, call: Call, reason: str) -> BulkheadFull | None:
        facts = {"in_flight": self.in_flight, "limit": self._plan.limit, "queued": self.queued}
        error = BulkheadFull(self.name, reason, None, facts, call.operation)
        return None if self.spares(call, error) else error

    def _line_changed(self, standing: bool, queued: int, seconds: float) -> None:
        if not self.listeners.active:
            return
        at = self._clock.wall()
        if standing:
            self.listeners.emit(lambda: QueueStanding(at, self.name, queued, seconds))
        else:
            self.listeners.emit(lambda: QueueCleared(at, self.name, seconds))


def _under_way(calls: int, whose: str = "") -> str:
    return f"1 call{whose} is under way" if calls == 1 else f"{calls} calls{whose} are under way"


def _facts(in_flight: int, limit: int, queued: int) -> dict[str, int]:
    return {"in_flight": in_flight, "limit": limit, "queued": queued}
