"""The window counter against a model that keeps every use for ever, in exact fractions."""

from collections import defaultdict
from fractions import Fraction
from math import floor, inf
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.resilience.rates import SlidingCounter, Terms
from resilience.rates.scale import START


def counter(limit: float, period: float) -> SlidingCounter:
    return SlidingCounter(Terms(SlidingCounter, limit / period, limit, period))


def taken(tested: SlidingCounter, now: float) -> int:
    return sum(tested.take(now, 1) for _ in range(100))


def test_the_window_before_fades_evenly() -> None:
    tested = counter(10, 60)
    assert taken(tested, START) == 10  # the first window begins here
    assert taken(tested, START + 60) == 0
    assert taken(tested, START + 60 + 6) == 1
    assert taken(tested, START + 60 + 30) == 4
    assert taken(tested, START + 60 + 59.9) == 4
    assert taken(tested, START + 300) == 10


def test_nearly_two_limits_pass_in_one_period_at_the_worst() -> None:
    tested = counter(100, 10)
    assert tested.take(START, 0)
    late = taken(tested, START + 9.999)
    following = sum(taken(tested, START + 10 + step / 100) for step in range(999))
    assert (late, following) == (100, 99)


def test_more_than_the_limit_is_never_possible() -> None:
    assert counter(10, 60).reserve(START, 10.5, inf) == (inf, None)


class SlidingCounterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.limit, self.period = Fraction(4), Fraction(5)
        self.tested = counter(4, 5)
        self.now = Fraction(0)
        self.begun = False
        self.windows: defaultdict[int, Fraction] = defaultdict(Fraction)
        self.booked = Fraction(-1)
        self.latest = 0
        self.held: list[tuple[Fraction, Fraction, Fraction, Any]] = []

    @property
    def time(self) -> float:
        return START + float(self.now)

    def window(self, at: Fraction) -> int:
        return floor(at / self.period)

    def used(self, at: Fraction) -> Fraction:
        number = self.window(at)
        passed = at / self.period - number
        return self.windows[number - 1] * (1 - passed) + self.windows[number]

    def use(self, at: Fraction, n: Fraction) -> None:
        self.begun = True
        self.windows[self.window(at)] += n
        self.latest = max(self.latest, self.window(at))

    @rule(quarters=st.integers(0, 12))
    def time_passes(self, quarters: int) -> None:
        if self.begun:  # the windows begin with the first use, at zero
            self.now += Fraction(quarters, 4)

    @rule(halves=st.integers(0, 9), late=st.integers(0, 8))
    def take(self, halves: int, late: int) -> None:
        n = Fraction(halves, 2)
        fits = max(self.booked, self.latest * self.period) <= self.now and self.used(self.now) + n <= self.limit
        stamp = self.now - Fraction(late, 4) if self.tested.seen == self.time else self.now
        assert self.tested.take(START + float(stamp), float(n)) is fits
        if fits:
            self.use(self.now, n)

    @rule(halves=st.integers(1, 9), patience=st.sampled_from([0, 5, 20, 60]))
    def reserve(self, halves: int, patience: int) -> None:
        n = Fraction(halves, 2)
        wait, mark = self.tested.reserve(self.time, float(n), patience / 4)
        if n > self.limit:
            assert (wait, mark) == (inf, None)
            return
        # It fits then, and would not have a moment before.
        when = self.now + Fraction(wait)
        begin = max(self.now, self.booked, self.latest * self.period)
        assert when >= begin - Fraction(1, 10**7)
        assert self.used(when) + n <= self.limit + Fraction(1, 10**6)
        if when > begin + Fraction(1, 10**6):
            assert self.used(when - Fraction(1, 10**6)) + n > self.limit
        if abs(wait - patience / 4) > 1e-6:
            assert (mark is not None) is (wait < patience / 4)
        if mark is not None:
            near = when.limit_denominator(10_000)
            when = near if abs(near - when) < Fraction(1, 10**7) else when
            self.use(when, n)
            self.held.append((n, when, self.booked, mark))
            if when > self.now:
                self.booked = when

    @precondition(lambda self: self.held)
    @rule(actual=st.integers(-1, 9))
    def cancel_or_settle(self, actual: int) -> None:
        """The last one, since others leave their time to nobody."""
        n, when, booked, mark = self.held.pop()
        number = self.window(when)
        if number < self.latest - 1:
            return  # its window is forgotten
        if actual < 0:
            back = self.tested.cancel(self.time, float(n), START + float(when), mark)
            assert back == (float(n) if self.now <= when else 0.0)
            if self.now <= when:
                self.windows[number] -= n
                if self.booked == when:
                    self.booked = max(booked, self.latest * self.period)
        else:
            extra = Fraction(actual, 2) - n
            self.tested.settle(self.time, mark, float(extra))
            if self.window(self.now) <= number + 1:
                self.windows[number] += extra
            elif extra > 0:  # what it was is forgotten: it counts from now on
                self.use(self.now, extra)

    @invariant()
    def as_much_is_left(self) -> None:
        if max(self.booked, self.latest * self.period) <= self.now:
            left = self.limit - self.used(self.now)
            assert self.tested.left(self.time) == pytest.approx(float(left), abs=1e-5)
            assert self.tested.quota(self.time)["limit"] == 4


SlidingCounterMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_it_does_what_the_exact_model_does = SlidingCounterMachine.TestCase
