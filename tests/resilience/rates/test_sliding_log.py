"""The window log against a model that keeps every use for ever, in exact fractions."""

from fractions import Fraction
from math import inf
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.resilience.rates import SlidingLog, Terms
from holdfast.resilience.rates.sliding_log import ENTRIES_LIMIT
from resilience.rates.scale import START


def log(limit: float, period: float) -> SlidingLog:
    return SlidingLog(Terms(SlidingLog, limit / period, limit, period))


def test_a_use_counts_for_one_period_and_no_longer() -> None:
    tested = log(2, 10)
    assert [tested.take(START + at, 1) for at in (0, 9, 9.9, 10, 10, 18.9, 19)] == [
        *(True, True, False, True, False, False, True)
    ]


def test_the_wait_is_until_the_oldest_use_leaves() -> None:
    """alisaifee/limits issue 200: there it was reckoned from the newest one."""
    tested = log(2, 60)
    assert tested.take(START, 1)
    assert tested.take(START + 10, 1)
    wait, quota = tested.short(START + 20, 1)
    assert wait == pytest.approx(40)
    assert quota == {"limit": 2, "remaining": 0, "reset": pytest.approx(50), "period": 60}


def test_a_log_that_is_full_of_entries_forgets_nothing() -> None:
    tested = log(ENTRIES_LIMIT + 100, 1000)
    for number in range(ENTRIES_LIMIT + 100):
        assert tested.take(START + number / 1000, 1)
    assert len(tested.log) == ENTRIES_LIMIT
    assert not tested.take(START + 999, 1)
    last = START + (ENTRIES_LIMIT + 99) / 1000
    assert not tested.take(last + 999.9, ENTRIES_LIMIT + 100)
    assert tested.take(last + 1000, ENTRIES_LIMIT + 100)


class SlidingLogMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.limit, self.period = Fraction(4), Fraction(5)
        self.tested = log(4, 5)
        self.now = Fraction(0)
        self.uses: list[list[Fraction]] = []
        self.held: list[tuple[list[Fraction], Any]] = []

    @property
    def time(self) -> float:
        return START + float(self.now)

    def used(self, until: Fraction) -> Fraction:
        """How much was used, or is to be, in the period up to ``until``."""
        return sum((n for at, n in self.uses if until - self.period < at <= until), Fraction(0))

    def earliest(self, n: Fraction) -> Fraction:
        """The earliest time for ``n``, after all others: only the ends of uses can be that."""
        begin = max([self.now, *(at for at, _ in self.uses)])
        ends = [at + self.period for at, _ in self.uses]
        return min(at for at in [begin, *ends] if at >= begin and self.used(at) + n <= self.limit)

    @rule(quarters=st.integers(0, 12))
    def time_passes(self, quarters: int) -> None:
        self.now += Fraction(quarters, 4)

    @rule(halves=st.integers(0, 9), late=st.integers(0, 8))
    def take(self, halves: int, late: int) -> None:
        n = Fraction(halves, 2)
        fits = n <= self.limit and self.earliest(n) == self.now
        # A late stamp is taken for the latest time that the log has seen.
        self.tested.take(self.time, 5)
        assert self.tested.take(START + float(self.now - Fraction(late, 4)), float(n)) is fits
        if fits and n:
            self.uses.append([self.now, n])

    @rule(halves=st.integers(1, 9), patience=st.integers(0, 60))
    def reserve(self, halves: int, patience: int) -> None:
        n = Fraction(halves, 2)
        wait, mark = self.tested.reserve(self.time, float(n), patience / 4)
        if n > self.limit:
            assert (wait, mark) == (inf, None)
            return
        at = self.earliest(n)
        assert wait == pytest.approx(float(at - self.now), abs=1e-7)
        assert (mark is not None) is (at - self.now <= Fraction(patience, 4))
        if mark is not None:
            use = [at, n]
            self.uses.append(use)
            self.held.append((use, mark))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 100), actual=st.integers(-1, 9))
    def cancel_or_settle(self, which: int, actual: int) -> None:
        use, mark = self.held.pop(which % len(self.held))
        at, n = use
        if actual < 0:
            back = self.tested.cancel(self.time, float(n), START + float(at), mark)
            assert back == (float(n) if self.now <= at else 0.0)
            if self.now <= at:
                self.uses = [kept for kept in self.uses if kept is not use]
        else:
            extra = Fraction(actual, 2) - n
            self.tested.settle(self.time, mark, float(extra))
            if at > self.now - self.period:
                use[1] += extra
                if use[1] == 0:
                    self.uses = [kept for kept in self.uses if kept is not use]
            elif extra > 0:
                self.uses.append([max([self.now, *(at for at, _ in self.uses)]), extra])

    @invariant()
    def as_much_is_left(self) -> None:
        ahead = [at for at, _ in self.uses if at > self.now]
        used = sum((n for at, n in self.uses if at > self.now - self.period), Fraction(0))
        left = self.limit - used
        assert self.tested.left(self.time) == pytest.approx(float(min(left, Fraction(0)) if ahead else left), abs=1e-6)
        assert self.tested.reset(self.time) == pytest.approx(
            max([0.0, *(float(at + self.period - self.now) for at, _ in self.uses)]), abs=1e-6
        )


SlidingLogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_it_does_what_the_exact_model_does = SlidingLogMachine.TestCase
