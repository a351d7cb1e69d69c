"""The generic cell rate algorithm against the table of throttled (rate_test.go), and against the token bucket."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.resilience.rates import Gcra, Terms, TokenBucket
from resilience.rates.scale import START, make

# TestRateLimit: 1 a second, 5 at once. (seconds, n, remaining, reset, retry or None, limited)
THROTTLED = [
    (0, 6, 5, 0, None, True),
    (0, 1, 4, 1, None, False),
    (0, 1, 3, 2, None, False),
    (0, 1, 2, 3, None, False),
    (0, 1, 1, 4, None, False),
    (0, 1, 0, 5, None, False),
    (0, 1, 0, 5, 1, True),
    (3.0, 1, 2, 3, None, False),
    (3.1, 1, 1, 3.9, None, False),
    (4.0, 1, 1, 4.0, None, False),
    (8.0, 1, 4, 1.0, None, False),
    (9.5, 1, 4, 1.0, None, False),
    (9.5, 0, 4, 1.0, None, False),
    (9.5, 2, 2, 3.0, None, False),
    (9.5, 5, 2, 3.0, 3.0, True),
    (15.0, 6, 5, 0, None, True),
]


@pytest.mark.parametrize("name", ["gcra", "token_bucket"])
def test_it_answers_as_the_table_of_throttled_says(name: str) -> None:
    tested = make(name, 1, 5)
    for number, (seconds, n, remaining, reset, retry, limited) in enumerate(THROTTLED):
        now = START + seconds
        assert tested.take(now, n) is not limited, number
        quota = tested.quota(now)
        assert (quota["limit"], quota["remaining"]) == (5, remaining), number
        assert quota["reset"] == pytest.approx(reset, abs=1e-6), number
        if limited:
            wait, mark = tested.reserve(now, n, 0.0)
            assert mark is None
            assert wait == (pytest.approx(retry, abs=1e-6) if retry is not None else float("inf")), number


class Equivalence(RuleBasedStateMachine):
    """Whatever is done to both, both answer the same."""

    def __init__(self) -> None:
        super().__init__()
        self.both = [make("gcra", 4, 6), make("token_bucket", 4, 6)]
        self.now = START
        self.held: list[tuple[float, list[tuple[float, Any]]]] = []

    @rule(quarters=st.integers(0, 12))
    def time_passes(self, quarters: int) -> None:
        self.now += quarters / 4

    @rule(quarters=st.integers(1, 40))
    def the_clock_is_set_back(self, quarters: int) -> None:
        for meter in self.both:
            meter.rewind(quarters / 4)
        self.now -= quarters / 4
        self.held = [(n, [(when - quarters / 4, mark) for when, mark in marks]) for n, marks in self.held]

    @rule(quarters=st.integers(0, 28), late=st.integers(0, 8))
    def take(self, quarters: int, late: int) -> None:
        gcra, bucket = (meter.take(self.now - late / 4, quarters / 4) for meter in self.both)
        assert gcra is bucket

    @rule(quarters=st.integers(0, 28), patience=st.integers(0, 12), late=st.integers(0, 8))
    def reserve(self, quarters: int, patience: int, late: int) -> None:
        now = self.now - late / 4
        (wait, mark), (wait2, mark2) = (meter.reserve(now, quarters / 4, patience / 4) for meter in self.both)
        assert wait == pytest.approx(wait2, abs=1e-6)
        assert (mark is None) is (mark2 is None)
        if mark is not None:
            self.held.append((quarters / 4, [(now + wait, mark), (now + wait2, mark2)]))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 100))
    def cancel(self, which: int) -> None:
        n, marks = self.held.pop(which % len(self.held))
        gcra, bucket = (
            meter.cancel(self.now, n, when, mark) for meter, (when, mark) in zip(self.both, marks, strict=True)
        )
        assert gcra == pytest.approx(bucket, abs=1e-6)

    @rule(quarters=st.integers(-8, 8))
    def settle(self, quarters: int) -> None:
        gcra, bucket = (meter.settle(self.now, None, quarters / 4) for meter in self.both)
        assert gcra == pytest.approx(bucket, abs=1e-6)

    @rule(rate=st.sampled_from([1, 2, 4, 8]), burst=st.integers(0, 10))
    def the_terms_change(self, rate: int, burst: int) -> None:
        self.both[0].move(self.now, Terms(Gcra, rate, burst))
        self.both[1].move(self.now, Terms(TokenBucket, rate, burst))

    @invariant()
    def as_much_is_left(self) -> None:
        gcra, bucket = self.both
        assert gcra.left(self.now) == pytest.approx(bucket.left(self.now), abs=1e-6)
        assert gcra.reset(self.now) == pytest.approx(bucket.reset(self.now), abs=1e-6)


Equivalence.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_it_admits_exactly_what_the_token_bucket_admits = Equivalence.TestCase
