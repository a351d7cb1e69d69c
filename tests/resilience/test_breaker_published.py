"""Scenarios that others publish as tests of their breakers. Names of the tests are theirs.

resilience4j: ``CircuitBreakerStateMachineTest``, ``CircuitBreakerMetricsTest``. gobreaker v2: ``gobreaker_test.go``.
failsafe-go: ``halfopenstate_test.go``. Polly v8: ``CircuitStateControllerTests``.
"""

from typing import Any

import pytest

from holdfast.core.errors import CircuitOpen
from resilience.breaker_bench import Bench, Broken


def resilience4j(**options: Any) -> Bench:
    """The breaker of ``CircuitBreakerStateMachineTest.setUp``."""
    settings: dict[str, Any] = {
        "failure_rate": 0.5,
        "probes": 4,
        "slow_call": 4.0,
        "slow_rate": 0.5,
        "half_open_timeout": 1.0,
        "window": 20.0,
        "buckets": 20,
        "min_calls": 5,
        "open": 5.0,
        "open_growth": 1.0,
    }
    return Bench(**{**settings, **options})


def counts(bench: Bench) -> tuple[float | None, int, int, int, int]:
    """As ``assertCircuitBreakerMetricsEqualTo``: failure rate, successes, calls, failures, refusals."""
    seen = bench.breaker.snapshot()
    return seen["failure_rate"], seen["calls"] - seen["failed"], seen["calls"], seen["failed"], seen["refused"]


def probing(bench: Bench) -> None:
    """``transitionToOpenState`` and ``transitionToHalfOpenState``, which is the time's business here."""
    bench.breaker.trip()
    bench.clock.advance(5)
    bench.ignore()
    assert bench.breaker.state == "half_open"


def test_resilience4j_should_open_after_failure_rate_threshold_exceeded() -> None:
    bench = resilience4j()
    for failed in (1, 2, 3):
        bench.fail()
        assert counts(bench) == (None, 0, failed, failed, 0)
    bench.succeed()
    assert counts(bench) == (None, 1, 4, 3, 0)
    assert bench.breaker.state == "closed"
    bench.succeed()
    assert bench.breaker.state == "open"
    assert counts(bench) == (0.6, 2, 5, 3, 0)
    assert bench.succeed() == 0
    assert counts(bench) == (0.6, 2, 5, 3, 1)


def test_resilience4j_should_open_after_failure_rate_threshold_exceeded_2() -> None:
    bench = resilience4j()
    for succeeds in (True, True, True, False, False):
        if succeeds:
            bench.succeed()
        else:
            bench.fail()
        assert bench.breaker.state == "closed"
        bench.clock.advance(1)
    bench.fail()
    assert bench.breaker.state == "open"


def test_resilience4j_should_open_after_slow_call_rate_threshold_exceeded() -> None:
    bench = resilience4j(window=60.0)
    bench.fail(seconds=5)
    bench.succeed(seconds=5)
    bench.fail(seconds=0.1)
    bench.succeed(seconds=0.1)
    assert bench.breaker.state == "closed"
    bench.succeed(seconds=5)
    assert bench.breaker.state == "open"
    seen = bench.breaker.snapshot()
    assert (seen["calls"], seen["slow"], seen["slow_rate"]) == (5, 3, 0.6)


def test_resilience4j_should_only_permit_four_calls_in_half_open_state() -> None:
    bench = resilience4j()
    for _ in range(2):
        probing(bench)
        guards = [bench.pipeline.guard() for _ in range(4)]
        for guard in guards:
            guard.__enter__()
        assert bench.succeed(2) == 0
        for guard in guards:
            guard.__exit__(Broken, Broken(), None)
        assert bench.breaker.state == "open"
        bench.breaker.reset()


def test_resilience4j_should_increase_counter_on_release_permission() -> None:
    bench = resilience4j()
    probing(bench)
    guards = [bench.pipeline.guard() for _ in range(4)]
    for guard in guards:
        guard.__enter__()
    assert bench.succeed(2) == 0
    guards[0].__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert bench.ignore() == 1


def test_resilience4j_should_transition_to_half_open_after_wait_duration() -> None:
    bench = resilience4j()
    bench.breaker.trip()
    assert bench.succeed() == 0
    bench.clock.advance(3)
    assert bench.succeed() == 0
    assert counts(bench) == (None, 0, 0, 0, 2)
    bench.clock.advance(3)
    assert bench.ignore() == 1
    assert bench.breaker.state == "half_open"


def test_resilience4j_should_transition_to_half_open_after_passed_wait_until() -> None:
    bench = resilience4j()
    bench.breaker.trip(seconds=30 * 60)
    bench.clock.advance(15 * 60)
    assert bench.succeed() == 0
    bench.clock.advance(15 * 60 + 1)
    assert bench.ignore() == 1
    assert bench.breaker.state == "half_open"


def test_resilience4j_should_transition_to_half_open_after_wait_interval() -> None:
    """Its exponential back-off of 1.5: 5 s, then 7.5."""
    bench = resilience4j(open_growth=1.5)
    bench.breaker.trip()
    bench.clock.advance(6)
    bench.fail(2)
    assert bench.breaker.state == "open"
    bench.clock.advance(6)
    assert bench.succeed() == 0
    bench.clock.advance(5)
    assert bench.ignore() == 1


def test_resilience4j_should_transition_back_to_open_state_when_failure_rate_is_above_threshold() -> None:
    """There after four probes; here after two, since two more successes could not change it."""
    bench = resilience4j()
    probing(bench)
    bench.fail(2)
    assert bench.breaker.state == "open"


def test_resilience4j_should_transition_back_to_open_state_when_slow_call_rate_is_above_threshold() -> None:
    bench = resilience4j(half_open_timeout=60.0)
    probing(bench)
    bench.succeed(2, seconds=5)
    assert bench.breaker.state == "open"
    seen = bench.breaker.snapshot()
    assert (seen["slow"], seen["failure_rate"]) == (2, 0)


def test_resilience4j_should_transition_back_to_closed_state_when_failure_is_below_threshold() -> None:
    bench = resilience4j()
    probing(bench)
    bench.fail()
    bench.succeed(2)
    assert bench.breaker.state == "half_open"
    bench.succeed()
    assert bench.breaker.state == "closed"
    assert counts(bench) == (None, 0, 0, 0, 0)
    bench.succeed()
    assert counts(bench) == (None, 1, 1, 0, 0)


def test_resilience4j_should_release_permission_when_exception_ignored() -> None:
    bench = resilience4j()
    probing(bench)
    bench.succeed(2)
    assert counts(bench)[1:4] == (2, 2, 0)
    assert bench.ignore() == 1
    assert counts(bench)[1:4] == (2, 2, 0)
    bench.succeed()
    assert bench.breaker.state == "closed"


def test_resilience4j_should_ignore_exceptions_and_then_transition_to_closed() -> None:
    """Its issue 544: the last permitted call is ignored, and nothing is admitted any more."""
    bench = resilience4j()
    probing(bench)
    bench.ignore(20)
    bench.succeed(3)
    assert bench.breaker.state == "closed"


def test_resilience4j_should_reset_metrics() -> None:
    bench = resilience4j()
    bench.succeed()
    bench.fail()
    assert counts(bench) == (None, 1, 2, 1, 0)
    bench.breaker.reset()
    assert counts(bench) == (None, 0, 0, 0, 0)


def test_resilience4j_should_disable_circuit_breaker() -> None:
    bench = resilience4j()
    bench.breaker.disable()
    bench.succeed()
    assert bench.fail(5) == 5
    assert bench.breaker.state == "disabled"
    assert counts(bench) == (None, 0, 0, 0, 0)


def test_resilience4j_should_force_open_circuit_breaker() -> None:
    bench = resilience4j()
    bench.breaker.force_open()
    assert bench.succeed() == 0
    bench.clock.advance(6)
    assert bench.succeed() == 0
    assert bench.breaker.state == "forced_open"
    assert counts(bench) == (None, 0, 0, 0, 2)


def test_resilience4j_transitions_to_open_after_wait_duration_in_half_open_state() -> None:
    """There a timer does it; here the next call, and only if a probe is under way at all."""
    bench = resilience4j()
    probing(bench)
    for _ in range(4):
        bench.pipeline.guard().__enter__()
    bench.clock.advance(2)
    assert bench.succeed() == 0
    assert bench.breaker.state == "open"


def test_resilience4j_should_record_metrics_in_metrics_only_state() -> None:
    bench = resilience4j(observe=True)
    bench.fail(3)
    bench.succeed(2)
    assert counts(bench) == (0.6, 2, 5, 3, 0)
    assert bench.fail() == 1
    assert (bench.breaker.snapshot()["observed"], bench.breaker.snapshot()["refused"]) == (1, 0)


def test_resilience4j_publishes_no_change_into_the_same_state() -> None:
    bench = resilience4j()
    for order in (bench.breaker.trip, bench.breaker.trip, bench.breaker.disable, bench.breaker.disable):
        order()
    bench.breaker.reset()
    bench.breaker.reset()
    assert [(change.old, change.new) for change in bench.changes] == [
        ("closed", "open"),
        ("open", "disabled"),
        ("disabled", "closed"),
    ]


def test_resilience4j_circuit_breaker_metrics() -> None:
    bench = resilience4j(last=10, min_calls=10, failure_rate=0.6)
    bench.succeed(2)
    bench.fail(2)
    assert counts(bench) == (None, 2, 4, 2, 0)
    bench.fail(4)
    bench.succeed(1)
    assert bench.breaker.state == "closed"
    bench.succeed(1)
    assert counts(bench) == (0.6, 4, 10, 6, 0)
    assert bench.breaker.state == "open"
    above = resilience4j(last=10, min_calls=10, failure_rate=0.7)
    above.succeed(2)
    above.fail(6)
    above.succeed(4)
    assert counts(above) == (0.6, 4, 10, 6, 0)
    above.succeed(3)
    assert counts(above)[0] == 0.3


def test_gobreaker_custom_circuit_breaker() -> None:
    """``TestCustomCircuitBreaker``: 60 % of at least three requests, open for 90 s, three probes that all succeed."""
    bench = Bench(0.6, min_calls=3, open=90.0, open_max=90.0, window=30.0, buckets=1)
    for _ in range(5):
        bench.succeed()
        bench.fail()
        bench.ignore()
    assert counts(bench)[1:4] == (5, 10, 5)
    bench.clock.advance(30)
    bench.fail()
    assert bench.breaker.state == "closed"
    bench.succeed()
    bench.fail()
    assert bench.breaker.state == "open"
    bench.clock.advance(90)
    assert bench.ignore(4) == 4
    assert bench.breaker.state == "half_open"


def test_gobreaker_rolling_window_circuit_breaker() -> None:
    """``TestRollingWindowCircuitBreaker``, its end: it trips with 14 failures of 23, which is over 60 %."""
    bench = Bench(0.6, min_calls=3, window=30.0, buckets=10, start=3_000_000.0)
    for _ in range(9):
        bench.succeed()
    bench.fail(13)
    assert bench.breaker.state == "closed"
    bench.fail()
    assert bench.breaker.state == "open"
    assert bench.refusal().reason == "14 of 23 calls failed in 30 s"


def test_gobreaker_default_circuit_breaker() -> None:
    """``TestDefaultCircuitBreaker``: more than five failures in a row; one probe."""
    bench = Bench("off", consecutive=6, probes=1, open=60.0, open_growth=1.0)
    bench.fail(5)
    assert bench.breaker.state == "closed"
    bench.succeed()
    bench.fail(5)
    assert bench.breaker.state == "closed"
    bench.fail()
    assert bench.breaker.state == "open"
    bench.clock.advance(59)
    assert bench.succeed() == 0
    bench.clock.advance(1)
    assert bench.fail() == 1
    assert bench.breaker.state == "open"
    bench.clock.advance(60)
    assert bench.succeed() == 1
    assert bench.breaker.state == "closed"


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [("fsf", "open"), ("fss", "closed"), ("sff", "open"), ("ff", "open"), ("ss", "closed")],
)
def test_failsafe_go_half_open_failure_ratio_two_of_three(outcomes: str, state: str) -> None:
    bench = Bench(2 / 3, probes=3)
    bench.half_open()
    for outcome in outcomes:
        assert bench.breaker.state == "half_open"
        if outcome == "s":
            bench.succeed()
        else:
            bench.fail()
    assert bench.breaker.state == state


def test_polly_reports_a_late_failure_without_opening_again() -> None:
    """``OnActionFailureAsync_EnsureCorrectBehavior``: a failure that arrives while it is open extends nothing."""
    bench = Bench()
    late = bench.pipeline.guard()
    late.__enter__()
    bench.open()
    bench.clock.advance(2)
    late.__exit__(Broken, Broken(), None)
    assert bench.refusal().retry_after == 3.0
    assert bench.breaker.snapshot()["opened"] == 1


def test_polly_isolates_until_it_is_closed_by_hand() -> None:
    """``IsolateAsync_Ok``."""
    bench = Bench()
    bench.breaker.force_open("maintenance")
    bench.clock.advance(1e6)
    with pytest.raises(CircuitOpen, match=r"breaker: maintenance$"):
        bench.pipeline.call(lambda: None)
    bench.breaker.reset()
    assert bench.succeed() == 1
