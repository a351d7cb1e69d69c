"""The token bucket against the tables of golang.org/x/time/rate (rate_test.go), and against an exact model.

One difference: a late stamp gives no refill here. x/time/rate goes back to it and earns the time between twice
(golang/go issue 56287). Where its tables set the clock back they are told so, as ``RateLimit`` tells its meters once a
fresh reading has shown it. Two of their rows fail on an earlier time, and leave the clock alone: here too.
"""

from fractions import Fraction
from math import inf
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.resilience.rates import Terms, TokenBucket
from resilience.rates.scale import START, at, set_back


def bucket(rate: float, burst: float) -> TokenBucket:
    return TokenBucket(Terms(TokenBucket, rate, burst))


ALLOW = {
    "TestLimiterBurst1": (
        (10, 1),
        [
            *[(0, 1, 1, True), (0, 0, 1, False), (0, 0, 1, False), (1, 1, 1, True), (1, 0, 1, False)],
            *[(1, 0, 1, False), (2, 1, 2, False), (2, 1, 1, True), (2, 0, 1, False)],
        ],
    ),
    "TestLimiterBurst3": (
        (10, 3),
        [
            *[(0, 3, 2, True), (0, 1, 2, False), (0, 1, 1, True), (0, 0, 1, False), (1, 1, 4, False)],
            *[(2, 2, 1, True), (3, 2, 1, True), (4, 2, 1, True), (4, 1, 1, True), (4, 0, 1, False)],
            *[(4, 0, 1, False), (9, 3, 3, True), (9, 0, 0, True)],
        ],
    ),
    "TestLimiterJumpBackwards": (
        (10, 3),
        [
            *[(1, 3, 1, True), (0, 2, 1, True), (0, 1, 1, True), (0, 0, 1, False), (0, 0, 1, False)],
            *[(1, 1, 1, True), (1, 0, 1, False), (1, 0, 1, False), (2, 1, 1, True), (2, 0, 1, False)],
            (2, 0, 1, False),
        ],
    ),
    "TestLimiter_noTruncationErrors": ((0.7692307692307693, 1), [(0, 1, 1, True)]),
    "TestTinyLimit": ((1e-10, 1), [(0, 1, 1, True), (0, 0, 1, False)]),
    "TestZeroLimit": ((0, 1), [(0, 1, 1, True), (0, 0, 1, False), (10_000, 0, 1, False)]),
}


@pytest.mark.parametrize("table", ALLOW)
def test_it_admits_what_the_tables_of_x_time_rate_say(table: str) -> None:
    made, rows = ALLOW[table]
    tested = bucket(*made)
    for number, (tenths, tokens, n, ok) in enumerate(rows):
        set_back(tested, at(tenths))
        assert tested.left(at(tenths)) == pytest.approx(tokens, abs=1e-6), number
        assert tested.take(at(tenths), n) is ok, number


# (time, n, the time to act, None for refused[, patience]); or a change, or a cancellation of an earlier row.
RESERVE: dict[str, tuple[tuple[float, float], list[Any]]] = {
    "TestSimpleReserve": ((10, 2), [(0, 2, 0), (0, 2, 2), (3, 2, 4)]),
    "TestCancelInvalid": ((10, 2), [(0, 2, 0), (0, 3, None), (0, 2, 2)]),
    "TestCancelLast": ((10, 2), [(0, 2, 0), (0, 2, 2), ("cancel", 1, 1), (1, 2, 2)]),
    "TestCancelTooLate": ((10, 2), [(0, 2, 0), (0, 2, 2), ("cancel", 1, 3), (3, 2, 4)]),
    "TestCancel0Tokens": ((10, 2), [(0, 2, 0), (0, 1, 1), (0, 1, 2), ("cancel", 1, 0), (0, 1, 3)]),
    "TestCancel1Token": ((10, 2), [(0, 2, 0), (0, 2, 2), (0, 1, 3), ("cancel", 1, 2), (2, 2, 4)]),
    "TestCancelMulti": (
        (10, 4),
        [(0, 4, 0), (0, 3, 3), (0, 1, 4), (0, 1, 5), ("cancel", 3, 1), ("cancel", 1, 1), (1, 3, 5)],
    ),
    "TestReserveJumpBack": (
        (10, 2),
        [(1, 2, 1), (0, 1, 1), (2, 2, 3), (0, 3, None), (2, 1, 4), (0, 2, None, 0.1), (2, 1, 5)],
    ),
    "TestReserveJumpBackCancel": ((10, 2), [(1, 2, 1), (1, 2, 3), (1, 1, 4), ("cancel", 1, 0), (1, 2, 4)]),
    "TestReserveSetLimit": ((5, 2), [(0, 2, 0), (0, 2, 4), ("set", 2, 10, 2), (2, 1, 4)]),
    "TestReserveSetBurst": ((5, 2), [(0, 2, 0), (0, 2, 4), ("set", 3, 5, 4), (0, 4, 9)]),
    "TestReserveSetLimitCancel": (
        (5, 2),
        [(0, 2, 0), (0, 2, 4), ("set", 2, 10, 2), ("cancel", 1, 2), (2, 2, 3)],
    ),
    "TestReserveMax": ((10, 2), [(0, 2, 0, 0.1), (0, 1, 1, 0.1), (0, 1, None, 0.1)]),
    "TestSetAfterZeroLimit": ((0, 1), [(0, 1, 0), (0, 1, None), ("set", 0, 10, 1), (0, 1, 1)]),
    "TestWaitTimeout": ((10, 3), [(0, 2, 0, 0.1), (0, 3, None, 0.1)]),
}


@pytest.mark.parametrize("table", RESERVE)
def test_it_reserves_what_the_tables_of_x_time_rate_say(table: str) -> None:
    made, rows = RESERVE[table]
    tested = bucket(*made)
    held: list[tuple[float, float, Any]] = []
    for number, row in enumerate(rows):
        if row[0] == "set":
            _, tenths, rate, burst = row
            tested.move(at(tenths), Terms(TokenBucket, rate, burst))
        elif row[0] == "cancel":
            _, which, tenths = row
            set_back(tested, at(tenths))
            tested.cancel(at(tenths), *held[which])
        else:
            tenths, n, act, *patience = row
            if act is not None:
                set_back(tested, at(tenths))
            wait, mark = tested.reserve(at(tenths), n, *(patience or [inf]))
            held.append((n, at(tenths) + wait, mark))
            assert (mark is not None) == (act is not None), number
            if act is not None:
                assert at(tenths) + wait == pytest.approx(at(act), abs=1e-8), number


def test_a_long_run_gets_all_of_the_limit_and_no_more() -> None:
    """TestLongRunningQPS of x/time/rate."""
    tested = bucket(100, 100)
    taken = sum(tested.take(START + step * 0.002, 1) for step in range(2500))
    assert int(0.999 * 600) <= taken <= 600 + 1


def test_what_comes_back_while_others_wait_is_for_those_that_come_after_them() -> None:
    """And what would not have fitted into the bucket until then is spilt, as it would have been without them."""
    tested = bucket(10, 10)
    dues = [tested.reserve(START, n, inf) for n in (10, 4, 4, 4)]
    assert [wait for wait, _ in dues] == pytest.approx([0, 0.4, 0.8, 1.2])
    assert tested.settle(START, dues[0][1], -9) == pytest.approx(6)
    assert tested.reserve(START, 6, inf)[0] == pytest.approx(1.2)  # as soon as the last one, not before
    assert tested.reserve(START, 1, inf)[0] == pytest.approx(1.3)
    assert tested.settle(START + 0.1, dues[0][1], -9) == 0  # the first ones would have ten in the bucket already
    assert tested.settle(START + 1.3, dues[0][1], -9) == 9


def test_tokens_are_kept_when_the_rate_changes_and_spilt_when_the_burst_shrinks() -> None:
    tested = bucket(10, 20)
    assert tested.take(START, 15)
    tested.move(START + 0.5, Terms(TokenBucket, 1, 20))
    assert tested.left(START + 0.5) == pytest.approx(10)
    tested.move(START + 0.5, Terms(TokenBucket, 1, 4))
    assert tested.left(START + 0.5) == pytest.approx(4)
    tested.move(START + 0.5, Terms(TokenBucket, 1, 8))
    assert tested.left(START + 0.5) == pytest.approx(4)
    assert tested.left(START + 100) == 8


@pytest.mark.parametrize(("rate", "limit"), [(1 / 86400, 1000), (1e-15, 1), (10, 2.3), (1e6, 0.7), (0.1, 1e6)])
@pytest.mark.parametrize("start", [1.0, START, 3.2e8])
def test_a_full_bucket_gives_all_that_it_has(rate: float, limit: float, start: float) -> None:
    """Whatever the clock says: floats must not make it lack a hair."""
    for step in range(200):
        now = start + step * 0.7
        taken, reserved = bucket(rate, limit), bucket(rate, limit)
        assert taken.take(now, limit)
        assert reserved.reserve(now, limit, 0.0)[0] == 0
        assert not taken.take(now, limit * 1e-3 + rate * 1e-6)


class Model:
    """The bucket as a child would keep it: exact fractions, step by step, as x/time/rate has it."""

    def __init__(self, rate: int, burst: int) -> None:
        self.rate = Fraction(rate)
        self.burst = Fraction(burst)
        self.tokens = Fraction(burst)
        self.last = Fraction(-1000)

    def at(self, now: Fraction) -> Fraction:
        return min(self.burst, self.tokens + (max(now, self.last) - self.last) * self.rate)

    def use(self, now: Fraction, n: Fraction) -> None:
        self.tokens = self.at(now) - n
        self.last = max(now, self.last)


class Pending:
    """A reservation that is not due yet: when, and the most that is left just before."""

    def __init__(self, due: Fraction, peak: Fraction) -> None:
        self.due = due
        self.peak = peak


class TokenBucketMachine(RuleBasedStateMachine):
    """Quarters of seconds and of tokens, so that what is due at the same time is so for floats as well.

    Times of reservations are counted in what the clock earns. Where the bucket does without a list it may give back
    less than the model would, never more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tested = bucket(4, 6)
        self.model = Model(4, 6)
        self.now = Fraction(0)
        self.earned = Fraction(0)
        self.last = Fraction(-1000)
        self.pending: list[Pending] = []
        self.refunded = False
        self.held: list[tuple[Fraction, Fraction, Fraction, Any]] = []

    @property
    def time(self) -> float:
        return START + float(self.now)

    @rule(quarters=st.integers(0, 12))
    def time_passes(self, quarters: int) -> None:
        self.now += Fraction(quarters, 4)
        self.earned += Fraction(quarters, 4) * self.model.rate
        self.pending = [one for one in self.pending if one.due > self.earned]

    @rule(quarters=st.integers(1, 40))
    def the_clock_is_set_back(self, quarters: int) -> None:
        """By an owner that has told the bucket; nobody holds a reservation, since their times would be other ones."""
        if not self.held and not self.pending and self.tested.seen == self.time:
            self.now -= Fraction(quarters, 4)
            set_back(self.tested, self.time)
            self.model.last = self.now

    @rule(quarters=st.integers(0, 28), late=st.integers(0, 8))
    def take(self, quarters: int, late: int) -> None:
        n = Fraction(quarters, 4)
        stamp = self.now - Fraction(late, 4)
        fits = n <= self.model.at(stamp)
        if fits:
            self.model.use(stamp, n)
        assert self.tested.take(START + float(stamp), float(n)) is fits

    @rule(quarters=st.integers(1, 28), patience=st.integers(0, 12))
    def reserve(self, quarters: int, patience: int) -> None:
        n = Fraction(quarters, 4)
        due = self.earned + max(n - self.model.at(self.now), Fraction(0))
        if self.last > self.earned:
            due = max(due, self.last)
        wait = (due - self.earned) / self.model.rate
        got, mark = self.tested.reserve(self.time, float(n), patience / 4)
        assert (mark is not None) == (n <= self.model.burst and wait <= Fraction(patience, 4))
        if n <= self.model.burst:
            assert got == pytest.approx(float(wait), abs=1e-7)
        if mark is not None:
            self.model.use(self.now, n)
            self.refunded &= self.last > self.earned
            if due > self.earned and due != self.last:
                self.pending.append(Pending(due, n))
            self.last = due
            self.held.append((n, self.now + wait, due, mark))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 100))
    def cancel(self, which: int) -> None:
        n, when, due, mark = self.held.pop(which % len(self.held))
        back = max(n - max(self.last - due, Fraction(0)), Fraction(0)) if self.now <= when else Fraction(0)
        got = self.tested.cancel(self.time, float(n), START + float(when), mark)
        if self.refunded:
            assert 0 <= got <= min(float(back), self.room()) + 1e-6
        else:
            assert got == pytest.approx(float(back), abs=1e-6)
        if got and due == self.last and self.model.at(self.now) + self.last - self.earned <= 0:
            self.last -= n
            self.pending = [one for one in self.pending if one.due <= self.last]
        self.given_back(got)

    @rule(quarters=st.integers(-8, 8))
    def settle(self, quarters: int) -> None:
        extra = Fraction(quarters, 4)
        self.model.use(self.now, Fraction(0))
        got = self.tested.settle(self.time, None, float(extra))
        if extra >= 0 or self.last <= self.earned:
            assert got == -extra
            self.model.use(self.now, extra)
        else:
            assert 0 <= got <= min(float(-extra), self.room()) + 1e-6
            self.given_back(got)
            self.refunded = True

    def room(self) -> float:
        return max(float(self.model.burst - max((one.peak for one in self.pending), default=Fraction(0))), 0.0)

    def given_back(self, got: float) -> None:
        self.model.tokens += round(got * 4) / Fraction(4)
        for one in self.pending:
            one.peak += round(got * 4) / Fraction(4)

    @rule(rate=st.sampled_from([1, 2, 4, 8]), burst=st.integers(0, 10))
    def the_terms_change(self, rate: int, burst: int) -> None:
        self.model.use(self.now, Fraction(0))
        self.model.rate, self.model.burst = Fraction(rate), Fraction(burst)
        self.model.tokens = min(self.model.tokens, self.model.burst)
        self.tested.move(self.time, Terms(TokenBucket, rate, burst))

    @invariant()
    def as_much_is_left(self) -> None:
        left = self.model.at(self.now)
        assert self.tested.left(self.time) == pytest.approx(float(left), abs=1e-6)
        missing = (self.model.burst - left) / self.model.rate
        assert self.tested.reset(self.time) == pytest.approx(float(missing), abs=1e-6)


TokenBucketMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_it_does_what_the_exact_model_does = TokenBucketMachine.TestCase
