import json
import pickle
import random
from typing import Any

import msgspec
import pytest

from holdfast.core.call import FAILED, OK, bare_call
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import CircuitOpen, ConfigError
from holdfast.core.event import Event
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.breaker import Breaker, BreakerChanged, BreakerSettings, BreakerState
from holdfast.resilience.catalog import CATALOG, build
from resilience.breaker_bench import Bench, Broken


def test_nothing_trips_before_there_are_enough_calls() -> None:
    bench = Bench()
    assert bench.fail(19) == 19
    assert bench.breaker.state == "closed"
    assert bench.breaker.snapshot()["failure_rate"] is None
    bench.fail()
    assert bench.breaker.state is BreakerState.OPEN


def test_it_opens_when_half_of_the_calls_fail_and_not_before() -> None:
    bench = Bench()
    bench.succeed(12)
    bench.fail(11)
    assert bench.breaker.state == "closed"
    assert bench.breaker.snapshot()["failure_rate"] == 11 / 23
    bench.fail()
    assert bench.breaker.state == "open"


def test_a_success_that_makes_the_calls_enough_may_open_it() -> None:
    bench = Bench(min_calls=5)
    bench.fail(3)
    bench.succeed(2)
    assert bench.breaker.state == "open"
    assert bench.refusal().reason == "3 of 5 calls failed in 10 s"


def test_a_success_after_old_ones_have_left_the_window_may_open_it() -> None:
    bench = Bench(min_calls=5)
    bench.succeed(10)
    bench.clock.advance(9)
    bench.fail(6)
    assert bench.breaker.state == "closed"
    bench.clock.advance(1)
    bench.succeed()
    assert bench.breaker.state == "open"
    assert bench.refusal().reason == "6 of 7 calls failed in 10 s"


def test_calls_leave_the_window_after_its_seconds() -> None:
    bench = Bench()
    bench.fail(19)
    bench.clock.advance(10)
    bench.fail(19)
    assert bench.breaker.state == "closed"
    assert bench.breaker.snapshot()["calls"] == 19


def test_a_refusal_says_why_it_opened_and_when_to_come_back() -> None:
    bench = Bench(name="inventory")
    bench.succeed(8)
    bench.fail(8)
    assert bench.breaker.state == "closed"
    bench = Bench(name="inventory")
    bench.succeed(8)
    bench.fail(12)
    bench.clock.advance(1.5)
    error = bench.refusal()
    assert (error.policy, error.reason, error.retry_after) == ("inventory", "12 of 20 calls failed in 10 s", 3.5)
    assert str(error) == "stock: inventory: 12 of 20 calls failed in 10 s; retry after 3.5 s"
    assert error.snapshot["failure_rate"] == 0.6
    assert (error.snapshot["calls"], error.snapshot["failed"], error.snapshot["open_for"]) == (20, 12, 5.0)


def test_refusals_share_one_snapshot_that_nobody_can_change() -> None:
    bench = Bench()
    bench.open()
    first, second = bench.refusal(), bench.refusal()
    assert first.snapshot is second.snapshot
    shared: Any = first.snapshot
    for method in ("update", "pop", "popitem", "clear", "setdefault", "__setitem__", "__delitem__", "__ior__"):
        with pytest.raises(TypeError, match="shared"):
            getattr(shared, method)("state")
    assert shared["state"] == "open"


def test_a_refusal_survives_pickling_and_its_snapshot_is_json() -> None:
    bench = Bench()
    bench.open()
    error = bench.refusal()
    copy = pickle.loads(pickle.dumps(error))
    assert copy.args == error.args
    assert msgspec.json.decode(msgspec.json.encode(error.snapshot)) == json.loads(json.dumps(error.snapshot))


def test_ignored_calls_count_nowhere() -> None:
    bench = Bench("off", consecutive=3)
    bench.fail(2)
    bench.ignore(50)
    assert bench.breaker.snapshot()["calls"] == 2
    bench.fail()
    assert bench.breaker.state == "open"
    assert bench.refusal().reason == "3 calls in a row failed"


def test_a_success_ends_a_row_of_failures() -> None:
    bench = Bench("off", consecutive=3)
    for _ in range(5):
        bench.fail(2)
        bench.succeed()
    assert bench.breaker.state == "closed"
    bench.fail(3)
    assert bench.breaker.state == "open"


def test_a_row_of_failures_has_no_window() -> None:
    bench = Bench(consecutive=3)
    for _ in range(3):
        assert bench.breaker.state == "closed"
        bench.fail()
        bench.clock.advance(3600)
    assert bench.breaker.state == "open"


def test_a_count_window_looks_back_on_the_last_calls_whenever_they_were() -> None:
    bench = Bench(last=10)
    for _ in range(9):
        bench.fail()
        bench.clock.advance(3600)
    assert bench.breaker.state == "closed"
    bench.succeed()
    assert bench.breaker.state == "open"
    assert bench.refusal().reason == "9 of the last 10 calls failed"


def test_in_a_count_window_fewer_calls_may_be_enough() -> None:
    bench = Bench(last=100, min_calls=4)
    bench.fail(4)
    assert bench.breaker.state == "open"


def test_a_call_is_slow_when_it_takes_longer_than_the_limit_and_not_when_it_takes_as_long() -> None:
    bench = Bench("off", slow_call=2.0, min_calls=4, window=60.0)
    bench.succeed(4, seconds=2.0)
    assert bench.breaker.snapshot()["slow"] == 0
    bench.succeed(3, seconds=2.25)
    bench.fail(1, seconds=0.5)
    assert bench.breaker.state == "closed"
    bench.fail(1, seconds=2.25)
    assert bench.breaker.snapshot()["slow_rate"] == 4 / 9
    bench.succeed(1, seconds=2.25)
    assert bench.breaker.state == "open"
    assert bench.refusal().reason == "5 of 10 calls took longer than 2 s in 60 s"


def test_a_quick_call_that_makes_the_calls_enough_may_open_it_for_slow_ones() -> None:
    bench = Bench("off", slow_call=2.0, min_calls=3, window=60.0)
    bench.succeed(2, seconds=3)
    bench.succeed()
    assert bench.breaker.state == "open"


def test_the_clock_is_not_read_at_the_end_of_a_success_unless_durations_count() -> None:
    assert not Breaker().timed
    assert not Breaker(last=10, consecutive=5).timed
    assert Breaker(slow_call=1.0).timed


def test_a_success_counts_in_the_bucket_that_is_current_as_far_as_is_known() -> None:
    bench = Bench(min_calls=2, failure_rate=0.6)
    bench.succeed(1, seconds=9.5)  # began at 1000, ended at 1009.5; known is only that it began
    bench.clock.advance(0.5)
    assert bench.breaker.snapshot()["calls"] == 0  # at 1010 the bucket of 1000 has left
    bench.fail()
    bench.succeed(1, seconds=9.5)  # began at 1010 in the bucket that the failure made known
    bench.fail()
    assert bench.breaker.snapshot()["calls"] == 3


def test_a_long_success_counts_however_long_ago_it_began() -> None:
    bench = Bench()
    call = bare_call(clock=bench.clock)
    token = bench.breaker.enter(call)
    bench.clock.advance(100)
    bench.fail()
    call.verdict = OK
    bench.breaker.exit(call, token)
    assert bench.breaker.snapshot()["calls"] == 2


def test_results_of_calls_that_began_before_the_last_change_are_dropped() -> None:
    bench = Bench()
    calls = [bare_call(clock=bench.clock) for _ in range(6)]
    tokens = [bench.breaker.enter(call) for call in calls]
    bench.half_open()
    for call, token in zip(calls[:2], tokens, strict=False):
        call.verdict = FAILED
        bench.breaker.exit(call, token)
    assert bench.succeed(2) == 2
    assert bench.breaker.state == "closed"
    for call, token in zip(calls[2:], tokens[2:], strict=True):
        call.verdict = OK
        bench.breaker.exit(call, token)
    seen = bench.breaker.snapshot()
    assert (seen["calls"], seen["late"]) == (0, 6)


def test_each_opening_lasts_longer_while_probes_fail_and_a_close_ends_that() -> None:
    bench = Bench()
    bench.open()
    lengths = []
    for _ in range(9):
        lengths.append(bench.breaker.snapshot()["open_for"])
        bench.clock.advance(lengths[-1])
        assert bench.fail(2) == 2
    assert lengths == [5.0, 7.5, 11.25, 16.875, 25.3125, 37.96875, 56.953125, 60.0, 60.0]
    bench.clock.advance(60)
    bench.succeed(2)
    assert bench.breaker.state == "closed"
    bench.open()
    assert bench.breaker.snapshot()["open_for"] == 5.0


def test_jitter_makes_openings_longer_and_is_the_same_for_the_same_seed() -> None:
    seed = 11
    chance = random.Random(seed)
    bench = Bench(jitter=0.5, open_growth=1.0, seed=seed)
    bench.open()
    for _ in range(5):
        length = bench.breaker.snapshot()["open_for"]
        assert length == 5.0 * (1 + 0.5 * chance.random())
        assert 5.0 <= length <= 7.5
        bench.clock.advance(length)
        bench.fail(2)


def test_a_thousand_openings_overflow_nothing() -> None:
    bench = Bench(open_growth=1e300, probes=1)
    bench.open()
    for _ in range(1000):
        bench.clock.advance(60)
        assert bench.fail() == 1
    assert bench.breaker.snapshot()["open_for"] == 60.0


def test_it_stays_open_to_the_last_moment() -> None:
    bench = Bench()
    bench.open()
    bench.clock.advance(4.999)
    assert bench.refusal().retry_after == pytest.approx(0.001)
    bench.clock.advance(0.0011)
    assert bench.succeed() == 1


def test_another_clock_that_is_far_behind_does_not_keep_it_open_for_ages() -> None:
    bench = Bench(start=1_000_000.0)
    bench.open()
    bench.pipeline.replace(bench.breaker, clock=(clock := VirtualClock(5.0)))
    assert bench.refusal().retry_after == 5.0
    clock.advance(5)
    assert bench.succeed(2) == 2


def test_a_guarded_block_counts_as_a_call() -> None:
    bench = Bench("off", consecutive=2)
    for _ in range(2):
        with pytest.raises(Broken), bench.pipeline.guard():
            raise Broken
    with pytest.raises(CircuitOpen), bench.pipeline.guard():
        raise AssertionError("it was admitted")


@pytest.mark.parametrize("options", [{}, {"slow_call": 1.0}, {"per_key": True}, {"slow_call": 1.0, "per_key": True}])
def test_a_guarded_block_is_judged_like_a_function(options: dict[str, Any]) -> None:
    bench = Bench(min_calls=4, **options)
    for _ in range(3):
        with bench.pipeline.guard(key="k"):
            bench.clock.advance(0.1)
    with bench.pipeline.guard(key="k") as guard:
        guard.failed()
    seen = bench.breaker.snapshot()
    assert options.get("per_key") or (seen["calls"], seen["failed"], seen["slow"]) == (4, 1, 0)
    assert bench.breaker.state_of("k") == "closed"
    for _ in range(2):
        with bench.pipeline.guard(key="k") as guard:
            guard.failed()
    assert bench.breaker.state_of("k") == "open"


@pytest.mark.parametrize("per_key", [False, True])
def test_a_guarded_block_that_takes_long_is_slow(per_key: bool) -> None:
    bench = Bench("off", slow_call=1.0, slow_rate=1.0, min_calls=3, window=60.0, per_key=per_key)
    for _ in range(3):
        with bench.pipeline.guard(key="k"):
            bench.clock.advance(2)
    assert bench.breaker.state_of("k") == "open"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"failure_rate": 0}, 'Breaker failure_rate: got 0, expected "off" or a number, more than 0, at most 1'),
        ({"failure_rate": 50}, "failure_rate: got 50"),
        ({"failure_rate": None}, 'failure_rate: expected "off" or a number'),
        ({"failure_rate": "off"}, "a rule that can open it: failure_rate, slow_call or consecutive; to switch a"),
        ({"open": 90}, "open_max: got 60s, expected at least open, which is 90s"),
        ({"window": 0}, "window: got 0, expected a duration"),
        ({"probes": 0}, "probes: got 0, expected a whole number, at least 1"),
        ({"last": 0}, "last: got 0"),
        ({"slow_call": "quick"}, "slow_call: got 'quick', expected a duration"),
        ({"jitter": 2}, "jitter: got 2"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Breaker(**options)


def test_every_setting_can_be_plain_data() -> None:
    catalog = CATALOG.adding(Breaker)
    table = {
        "failure_rate": "off",
        "window": "30s",
        "buckets": 15,
        "slow_call": "800ms",
        "slow_rate": 0.8,
        "consecutive": 5,
        "open": "2s",
        "open_growth": 2,
        "open_max": "1m",
        "half_open_timeout": "10s",
        "per_key": True,
    }
    pipeline = build("x", ["breaker", {"breaker": table}, {"breaker": 0.2}][1:2], catalog=catalog)
    (breaker,) = pipeline.policies
    assert isinstance(breaker.settings, BreakerSettings)
    assert (breaker.settings.window, breaker.settings.slow_call, breaker.settings.open_max) == (30.0, 0.8, 60.0)
    (breaker,) = build("x", [{"breaker": 0.2}], catalog=catalog).policies
    assert breaker.settings.failure_rate == 0.2
    assert Breaker(0.2).settings == breaker.settings


def test_nobody_listening_no_event_is_kept() -> None:
    clock = VirtualClock()
    breaker = Breaker("off", consecutive=1)
    Pipeline("x", breaker, clock=clock)
    for _ in range(50):
        breaker.trip()
        breaker.reset()
    heard: list[Event] = []
    breaker.listeners.subscribe(heard.append)
    breaker.trip("now")
    assert [(event.old, event.new, event.reason) for event in heard if isinstance(event, BreakerChanged)] == [
        ("closed", "open", "now")
    ]


def test_one_failure_is_not_called_a_row() -> None:
    breaker = Breaker(consecutive=1)
    with pytest.raises(ValueError, match="five"):
        breaker.call(int, "five")
    with pytest.raises(CircuitOpen, match="breaker: 1 call failed"):
        breaker.call(int, "5")
