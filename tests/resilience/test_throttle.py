import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from holdfast.core.call import FAILED, IGNORED, OK, bare_call
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import ConfigError, Overloaded
from holdfast.core.event import Event
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.catalog import CATALOG, build
from holdfast.resilience.throttle import Throttle, ThrottleBegan, ThrottleEnded, drop_probability
from resilience.breaker_bench import Broken
from resilience.loops import RunAsync
from resilience.throttle_bench import SEED, Bench


def test_nothing_is_refused_while_half_of_the_calls_are_accepted() -> None:
    bench = Bench(lot=0.0)
    bench.end(OK, 50)
    bench.end(FAILED, 50)
    assert bench.probability == 0
    assert all(bench.attempt() for _ in range(100))


@pytest.mark.parametrize(
    ("accepted", "failed", "k", "expected"),
    [
        (0, 100, 2.0, 100 / 101),
        (25, 75, 2.0, 50 / 101),
        (40, 60, 2.0, 20 / 101),
        (50, 50, 2.0, 0),
        (50, 50, 1.1, 45 / 101),
    ],
)
def test_the_probability_is_that_of_the_book(accepted: int, failed: int, k: float, expected: float) -> None:
    assert drop_probability(accepted + failed, accepted, k) == pytest.approx(expected)
    bench = Bench(lot=0.0, k=k, cap=1.0)
    if accepted:
        bench.end(OK, accepted)
    bench.end(FAILED, failed)
    assert bench.probability == pytest.approx(expected)
    bench.lot = expected - 1e-9
    assert bench.attempt() == (expected <= 0)
    bench = Bench(lot=0.0, k=k, cap=1.0)
    if accepted:
        bench.end(OK, accepted)
    bench.end(FAILED, failed)
    bench.lot = expected + 1e-9
    assert bench.attempt()


def test_refused_calls_count_as_requests() -> None:
    bench = Bench(lot=0.0, pass_every=60.0)
    bench.end(OK, 20)
    bench.end(FAILED, 40)
    assert bench.probability == pytest.approx(20 / 61)
    assert not bench.attempt()
    seen = bench.throttle.snapshot()
    assert (seen["requests"], seen["accepts"], seen["dropped"], seen["refused"]) == (61, 20, 1, 1)
    assert seen["probability"] == pytest.approx(21 / 62)


def test_ignored_calls_say_nothing() -> None:
    bench = Bench(lot=0.0)
    bench.end(IGNORED, 1000)
    assert bench.throttle.snapshot()["requests"] == 0
    assert bench.attempt()


def test_calls_under_way_are_no_reason_to_refuse_others() -> None:
    bench = Bench(lot=0.0)
    calls = [bare_call(clock=bench.clock) for _ in range(1000)]
    for call in calls:
        bench.throttle.enter(call)
    assert bench.throttle.snapshot()["requests"] == 0


def test_with_few_calls_nothing_is_refused() -> None:
    bench = Bench(lot=0.0)
    bench.end(FAILED, 18)
    assert bench.attempt()
    bench.end(FAILED, 1)
    assert not bench.attempt()


def test_a_success_may_be_the_call_that_was_missing() -> None:
    bench = Bench(lot=0.0)
    bench.end(FAILED, 19)
    bench.end(OK, 1)
    assert not bench.attempt()


def test_one_call_passes_when_none_has_for_a_second() -> None:
    bench = Bench(lot=0.0)
    bench.end(FAILED, 1000)
    passed = []
    for quarter in range(21):
        if any(bench.attempt(Broken) for _ in range(50)):
            passed.append(quarter / 4)
        bench.clock.advance(0.25)
    assert passed == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_it_never_refuses_more_than_the_cap() -> None:
    bench = Bench(cap=0.8, pass_every=1e6, min_calls=1)
    bench.end(FAILED, 100_000)
    assert bench.probability == 0.8
    refused = sum(not bench.attempt(Broken) for _ in range(5000))
    assert refused / 5000 == pytest.approx(0.8, abs=0.02)


def test_the_same_seed_refuses_the_same_calls() -> None:
    def refusals(seed: int) -> list[bool]:
        bench = Bench(seed=seed)
        bench.end(OK, 30)
        bench.end(FAILED, 100)
        return [bench.attempt() for _ in range(200)]

    assert refusals(1) == refusals(1)
    assert refusals(1) != refusals(2)


def test_calls_leave_after_the_window() -> None:
    bench = Bench(lot=0.0)
    bench.end(FAILED, 1000)
    assert not bench.attempt()
    bench.clock.advance(10)
    assert bench.attempt()
    assert bench.throttle.snapshot()["requests"] == 1


def test_successes_that_leave_the_window_are_missed_at_once() -> None:
    bench = Bench(lot=0.0)
    bench.end(OK, 100)
    bench.clock.advance(9)
    bench.end(FAILED, 100)
    assert bench.attempt()
    bench.clock.advance(1)
    assert not bench.attempt()


def test_a_dependency_that_is_well_again_gets_all_its_calls_back() -> None:
    """What is admitted is k times what was accepted in the last window, so it grows: from the cap's 5 % in 40 s."""
    bench = Bench()
    bench.end(FAILED, 2000)
    admitted = []
    for _ in range(60):
        admitted.append(sum(bench.attempt() for _ in range(100)))
        bench.clock.advance(1)
    assert admitted[0] <= 12
    assert admitted[-1] == 100
    assert sum(admitted[40:]) == 2000


def test_a_refusal_says_what_it_goes_by() -> None:
    bench = Bench(lot=0.0, name="inventory", pass_every=60.0)
    bench.end(OK, 10)
    bench.end(FAILED, 90)
    with pytest.raises(Overloaded) as caught:
        bench.pipeline.call(str)
    assert caught.value.policy == "inventory"
    assert caught.value.reason == "10 of 21 calls were accepted in 10 s"
    bench.clock.advance(1)
    with pytest.raises(Overloaded, match="inventory: 10 of 101 calls were accepted in 10 s"):
        bench.pipeline.call(str)


def test_observing_it_refuses_nothing_and_counts_as_if_it_had() -> None:
    bench = Bench(lot=0.0, observe=True, pass_every=60.0)
    bench.end(FAILED, 100)
    assert all(bench.attempt() for _ in range(50))
    seen = bench.throttle.snapshot()
    assert (seen["observed"], seen["refused"], seen["requests"], seen["accepts"]) == (50, 0, 150, 0)


def test_listeners_hear_when_it_begins_and_when_it_ends() -> None:
    bench = Bench(lot=0.0)
    told: list[Event] = []
    bench.throttle.listeners.subscribe(told.append)
    bench.end(OK, 10)
    bench.end(FAILED, 30)
    assert [(type(event), event.at) for event in told] == [(ThrottleBegan, 1_700_001_000.0)]
    began = told[0]
    assert isinstance(began, ThrottleBegan)
    assert (began.policy, began.requests, began.accepts) == ("throttle", 21, 10)
    bench.clock.advance(10)
    bench.attempt()
    assert [type(event) for event in told] == [ThrottleBegan, ThrottleEnded]


def test_it_ends_also_when_a_failure_is_what_the_new_bucket_begins_with() -> None:
    bench = Bench(lot=1.0)
    told: list[Event] = []
    bench.throttle.listeners.subscribe(told.append)
    guard = bench.throttle.guard()
    with guard:
        bench.end(FAILED, 40)
        assert bench.throttle.snapshot()["throttling"]
        bench.clock.advance(10)
        guard.failed()
    assert not bench.throttle.snapshot()["throttling"]
    assert [type(event) for event in told] == [ThrottleBegan, ThrottleEnded]


def test_it_tells_of_a_change_once_a_bucket_at_most() -> None:
    bench = Bench(lot=1.0)
    told: list[Event] = []
    bench.throttle.listeners.subscribe(told.append)
    bench.end(OK, 10)
    bench.end(FAILED, 10)
    for _ in range(50):
        bench.end(FAILED)
        bench.end(OK)
    assert [type(event) for event in told] == [ThrottleBegan]


def test_new_settings_hold_at_once_and_keep_what_was_counted() -> None:
    bench = Bench(lot=0.0)
    bench.end(OK, 50)
    bench.end(FAILED, 50)
    assert bench.attempt()
    bench.throttle.update(k=1.1)
    assert not bench.attempt()
    bench.throttle.update(k=2.0, window=30.0, buckets=3)
    assert bench.attempt()
    bench.clock.advance(19)
    assert bench.throttle.snapshot()["requests"] == 103
    bench.throttle.update(min_calls=1000, k=1.1)
    assert bench.attempt()


def test_calls_under_way_count_when_settings_change() -> None:
    bench = Bench()
    with bench.throttle.guard() as guard:
        bench.throttle.update(window=60.0)
        guard.failed()
    assert bench.throttle.snapshot()["requests"] == 1


def test_a_clock_that_is_set_back_does_not_shut_it() -> None:
    bench = Bench(lot=0.0, start=1_000_000.0)
    bench.end(FAILED, 1000)
    assert not bench.attempt()
    bench.pipeline.replace(bench.throttle, clock=(clock := VirtualClock(5.0)))
    assert bench.attempt(Broken)
    assert bench.throttle.snapshot()["requests"] == 1
    clock.advance(1)
    assert bench.attempt()


def test_cancelled_calls_change_nothing(run_async: RunAsync) -> None:
    async def main() -> None:
        throttle = Throttle(min_calls=1)
        pipeline = Pipeline("x", throttle)
        tasks = [asyncio.create_task(pipeline.acall(asyncio.sleep, 60)) for _ in range(50)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert throttle.snapshot()["requests"] == 0

    run_async(main())


@pytest.mark.usefixtures("switching_often")
@pytest.mark.parametrize("failing", [0.2, 0.7])
def test_fifty_threads_count_exactly(failing: float) -> None:
    throttle = Throttle(window=3600.0, seed=SEED)
    pipeline = Pipeline("x", throttle)
    start = threading.Barrier(50)

    def fail() -> None:
        raise Broken

    def work(number: int) -> tuple[int, int]:
        chance = random.Random(SEED + number)
        succeeded = failed = 0
        start.wait(20)
        for _ in range(200):
            bad = chance.random() < failing
            with suppress(Overloaded):
                try:
                    pipeline.call(fail if bad else str)
                except Broken:
                    failed += 1
                else:
                    succeeded += 1
        return succeeded, failed

    with ThreadPoolExecutor(50) as pool:
        counts = list(pool.map(work, range(50)))
    seen = throttle.snapshot()
    succeeded, failed = (sum(column) for column in zip(*counts, strict=True))
    assert seen["accepts"] == succeeded
    assert seen["dropped"] == seen["refused"] == 50 * 200 - succeeded - failed
    assert seen["requests"] == 50 * 200
    assert (seen["refused"] > 0) == (failing > 0.5)


def test_drawing_lots_is_one_step() -> None:
    from core.test_one_step import stores_after_a_switch

    assert stores_after_a_switch(Throttle._draw_lots) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0.5}, "Throttle k: got 0.5, expected a number, at least 1"),
        ({"k_min": 3}, "k_min: got 3.0, expected at most k, which is 2"),
        ({"cap": 1.5}, "cap: got 1.5, expected a number, at least 0, at most 1"),
        ({"pass_every": 0}, "pass_every: got 0"),
        ({"window": "long"}, "window: got 'long', expected a duration"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Throttle(**options)


def test_every_setting_can_be_plain_data() -> None:
    table = {"k": 1.5, "k_min": 1.1, "window": "10s", "buckets": 40, "min_calls": 5, "pass_every": "1s", "seed": 3}
    (throttle,) = build("x", [{"throttle": table}], catalog=CATALOG.adding(Throttle)).policies
    assert throttle.settings == Throttle(1.5, k_min=1.1, buckets=40, min_calls=5, seed=3).settings
