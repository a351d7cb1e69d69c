import copy
import math
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.test_one_step import stores_after_a_switch
from holdfast.core.call import bare_call
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import RateLimited
from holdfast.core.event import Event
from holdfast.core.pipeline import Pipeline
from holdfast.core.policy import CallRefused
from holdfast.resilience.ratelimit import RateLimit, Reservation
from holdfast.resilience.rates import ALGORITHMS, Terms, TokenBucket
from resilience.rates.test_promises import HOUR, arrivals, most_beyond

EVERY = pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))


def made(
    *args: Any, clock: VirtualClock | None = None, **more: Any
) -> tuple[RateLimit, VirtualClock, Callable[[], int]]:
    """A limit, the clock that it goes by, and a function under it."""
    clock = clock or VirtualClock()
    limit = RateLimit(*args, **more)
    return limit, clock, Pipeline("x", limit, clock=clock)(lambda: 7)


def admitted(fn: Callable[[], int], tries: int) -> int:
    passed = 0
    for _ in range(tries):
        try:
            passed += fn() == 7
        except RateLimited:
            continue
    return passed


def test_the_burst_passes_at_once_and_then_the_rate() -> None:
    _, clock, fn = made("10/s", burst=3)
    assert admitted(fn, 10) == 3
    clock.advance(0.1)
    assert admitted(fn, 10) == 1
    clock.advance(100)
    assert admitted(fn, 10) == 3


@pytest.mark.parametrize(
    ("rate", "burst", "at_once", "each"),
    [("100/s", None, 100, 0.01), ("5/m", None, 5, 12), ("0.5/s", None, 1, 2), (4, None, 4, 0.25), ("1/10s", 2, 2, 10)],
)
def test_by_default_what_the_rate_allows_in_its_period_passes_at_once(
    rate: Any, burst: float | None, at_once: int, each: float
) -> None:
    _, clock, fn = made(rate, burst=burst)
    assert admitted(fn, 200) == at_once
    clock.advance(each)
    assert admitted(fn, 200) == 1


@EVERY
def test_a_refusal_says_why_when_to_come_back_and_what_is_left(algorithm: Any) -> None:
    _, clock, fn = made("2/s", algorithm=algorithm, name="api")
    admitted(fn, 2)
    with pytest.raises(RateLimited) as caught:
        fn()
    error = caught.value
    assert (error.policy, error.reason.startswith("more than 2/s")) == ("api", True)
    assert error.retry_after is not None
    assert error.retry_after > 0
    assert set(error.snapshot) == {"limit", "remaining", "reset", "period"}
    assert (error.snapshot["limit"], error.snapshot["remaining"], error.snapshot["period"]) == (2, 0, 1)
    assert error.snapshot["reset"] >= error.retry_after - 1e-6
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.snapshot) == (str(error), error.snapshot)
    clock.advance(error.retry_after)
    assert fn() == 7


@EVERY
def test_an_hour_of_calls_gets_no_more_than_was_promised(algorithm: Any) -> None:
    limit, clock, fn = made("10/s", algorithm=algorithm, warm_up=2)
    seed = 5
    uses = []
    for now in arrivals(random.Random(seed), 40.0, 0.0005):
        clock.move_to(now)
        try:
            fn()
        except RateLimited:
            continue
        uses.append((now, 1.0))
    bound = 1.0 if algorithm in ("leaky_bucket", "warm_up") else 10.0
    assert most_beyond(uses, 10.0) <= bound + 1e-4, seed
    assert len(uses) > 0.7 * 10 * HOUR
    assert limit.refused > 0.5 * len(uses)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.1, 1e4),
    st.floats(0, 50),
    st.lists(st.tuples(st.floats(-1, 3), st.floats(0, 60)), max_size=60),
)
def test_the_gate_and_the_plain_bucket_always_agree(
    rate: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    """The gate has the bucket's code written out."""
    limit = RateLimit(rate, burst=burst)
    plain = TokenBucket(Terms(TokenBucket, rate, burst, period=max(1.0, 1 / rate)))
    clock = VirtualClock(start=1e9)  # what a fresh reading says: never set back
    now = 1000.0
    for gap, cost in steps:
        now += gap
        call = bare_call("x", clock=clock, now=now, cost=cost)
        expected = plain.short(now, cost)[0]
        passes = plain.take(now, cost)
        try:
            limit.enter(call)
        except RateLimited as error:
            got: float | None = error.retry_after
            quota = error.snapshot
        else:
            got, quota = 0.0, {}
        assert (got == 0.0) is passes
        if quota:
            assert got == (None if expected == math.inf else pytest.approx(expected, rel=1e-6, abs=1e-8))
            assert quota == pytest.approx(plain.quota(now), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ["enter", "_queue"])
def test_the_short_ways_are_one_step(name: str) -> None:
    assert stores_after_a_switch(getattr(RateLimit, name)) == []
    assert stores_after_a_switch(Reservation.claim) == []


@EVERY
@pytest.mark.parametrize("cost", [-1.0, math.nan, math.inf])
def test_a_cost_that_makes_no_sense_is_refused_and_gives_nothing(algorithm: Any, cost: float) -> None:
    limit, clock, fn = made("5/s", algorithm=algorithm)
    admitted(fn, 5)
    before = limit.usage()
    pipeline = Pipeline("x", limit, clock=clock)
    for ask in (
        lambda: pipeline.bind(cost=cost).call(fn),
        lambda: limit.try_acquire(cost),
        lambda: limit.try_acquire(cost, key="user"),
        lambda: limit.acquire(cost),
        lambda: limit.reserve(cost),
    ):
        with pytest.raises(ValueError, match=r"a cost of .+ makes no sense; give 0 or more"):
            ask()
    assert limit.usage() == before


@pytest.mark.parametrize("algorithm", ["token_bucket", "gcra", "sliding_counter", "sliding_log"])
@pytest.mark.parametrize("more", [{}, {"max_wait": 60}])
def test_a_cost_above_the_limit_fails_at_once(algorithm: Any, more: dict[str, Any]) -> None:
    limit, clock, _ = made("5/s", algorithm=algorithm, **more)
    with pytest.raises(RateLimited, match=r"rate_limit: 5.5 at once is more than the limit of 5$") as caught:
        Pipeline("x", limit, clock=clock).bind(cost=5.5).call(lambda: 7)
    assert caught.value.retry_after is None
    assert limit.usage()["remaining"] == 5
    assert not limit.try_acquire(5.5)
    assert limit.try_acquire(5)


def test_a_burst_of_nothing_lets_nobody_pass() -> None:
    _, clock, fn = made("5/s", burst=0)
    clock.advance(100)
    assert admitted(fn, 3) == 0


@EVERY
@pytest.mark.parametrize("more", [{}, {"max_wait": 60}])
def test_observing_refuses_nobody_waits_for_nobody_and_counts(algorithm: Any, more: dict[str, Any]) -> None:
    limit, clock, fn = made("2/s", algorithm=algorithm, observe=True, **more)
    began = clock.now()
    assert admitted(fn, 400) == 400
    assert clock.now() == began
    assert limit.refused == 0
    assert limit.observed >= 400 - 2 * 61
    assert limit.try_acquire()
    assert limit.acquire(1, 0.0).delay == 0.0
    assert limit.reserve(1, 0.0).delay == 0.0
    assert limit.waiting == 0
    # What would have been refused has taken nothing.
    clock.advance(120)
    limit.update(observe=False, max_wait=0)
    assert admitted(fn, 1) == 1


def test_what_would_have_waited_takes_its_place_when_observed() -> None:
    limit, _, fn = made("1/s", burst=1, observe=True, max_wait=3)
    assert admitted(fn, 10) == 10
    assert limit.observed == 6
    assert limit.usage()["reset"] == pytest.approx(4)


@EVERY
def test_a_clock_that_is_set_back_gives_no_refill_and_closes_nothing(algorithm: Any) -> None:
    class Turning(VirtualClock):
        def turn(self, seconds: float) -> None:
            self._now += seconds

    clock = Turning(start=10_000.0)
    limit, _, fn = made("10/s", algorithm=algorithm, clock=clock, warm_up=1)
    while admitted(fn, 1):
        pass
    before = limit.usage()["reset"]
    clock.turn(-3600)
    assert admitted(fn, 5) == 0
    assert limit.usage()["reset"] == pytest.approx(before, abs=1e-6)
    clock.advance(1.5)
    assert 1 <= admitted(fn, 20) <= 10


def test_a_stamp_that_comes_late_is_no_clock_that_was_set_back() -> None:
    """golang/go issue 56287: alternating times would earn the time between them each time."""
    limit, clock, _ = made("10/s", burst=5)
    passed = 0
    clock.advance(1)
    for number in range(200):
        call = bare_call("x", clock=clock, now=clock.now() - (0.5 if number % 2 else 0.0))
        try:
            limit.enter(call)
            passed += 1
        except RateLimited:
            continue
    assert passed == 5


def test_a_refusal_is_told_to_listeners() -> None:
    limit, clock, fn = made("1/h")
    heard: list[Event] = []
    limit.listeners.subscribe(heard.append)
    admitted(fn, 3)
    limit.try_acquire()
    assert [type(event) for event in heard] == [CallRefused] * 3
    assert heard[0] == CallRefused(clock.wall(), "rate_limit", "rate_limit", "x", "more than 1/h, 1 at once", False)


def test_a_block_is_a_call() -> None:
    limit, clock, _ = made("10/s", burst=10)
    pipeline = Pipeline("x", limit, clock=clock)
    with pipeline.guard(cost=8):
        assert limit.usage()["remaining"] == 2
    with pytest.raises(RateLimited), pipeline.guard(cost=3):
        raise AssertionError("not to be run")


def test_a_failure_costs_as_much_as_a_success() -> None:
    limit, clock, _ = made("1/h", burst=2)

    def fail() -> None:
        raise OSError("down")

    for _ in range(2):
        with pytest.raises(OSError, match=r"^down$"):
            Pipeline("x", limit, clock=clock).call(fail)
    assert not limit.try_acquire()


def test_the_snapshot_tells_what_headers_need() -> None:
    limit, clock, fn = made("60/m", burst=20)
    admitted(fn, 5)
    clock.advance(1.5)
    snapshot = limit.snapshot()
    assert snapshot == {
        "refused": 0,
        "observed": 0,
        "algorithm": "token_bucket",
        "rate": "60/m",
        "limit": 20,
        "remaining": 16,
        "reset": pytest.approx(3.5),
        "period": 60,
        "waiting": 0,
        "waited": 0,
        "keys": 0,
        "evicted": 0,
        "crowded": 0,
    }


@EVERY
def test_tokens_are_kept_when_the_rate_changes(algorithm: Any) -> None:
    limit, clock, fn = made("1/h", algorithm=algorithm)
    assert admitted(fn, 3) == 1
    limit.update(rate="3600/h")
    assert admitted(fn, 1) == (1 if algorithm.startswith("sliding") else 0)
    clock.advance(3 * 3601)  # what is cold has taken three hours for the first one
    assert admitted(fn, 2) >= 1
    limit.update(rate="1/h")
    assert limit.usage()["period"] == 3600


@pytest.mark.parametrize("burst", [5, 20])
def test_tokens_are_kept_when_the_burst_changes(burst: int) -> None:
    limit, _, fn = made("1/h", burst=10)
    assert admitted(fn, 3) == 3
    limit.update(burst=burst)
    assert admitted(fn, 20) == min(7, burst)


@EVERY
def test_what_was_used_outlives_another_algorithm(algorithm: Any) -> None:
    limit, _, fn = made("10/h")
    assert admitted(fn, 20) == 10
    limit.update(algorithm=algorithm)
    assert admitted(fn, 20) == 0
    limit.update(algorithm="token_bucket")
    assert admitted(fn, 20) == 0


def test_a_change_that_is_none_changes_nothing() -> None:
    limit, clock, fn = made("10/h", tiers={"paid": "20/h"}, tier=lambda call: None)
    assert admitted(fn, 4) == 4
    clock.advance(100)
    before = limit.usage()
    limit.update(rate="10/h", name="other")
    assert limit.usage() == before
    assert limit.name == "other"


def test_amounts_are_settled_afterwards() -> None:
    limit, clock, _ = made("1000/m", burst=1000)
    del _
    limit.used_by(Pipeline("x", clock=clock))
    first, second, third = limit.acquire(600), limit.acquire(100), limit.acquire(300)
    assert not limit.try_acquire(1)
    assert limit.settle(first, 100) == pytest.approx(500)
    assert limit.refund(second) == pytest.approx(100)
    assert limit.settle(third, 500) == -200
    assert limit.usage()["remaining"] == 400
    # Each only once.
    assert limit.settle(first, 0) == limit.refund(second) == limit.cancel(third) == 0
    assert limit.usage()["remaining"] == 400
    with pytest.raises(ValueError, match="a cost of -1 makes no sense"):
        limit.settle(limit.acquire(1), -1)


def test_a_debt_delays_those_that_follow() -> None:
    limit, clock, fn = made("10/s", burst=10)
    taken = limit.acquire(1)
    assert limit.settle(taken, 40) == -39
    with pytest.raises(RateLimited) as caught:
        fn()
    assert caught.value.retry_after == pytest.approx(3.1)
    clock.advance(3.1)
    assert fn() == 7


def test_a_reservation_may_be_used_from_a_later_time_on() -> None:
    limit, clock, _ = made("10/s", burst=2)
    reservations = [limit.reserve() for _ in range(5)]
    assert [each.delay for each in reservations] == pytest.approx([0, 0, 0.1, 0.2, 0.3])
    assert [each.when - clock.now() for each in reservations] == pytest.approx([0, 0, 0.1, 0.2, 0.3])
    assert repr(reservations[2]) == "Reservation(cost=1, when=1000.1, delay=0.1, key=None)"
    with pytest.raises(RateLimited, match=r"its turn would come too late; retry after 0\.4 s"):
        limit.reserve(timeout=0.35)
    assert limit.cancel(reservations[4]) == 1
    assert limit.reserve(timeout=0.35).delay == pytest.approx(0.3)
    clock.advance(0.15)
    assert limit.cancel(reservations[2]) == 0  # its time has come


def test_a_limit_goes_by_the_clock_that_it_is_given_or_that_of_its_pipeline() -> None:
    given_clock, other = VirtualClock(start=5.0), VirtualClock(start=7.0)
    limit = RateLimit("1/s", clock=given_clock)
    Pipeline("x", limit, clock=other)
    assert limit.reserve().when == 5.0
    limit = RateLimit("1/s")
    Pipeline("x", limit, clock=other)
    assert limit.reserve().when == 7.0


def test_it_is_a_decorator_of_its_own() -> None:
    @RateLimit("2/h")
    def fn() -> int:
        return 7

    assert admitted(fn, 5) == 2


def test_settings_can_be_copied_and_compared() -> None:
    first, second = RateLimit("60/m").settings, RateLimit("1/s").settings
    assert copy.deepcopy(first) == first != second
