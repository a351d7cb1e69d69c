"""How many handlers may run at a time: as many as keep busy whatever they are short of, and few that wait for it.

Handlers that wait for a backend, or compute in threads, do not hold the loop: any number of them can be begun. When
there are more than the backend, or the interpreter's lock, can work on, each takes longer, and no more of them end.
That is what is looked for here. Each kind of request has its *usual* duration, learned while all is well. When requests
in general take ``TOLERANCE`` times as long as usual, they wait for something: then so many may run as, by Little's law,
give the same throughput without that. While nothing is slower than usual there is no limit at all: an app that waits
for 2 s on purpose, five hundred times at once, is not overloaded.

- *Kinds* are told apart, so that more of the slow ones is not taken for an overload.
- *Logarithms* of durations are averaged, so that a few that take very long do not count much; and what is slower must
  be so beyond the chance that lies in how much the durations of that kind vary.
- *Probes.* What was learned may have become wrong: a backend that is slower for good looks like one with too much to
  do. So now and then, and soon when a lower limit did not help, fewer are let run for a moment. What they take then is
  the usual duration from now on.

The idea to compare with the undisturbed duration is that of TCP Vegas (Brakmo and Peterson, 1995), the probe that of
BBR (Cardwell and others, 2016), as in ``resilience.limits``.
"""

from collections.abc import Hashable
from math import exp, inf, log, log1p, sqrt
from typing import Any, Final

WINDOW: Final = 0.1
"""Seconds after which what has ended is judged, ..."""
SAMPLES: Final = 16
"""... when that is so many at least, ..."""
LONGEST_WINDOW: Final = 2.0
"""... or so many seconds have passed."""
KINDS: Final = 256
"""Kinds that are told apart. What comes later is of one kind."""
TOLERANCE: Final = 1.6
"""Handlers may take this many times their usual duration: what keeps a backend busy, as in ``QueueDelay``; ..."""
SLACK: Final = 0.005
"""... or so many seconds more. The interpreter switches between threads every 5 ms."""
CERTAIN: Final = 2.0
"""Standard errors by which they must be slower than that."""
BAD_WINDOWS: Final = 2
"""In a row, before there is a limit."""
YOUNG: Final = 8
"""Windows after which a kind is known, and judged. Its usual duration is the mean of theirs."""
LONG: Final = 1.0
"""Seconds; kinds that usually take longer wait on purpose, most often, and vary. They are let run, and not judged."""
LEARNING: Final = 0.1
"""How fast the usual duration follows in windows without a limit ..."""
RISE: Final = 0.02
"""... downwards, and upwards: slower ones may have had to wait a little."""
GROWTH: Final = 2.0
"""No window raises the limit by more than this factor, ..."""
FALL: Final = 0.5
"""... or lowers it by more."""
CALM: Final = 10.0
"""Seconds in which nobody has met the limit, after which there is none."""
PROVEN: Final = 30
"""Windows without a limit after which what was learned is trusted, when a limit has helped."""
PROBE_INTERVAL: Final = 10.0
PROBE_SOON: Final = 1.0
"""Seconds after which a limit should have helped."""
PROBE_DEPTH: Final = 0.5
"""A probe takes the limit down to this share. With the tolerance that is 0.8 of what keeps the backend busy, so that
what has to wait all the same had been waiting when its duration was learned."""
SURPRISE: Final = 0.1
"""A probe that finds that much less (a logarithm) than the usual duration is soon followed by another one."""
PROBE_SETTLES: Final = 2.0
"""A probe is judged by what has ended after so many durations: what began before it has ended by then. Or ..."""
PROBE_TRUSTED: Final = 1.2
"""... once no more than this share of the lower limit have been under way for a window, by what has ended in it."""
LEAST: Final = 1e-6
"""Seconds; a handler cannot take less."""


class _Usual:
    """What one kind takes: mean and variance of the logarithm of seconds; and the sums of this window."""

    __slots__ = ("count", "mean", "spent", "squares", "total", "variance", "windows")

    def __init__(self) -> None:
        self.windows = 0
        self.mean = 0.0
        self.variance = 0.0
        self.count = 0
        self.spent = 0.0
        self.total = 0.0
        self.squares = 0.0

    @property
    def judged(self) -> bool:
        return self.windows >= YOUNG and self.mean < log(LONG)

    def learn(self) -> None:
        mean = self.total / self.count
        around = max(self.squares / self.count - 2 * self.mean * mean + self.mean * self.mean, 0.0)
        self.windows += 1
        if self.windows == 1:
            self.mean = mean
            self.variance = max(self.squares / self.count - mean * mean, 0.0)
        elif self.windows <= YOUNG:
            self.variance += (around - self.variance) / self.windows
            self.mean += (mean - self.mean) / self.windows
        else:
            # A window of few says little.
            weight = min(1.0, self.count / SAMPLES)
            self.variance += weight * LEARNING * (around - self.variance)
            self.mean += weight * (RISE if mean > self.mean else LEARNING) * (mean - self.mean)

    def shift(self, by: float) -> None:
        self.mean += by
        if self.count:
            mean = self.total / self.count
            self.variance = max(self.squares / self.count - mean * mean, 0.0)

    def clear(self) -> None:
        self.count = 0
        self.spent = 0.0
        self.total = self.squares = 0.0


class _Window:
    """What a window has shown: how much slower than usual, as a logarithm; how much of that may be; by what chance."""

    __slots__ = ("allowed", "duration", "long", "noise", "running", "slower")

    def __init__(
        self, slower: float, allowed: float, noise: float, running: float, duration: float, long: float
    ) -> None:
        self.slower = slower
        self.allowed = allowed
        self.noise = noise
        self.running = running
        self.duration = duration
        self.long = long

    @property
    def congested(self) -> bool:
        return self.slower - self.noise > self.allowed

    @property
    def wanted(self) -> float:
        """So many under way give the same throughput at the tolerated duration."""
        return self.running * exp(self.allowed - self.slower) + self.long


class Concurrency:
    """Finds ``limit``, how many handlers may run at a time; ``inf`` while there is no need of one.

    Belongs to one event loop, reads no clock and waits for nothing. Times are absolute seconds of one clock.
    """

    def __init__(self) -> None:
        self.limit = inf
        self.slower = 1.0
        """How many times their usual duration handlers took in the last window."""
        self.imposed = 0
        """How often a limit was found to be needed."""
        self.probes = 0
        self._kinds: dict[Hashable, _Usual] = {}
        self._others = _Usual()
        self._touched: list[_Usual] = []
        self._count = 0
        self._spent = 0.0
        self._full = False
        self._began = -inf
        self.due = -inf
        """Until then ends are only gathered."""
        self._usual = 0.0
        self._bad = 0
        self._met_at = 0.0
        self._early = False
        self._learned = 0
        self._found = 0.0
        self._probe_at = inf
        self._before_probe = inf
        self._settled_at = inf

    def ended(self, kind: Hashable, seconds: float, now: float, *, full: bool, late: bool = False) -> bool:
        """A handler of ``kind`` has ended. ``full``: others wait for its place. True when ``limit`` was looked at.

        ``late``, that its deadline had passed, does not matter here.
        """
        usual = self._kinds.get(kind)
        if usual is None:
            usual = self._new(kind)
        if not usual.count:
            self._touched.append(usual)
        length = log(seconds) if seconds > LEAST else log(LEAST)
        usual.count += 1
        usual.total += length
        usual.squares += length * length
        self._count += 1
        usual.spent += seconds
        self._spent += seconds
        if full:
            self._full = True
        if now < self.due:
            return False
        return self._end_window(now)

    def snapshot(self) -> dict[str, Any]:
        """How it is just now, as plain values."""
        return {
            "limit": None if self.limit == inf else self.limit,
            "slower": self.slower,
            "imposed": self.imposed,
            "probes": self.probes,
            "probing": self._settled_at < inf,
        }

    def _new(self, kind: Hashable) -> _Usual:
        if len(self._kinds) >= KINDS:
            return self._others
        usual = self._kinds[kind] = _Usual()
        return usual

    def _end_window(self, now: float) -> bool:
        seconds = now - self._began
        if seconds > 2 * LONGEST_WINDOW:  # the first one, or nothing has ended for a while
            if self.limit == inf:
                self._learn()
            self._next_window(now)
            return False
        # In less than a duration the throughput comes and goes with what was begun together.
        if seconds < LONGEST_WINDOW and (self._count < SAMPLES or seconds < self._usual):
            self.due = now + WINDOW / 4
            return False
        window = self._judge(seconds)
        if window is None:
            self._learn()
        else:
            self.slower = exp(window.slower)
            if self._settled_at < inf:
                self._go_on_probing(window, now)
            elif self.limit == inf:
                self._look(window, now)
            else:
                self._move(window, now)
        self._next_window(now)
        return True

    def _judge(self, seconds: float) -> _Window | None:
        """None when there is nothing to compare with."""
        count = 0
        spent = slower = usually = variance = 0.0
        for usual in self._touched:
            if usual.judged:
                count += usual.count
                spent += usual.spent
                slower += usual.total - usual.count * usual.mean
                usually += usual.count * usual.mean
                variance += usual.count * usual.variance
        if not count:
            return None
        self._usual = exp(usually / count)
        allowed = max(log(TOLERANCE), log1p(SLACK / self._usual))
        noise = CERTAIN * sqrt(variance) / count
        return _Window(slower / count, allowed, noise, spent / seconds, spent / count, (self._spent - spent) / seconds)

    def _look(self, window: _Window, now: float) -> None:
        if not window.congested:
            self._bad = 0
            self._learn()
            return
        self._bad += 1
        if self._bad >= BAD_WINDOWS:
            self.imposed += 1
            self._found = window.running + window.long
            self.limit = max(1.0, window.wanted)
            self._met_at = now
            self._early = True
            self._probe_at = now + max(PROBE_SOON, PROBE_SETTLES * window.duration)

    def _move(self, window: _Window, now: float) -> None:
        limit = self.limit
        if self._full:
            self._met_at = now
        if window.congested:
            self.limit = max(1.0, window.wanted, limit * FALL)
        elif self._full:
            self.limit = max(limit, min(window.wanted, limit * GROWTH))
            if self._early and now >= self._probe_at and self._learned >= PROVEN:  # it has helped
                self._early = False
                self._probe_at = now + PROBE_INTERVAL
        else:
            self._learn()
        if now - self._met_at > CALM:
            self._release()
        elif now >= self._probe_at and (self._full or window.congested):
            self.probes += 1
            self._early = False
            self._before_probe = self.limit
            self.limit = max(1.0, min(self.limit, window.wanted) * PROBE_DEPTH)
            self._settled_at = now + PROBE_SETTLES * max(window.duration, WINDOW / 2)

    def _go_on_probing(self, window: _Window, now: float) -> None:
        if self._began < self._settled_at:
            if window.running + window.long <= PROBE_TRUSTED * self.limit:
                self._settled_at = now  # the next window tells
            return
        self._settled_at = inf
        for usual in (*self._kinds.values(), self._others):
            usual.shift(window.slower)
        if window.slower > window.allowed:  # fewer at a time are no quicker: it was no crowd
            self.limit = max(self._before_probe, self._found)
            self._probe_at = now + PROBE_SOON
        else:
            self.limit = self._before_probe
            self._probe_at = now + (PROBE_INTERVAL if window.slower > -SURPRISE else PROBE_SOON)

    def _release(self) -> None:
        self.limit = inf
        self._bad = 0
        self._probe_at = inf

    def _learn(self) -> None:
        self._learned += 1
        for usual in self._touched:
            usual.learn()

    def _next_window(self, now: float) -> None:
        for usual in self._touched:
            usual.clear()
        self._touched.clear()
        self._count = 0
        self._spent = 0.0
        self._full = False
        self._began = now
        self.due = now + WINDOW
