from typing import Any

import pytest

from holdfast.core.errors import CircuitOpen
from holdfast.resilience.breaker import Breaker
from holdfast.resilience.circuit import keys
from resilience.breaker_bench import Bench


def keyed(**options: Any) -> Bench:
    return Bench(**{"failure_rate": "off", "consecutive": 3, "per_key": True, **options})


def test_each_key_has_a_breaker_of_its_own() -> None:
    bench = keyed()
    bench.fail(3, key="a")
    assert bench.fail(2, key="b") == 2
    assert (bench.breaker.state_of("a"), bench.breaker.state_of("b")) == ("open", "closed")
    assert bench.succeed(key="a") == 0
    assert bench.succeed(key="b") == 1
    assert bench.breaker.state_of("never seen") == "closed"


def test_each_key_probes_on_its_own() -> None:
    bench = keyed()
    bench.fail(3, key="a")
    bench.clock.advance(2)
    bench.fail(3, key="b")
    bench.clock.advance(3)
    assert bench.succeed(3, key="a") == 3
    assert bench.succeed(key="b") == 0
    assert (bench.breaker.state_of("a"), bench.breaker.state_of("b")) == ("closed", "open")


def test_calls_without_a_key_have_one_in_common() -> None:
    bench = keyed()
    bench.fail(3)
    assert bench.breaker.state_of(None) == "open"
    assert bench.succeed(key="a") == 1


def test_the_duration_of_calls_counts_for_each_key() -> None:
    bench = keyed(slow_call=1.0, slow_rate=1.0, min_calls=3, consecutive=None, window=60.0)
    bench.succeed(3, seconds=2, key="a")
    bench.succeed(3, seconds=0.5, key="b")
    assert (bench.breaker.state_of("a"), bench.breaker.state_of("b")) == ("open", "closed")


def test_changes_tell_whose_they_are() -> None:
    bench = keyed()
    bench.fail(3, key=("host", 80))
    bench.breaker.reset(key=("host", 80))
    assert [(change.key, change.new) for change in bench.changes] == [(("host", 80), "open"), (("host", 80), "closed")]
    plain = Bench("off", consecutive=3)
    plain.fail(3, key="a")
    assert [change.key for change in plain.changes] == [None]


def test_orders_are_for_one_key_or_for_all_that_are_known() -> None:
    bench = keyed()
    bench.succeed(key="a")
    bench.succeed(key="b")
    bench.breaker.force_open(key="new")
    assert [bench.breaker.state_of(key) for key in ("a", "b", "new")] == ["closed", "closed", "forced_open"]
    bench.breaker.trip()
    assert [bench.breaker.state_of(key) for key in ("a", "b", "new")] == ["open", "open", "open"]
    assert bench.succeed(key="later") == 1
    bench.breaker.reset(key="a")
    assert bench.succeed(key="a") == 1
    assert bench.succeed(key="b") == 0


def test_there_are_never_more_keys_than_the_limit() -> None:
    bench = keyed(keys=10)
    for number in range(1000):
        bench.succeed(key=number)
    seen = bench.breaker.snapshot()
    assert (seen["keys"], seen["forgotten"], seen["states"]) == (10, 990, {"closed": 10})


def test_a_key_that_is_in_use_is_not_forgotten() -> None:
    bench = keyed(keys=10)
    bench.fail(2, key="busy")
    for number in range(100):
        bench.ignore()
        bench.pipeline.bind(key="busy").guard().__enter__()
        bench.succeed(key=number)
    bench.fail(1, key="busy")
    assert bench.breaker.state_of("busy") == "open"


def test_an_open_key_is_kept_while_there_are_closed_ones_to_forget() -> None:
    bench = keyed(keys=10)
    bench.fail(3, key="broken")
    for number in range(100):
        bench.succeed(key=number)
    assert bench.breaker.state_of("broken") == "open"


def test_when_all_keys_are_open_one_of_them_makes_way() -> None:
    limit = keys.TRIES * 2
    bench = keyed(keys=limit)
    for number in range(limit + 5):
        bench.fail(3, key=number)
    seen = bench.breaker.snapshot()
    assert (seen["keys"], seen["states"], seen["opened"]) == (limit, {"open": limit}, limit + 5)
    assert len(seen["unwell"]) == keys.SHOWN


def test_a_snapshot_shows_the_keys_that_are_unwell() -> None:
    bench = keyed()
    bench.succeed(key="fine")
    bench.fail(3, key="broken")
    bench.clock.advance(1)
    seen = bench.breaker.snapshot()
    assert seen["states"] == {"closed": 1, "open": 1}
    assert list(seen["unwell"]) == ["broken"]
    assert (seen["unwell"]["broken"]["reason"], seen["unwell"]["broken"]["retry_after"]) == (
        "3 calls in a row failed",
        4.0,
    )


def test_a_call_whose_key_was_forgotten_ends_without_a_trace() -> None:
    bench = keyed(keys=1)
    guard = bench.pipeline.guard(key="a")
    guard.__enter__()
    for key in "bcd":
        bench.succeed(key=key)
    guard.failed()
    guard.__exit__(None, None, None)
    assert bench.breaker.snapshot()["keys"] == 1
    assert bench.breaker.state_of("a") == "closed"


def test_new_settings_hold_for_every_key() -> None:
    bench = keyed(keys=10)
    for number in range(10):
        bench.fail(1, key=number)
    bench.breaker.update(consecutive=2, keys=4)
    assert bench.breaker.snapshot()["keys"] == 4
    bench.fail(1, key=9)
    assert bench.breaker.state_of(9) == "open"
    bench.fail(2, key="new")
    assert bench.breaker.state_of("new") == "open"


def test_an_open_breaker_that_begins_to_tell_keys_apart_is_closed_for_each() -> None:
    bench = Bench("off", consecutive=3)
    bench.fail(3)
    bench.breaker.update(per_key=True)
    assert bench.succeed(key="a") == 1
    bench.breaker.update(per_key=False)
    assert bench.succeed(key="a") == 0


def test_observing_it_refuses_no_key() -> None:
    bench = keyed(observe=True)
    assert bench.fail(5, key="a") == 5
    assert bench.breaker.state_of("a") == "open"
    seen = bench.breaker.snapshot()
    assert (seen["observed"], seen["refused"], seen["opened"]) == (2, 0, 1)


def test_a_key_that_was_in_use_long_ago_is_forgotten() -> None:
    bench = keyed(keys=4)
    bench.fail(2, key="a")
    for number in range(10):
        bench.succeed(key=number)
    bench.fail(1, key="a")
    assert bench.breaker.state_of("a") == "closed"


def test_it_may_tell_keys_apart_from_now_on_or_no_more() -> None:
    bench = Bench("off", consecutive=3)
    bench.fail(2, key="a")
    bench.breaker.update(per_key=True)
    bench.fail(1, key="a")
    assert bench.breaker.state_of("a") == "closed"
    bench.fail(2, key="a")
    assert bench.breaker.state_of("a") == "open"
    bench.breaker.update(per_key=False)
    assert bench.succeed(key="a") == 1


def test_a_refusal_for_a_key_is_quick_to_tell_why() -> None:
    bench = keyed()
    bench.fail(3, key="a")
    error = bench.refusal("a")
    assert (error.reason, error.retry_after) == ("3 calls in a row failed", 5.0)
    assert error.snapshot["state"] == "open"
    bench.breaker.force_open("maintenance", key="a")
    assert (bench.refusal("a").reason, bench.refusal("a").retry_after) == ("maintenance", None)


def test_the_state_of_a_breaker_for_each_key_is_asked_by_key() -> None:
    breaker = Breaker(per_key=True)
    with pytest.raises(TypeError, match="state_of"):
        _ = breaker.state
    assert breaker.state_of("a") == "closed"


def test_one_probe_too_many_is_refused_for_a_key() -> None:
    bench = keyed(probes=2)
    bench.fail(3, key="a")
    bench.clock.advance(5)
    caller = bench.pipeline.bind(key="a")
    with caller.guard(), caller.guard(), pytest.raises(CircuitOpen, match="2 probes are under way"):
        caller.call(str)
    assert bench.breaker.state_of("a") == "closed"


def test_probes_that_have_ended_count_among_those_of_a_key() -> None:
    bench = keyed(failure_rate=0.5, probes=3)
    bench.fail(3, key="a")
    bench.clock.advance(5)
    bench.succeed(key="a")
    caller = bench.pipeline.bind(key="a")
    with caller.guard(), caller.guard():
        assert bench.succeed(key="a") == 0
    assert bench.breaker.state_of("a") == "closed"
