"""Scenarios that others publish as tests of their throttles. Names of the tests are theirs.

go-zero: ``core/breaker/googlebreaker_test.go``. Kratos aegis: ``circuitbreaker/sre/sre_test.go``.
"""

import random
from math import pi
from typing import Any

import pytest

from holdfast.core.call import FAILED, OK, bare_call
from resilience.breaker_bench import Broken
from resilience.throttle_bench import SEED, Bench


def go_zero(**options: Any) -> Bench:
    """``getGoogleBreaker``: ten buckets of 10 ms, K 5 falling to 1.1, nothing below five calls."""
    settings: dict[str, Any] = {"k": 5.0, "k_min": 1.1, "window": 0.1, "buckets": 10, "min_calls": 5, "cap": 1.0}
    return Bench(**{**settings, **options})


def test_go_zero_google_breaker_close() -> None:
    bench = go_zero()
    for successes in (80, 120):
        bench.end(OK, successes)
        assert bench.attempt()


def test_go_zero_google_breaker_open() -> None:
    bench = go_zero()
    bench.end(OK, 10)
    assert bench.attempt()
    for _ in range(10_000):
        bench.attempt(Broken)
    bench.clock.advance(0.02)
    assert not all(bench.attempt() for _ in range(5))


def test_go_zero_google_breaker_recover() -> None:
    """A hundred failures in each of ten buckets, then as many successes, all of calls that were admitted before."""
    bench = go_zero(k=1.5, window=0.2, buckets=20)
    calls = [bare_call(clock=bench.clock) for _ in range(2000)]
    entered = [(call, bench.throttle.enter(call)) for call in calls]
    for number, (call, token) in enumerate(entered):
        call.now = bench.clock.now()
        call.verdict = FAILED if number < 1000 else OK
        bench.throttle.exit(call, token)
        if number % 100 == 99 and number < 1999:
            bench.clock.advance(0.01)
    assert bench.probability == pytest.approx((2000 - 1.5 * 1000) / 2001)
    assert any(bench.attempt() for _ in range(5))


def test_go_zero_google_breaker_self_protection() -> None:
    bench = go_zero(lot=0.0)
    bench.end(FAILED, 4)
    bench.clock.advance(0.01)
    assert bench.attempt()


def test_go_zero_google_breaker_more_falling_buckets() -> None:
    bench = go_zero()
    for _ in range(60):
        bench.attempt(Broken)
        bench.clock.advance(0.001)
    assert sum(not bench.attempt(Broken) for _ in range(100)) > 90


def test_go_zero_k_falls_from_one_and_a_half_to_one_and_a_tenth() -> None:
    """``accept``: w = k - (k - minK) * failingBuckets / buckets, with its 40 buckets in 10 s."""
    bench = Bench(k=1.5, k_min=1.1, buckets=40, lot=1.0, min_calls=5)
    seen = []
    for _ in range(50):
        bench.end(FAILED)
        seen.append(bench.throttle.snapshot()["k"])
        bench.clock.advance(0.25)
    assert seen == pytest.approx([1.5 - 0.4 * min(failing, 40) / 40 for failing in range(1, 51)])
    bench.end(OK)
    assert bench.throttle.snapshot()["k"] == 1.5


def aegis(**options: Any) -> Bench:
    """``getSREBreaker``: ten buckets of 100 ms, K 2, nothing below a hundred calls."""
    settings: dict[str, Any] = {"k": 2.0, "window": 1.0, "buckets": 10, "min_calls": 100, "cap": 1.0}
    return Bench(**{**settings, **options})


def test_aegis_sre_close_and_open() -> None:
    bench = aegis(lot=0.99)
    for successes in (80, 120):
        bench.end(OK, successes)
        assert bench.attempt()
    bench = aegis(lot=0.99)
    bench.end(OK, 100)
    assert bench.attempt()
    bench.end(FAILED, 30_000)
    assert not bench.attempt()


def test_aegis_sre_half_open() -> None:
    bench = aegis(lot=0.99)
    assert bench.attempt()
    bench.end(FAILED, 10_000)
    assert not bench.attempt()
    bench.clock.advance(2)
    assert bench.attempt()
    bench.end(OK, 10_000)
    assert bench.attempt()


def test_aegis_sre_self_protection() -> None:
    bench = aegis(lot=0.0)
    bench.end(FAILED, 99)
    assert bench.attempt()
    bench = aegis(lot=0.0)
    size = random.Random(SEED).randrange(10_000)
    bench.end(OK, size + 1)
    assert bench.attempt()


def test_aegis_k_is_the_reciprocal_of_the_success_it_asks_for() -> None:
    """``NewBreaker``: success 0.6 is K 1/0.6: with 60 accepted of 100 nothing is refused, with 59 there is."""
    for accepted, refuses in ((60, False), (59, True)):
        bench = aegis(lot=0.0, k=1 / 0.6)
        bench.end(OK, accepted)
        bench.end(FAILED, 100 - accepted)
        assert (bench.probability > 1e-9) == refuses


def test_aegis_true_on_proba() -> None:
    """pi/10 of 100,000 within 5 %; here of 20,000."""
    bench = Bench(cap=pi / 10, min_calls=1, pass_every=1e6)
    bench.end(FAILED, 100_000)
    refused = sum(not bench.attempt(Broken) for _ in range(20_000))
    assert refused / 20_000 == pytest.approx(pi / 10, rel=0.05)
