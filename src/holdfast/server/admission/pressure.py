"""Memory that runs out: less critical requests are refused before the kernel ends a worker.

Near the limit of the cgroup one class after the other is refused, the least critical first, and the most critical
never. It is what Envoy's overload manager does between a scaling and a saturation threshold, with classes in the place
of probabilities; the real-memory breaker of Elasticsearch refuses at 95 %.

Refusing is of use only where requests hold the memory. A model that fills 95 % of a container, a leak, and an
allocator that gives nothing back look the same from outside, and no request less would help. So who is refused for
``HELPS`` seconds, while no memory comes free, is let in again; refused anew if that makes it worse.

Why there is no such rule for the CPU: a CPU that is full, or withheld by the cgroup, is no overload as long as nobody
waits, and who waits is seen by the queue, sooner. docs/overload.md has the figures.
"""

import logging
import time
from collections.abc import Callable
from math import exp, inf
from typing import Annotated, Any, Final

from holdfast.core.context import Criticality
from holdfast.core.errors import Overloaded
from holdfast.core.settings import Settings, about
from holdfast.server.admission.cgroup import Cgroup, Memory

logger = logging.getLogger("holdfast.admission")

POLICY: Final = "memory"
"""What its refusals are counted as."""
SHORT: Final = "the memory that the service may use is nearly used up"
START: Final = 0.9
"""Share of the cgroup's limit from which the least critical class is refused; the example of Envoy's manual has 0.92
and 0.95."""
STEPS: Final = (0.0, 0.4, 0.8)
"""Parts of what is left above that, at which each class is: with 0.9 that is 0.9, 0.94 and 0.98. One for all but the
most critical."""
BACK: Final = 0.2
"""Such a part by which it must have fallen before a class is let in again."""
STALLED: Final = 0.1
"""Share of the time in which everything waits for memory, with which one class more is refused. The kernel takes pages
from where they are needed then; systemd-oomd ends something at 0.6."""
NEAR: Final = 2.0
"""Such parts below the start, growth counts too: from 0.7 on with 0.9, ..."""
AHEAD: Final = 1.0
"""... as much as comes in so many seconds. Requests hold what they have until they end."""
FADES: Final = 2.0
"""Seconds after which a growth that has stopped counts for a third: letting all in at once would bring it back."""
HELPS: Final = 30.0
"""Seconds in which refusing a class must have brought the memory down."""
INTERVAL: Final = 0.2
"""Seconds between two looks: each time that the engine sweeps its connections, ..."""
SHARE: Final = 0.001
"""... or so many that looking takes no more than this share of a CPU, ..."""
LONGEST_INTERVAL: Final = 5.0
"""... but no more than so many; ..."""
ABSENT_INTERVAL: Final = 60.0
"""... or so many where there is no limit, since one may be given to a container that runs."""
LOG_INTERVAL: Final = 10.0
"""Seconds, at least, between two lines about it."""


class PressureSettings(Settings, frozen=True):
    """Settings of ``[admission] pressure``."""

    memory: Annotated[
        float, about("Share of the cgroup's memory from which the least critical are refused.", gt=0, lt=1)
    ] = START

    @classmethod
    def owner(cls) -> str:
        return "pressure"


class Shedding:
    """Which classes are refused at which share of the memory. Reads nothing; times are seconds of one clock."""

    def __init__(self, start: float) -> None:
        room = 1.0 - start
        self.near = max(start - room * NEAR, 0.0)
        """The share from which on it matters how memory grows."""
        self._starts = tuple(start + room * step for step in STEPS)
        self._back = room * BACK
        self._level = 0
        self._lowest = inf
        self._since = -inf
        self._again_at = inf
        self._before = 0.0, inf
        self._growth = 0.0
        self._faster = 0.0

    @property
    def given_up(self) -> bool:
        """Whether those are let in who should be refused, since it did not help."""
        return self._again_at < inf

    def judge(self, memory: Memory, now: float) -> int:
        """Classes below this rank are to be refused: 0 for none."""
        share = memory.share
        growth = self._grows(share, now)
        soon = share + growth * AHEAD if share >= self.near else share
        met = sum(soon >= start for start in self._starts)
        if met and memory.stalled is not None and memory.stalled >= STALLED:
            met = min(met + 1, len(STEPS))
        before = self._level
        kept = sum(soon >= start - self._back for start in self._starts)
        self._level = max(met, min(before, kept))
        if not self._level:
            self._again_at = inf
        elif self._level > before or share >= self._again_at:  # a step further; or it was of use after all
            self._try(share, now)
        elif share < self._lowest - self._back / 2:
            self._lowest, self._since = share, now
        elif not self.given_up and now - self._since >= HELPS:
            self._again_at = share + self._back / 2
        return 0 if self.given_up else self._level

    def _grows(self, share: float, now: float) -> float:
        """How fast, a second: what two looks in a row have seen, so that a sawtooth does not count."""
        (before, at), self._before = self._before, (share, now)
        if not at < now < at + LONGEST_INTERVAL:
            self._growth = self._faster = 0.0
            return 0.0
        pace = max((share - before) / (now - at), 0.0)
        lasting, self._faster = min(pace, self._faster), pace
        self._growth = max(lasting, self._growth * exp((at - now) / FADES))
        return self._growth

    def _try(self, share: float, now: float) -> None:
        self._lowest, self._since, self._again_at = share, now, inf


class Pressure:
    """Looks after the memory of the cgroup. Belongs to one event loop, and blocks it for as long as it reads files:
    three, mostly. ``timer`` tells how much CPU time that takes: what the machine does meanwhile does not count."""

    def __init__(self, cgroup: Cgroup | None = None, timer: Callable[[], float] = time.thread_time) -> None:
        self.cgroup = cgroup or Cgroup()
        self.memory: Memory | None = None
        self.due = -inf
        self._timer = timer
        self._start: float | None = None
        self._wanted = False
        self._shedding = Shedding(START)
        self._least = 0
        self._said = 0
        self._log_at = -inf
        self._said_absent = False

    def use(self, settings: PressureSettings | bool) -> None:
        """Go by these from the next look on."""
        self._wanted = isinstance(settings, PressureSettings)
        if settings is True:
            settings = PressureSettings()
        start = settings.memory if isinstance(settings, PressureSettings) else None
        if start != self._start:
            self._start = start
            self._shedding = Shedding(START if start is None else start)
            self.due = -inf

    def look(self, now: float) -> int:
        """Look, when it is time to. Requests of a class below the returned rank are to be refused."""
        if now >= self.due:
            began = self._timer()
            before = self.memory
            self.memory = memory = None if self._start is None else self.cgroup.memory(self._shedding.near)
            took = self._timer() - began
            least = 0
            if memory is None and before is not None and self._start is not None:
                # Too many files are open, perhaps, and then nobody is to be let in for that.
                self.due = now + LONGEST_INTERVAL
                least = self._least
            elif memory is None:
                self.due = now + ABSENT_INTERVAL
                if self._start is not None:
                    self._say_absent()
            else:
                self.due = now + min(max(INTERVAL, took / SHARE), LONGEST_INTERVAL)
                gave_up = self._shedding.given_up
                least = self._shedding.judge(memory, now)
                self._tell(memory, least, now, self._shedding.given_up and not gave_up)
            self._least = least
        return self._least

    def snapshot(self) -> dict[str, Any]:
        """What was found last, as plain values; None is unknown."""
        memory = self.memory
        return {
            "memory": None if memory is None else memory.share,
            "stalled": None if memory is None else memory.stalled,
            "refused_below": Criticality(self._least).name.lower() if self._least else None,
            "throttled": self.cgroup.throttled(),
        }

    def _say_absent(self) -> None:
        if not self._said_absent:
            self._said_absent = True
            # Who has not asked for it, on a laptop, need not be told.
            level = logging.INFO if self._wanted else logging.DEBUG
            logger.log(level, "no cgroup limits this process's memory: nothing is refused for want of it")

    def _tell(self, memory: Memory, least: int, now: float, gave_up: bool) -> None:
        used = f"{memory.share:.0%} of the memory that the cgroup allows is in use"
        if gave_up:
            logger.warning("%s, and refusing requests for %g s has freed none: all are let in again", used, HELPS)
            self._said = least
        elif least != self._said and now >= self._log_at:
            self._log_at = now + LOG_INTERVAL
            self._said = least
            if least:
                logger.warning("%s: requests less than %s are refused", used, Criticality(least).name.lower())
            else:
                logger.info("%s: all requests are let in again", used)


def refusal(route: str) -> Overloaded:
    """What a request is told that is refused for want of memory."""
    return Overloaded(POLICY, SHORT, None, None, route)
