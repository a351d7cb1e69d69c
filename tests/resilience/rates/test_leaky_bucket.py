"""The leaky bucket against figures of Guava's RateLimiterTest (its rates without bursts), and an exact model."""

from fractions import Fraction
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.resilience.rates import LeakyBucket, Terms
from resilience.rates.scale import START, make


def waits(rate: float, costs: list[float]) -> list[float]:
    """How long each of some uses waits that are asked for one after the other has begun."""
    tested = make("leaky_bucket", rate)
    now, found = START, []
    for n in costs:
        wait, _ = tested.reserve(now, n, inf)
        now += wait
        found.append(round(wait, 2))
    return found


def test_uses_are_evenly_spaced_and_paid_for_by_the_next() -> None:
    assert waits(5, [1, 1, 1]) == [0.0, 0.2, 0.2]  # testSimple
    assert waits(1, [1, 1, 2, 4, 8, 1]) == [0.0, 1.0, 1.0, 2.0, 4.0, 8.0]  # testSimpleWeights


def test_a_wait_that_would_be_too_long_takes_nothing() -> None:
    """testTryAcquire_someWaitAllowed."""
    tested = make("leaky_bucket", 5)
    asked = ((0, 0), (0, 0.2), (0.2, 0.1), (0.3, 0.1))
    found = [tested.reserve(START + at, 1, patience)[1] for at, patience in asked]
    assert [mark is not None for mark in found] == [True, True, False, True]


def test_nothing_is_stored_while_it_is_idle() -> None:
    tested = make("leaky_bucket", 10)
    assert [tested.take(START + 100, 1) for _ in range(3)] == [True, False, False]
    assert tested.quota(START + 100) == {
        "limit": 10,
        "remaining": 0,
        "reset": pytest.approx(0.1),
        "period": 1.0,
    }


def test_what_lies_ahead_leaves_at_the_new_rate() -> None:
    tested = make("leaky_bucket", 1)
    tested.reserve(START, 4, inf)
    tested.move(START + 1, Terms(LeakyBucket, 10, 10))
    assert tested.reset(START + 1) == pytest.approx(0.3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12), st.integers(0, 12)), max_size=40))
def test_it_does_what_the_exact_model_does(steps: list[tuple[int, int, int]]) -> None:
    tested = make("leaky_bucket", 4)
    now, free = Fraction(0), Fraction(0)
    for gap, quarters, patience in steps:
        now += Fraction(gap, 8)
        n, start = Fraction(quarters, 4), max(now, free)
        wait, mark = tested.reserve(START + float(now), float(n), patience / 8)
        assert wait == pytest.approx(float(start - now), abs=1e-7)
        assert (mark is not None) is (start - now <= Fraction(patience, 8))
        if mark is not None:
            free = start + n / 4
        assert tested.left(START + float(now)) == pytest.approx(float(1 - max(free - now, Fraction(0)) * 4), abs=1e-6)
