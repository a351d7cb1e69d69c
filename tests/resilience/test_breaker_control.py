"""What people do to a breaker: orders, other settings, listening, only observing."""

import asyncio
import threading
from itertools import pairwise
from math import inf, nan
from typing import Any

import pytest

from holdfast.core.errors import CircuitOpen, ConfigError
from holdfast.core.event import Event
from holdfast.core.policy import CallRefused
from holdfast.resilience.breaker import BreakerChanged
from holdfast.resilience.circuit.announcer import WAITING_LIMIT
from resilience.breaker_bench import Bench


def test_forced_open_it_refuses_until_it_is_reset() -> None:
    bench = Bench()
    bench.breaker.force_open("payments are moving house")
    bench.clock.advance(1e6)
    error = bench.refusal()
    assert (error.reason, error.retry_after) == ("payments are moving house", None)
    assert error.snapshot["state"] == "forced_open"
    bench.breaker.reset()
    assert bench.succeed() == 1


def test_it_is_tripped_for_as_long_as_it_is_told_as_a_number_or_as_text() -> None:
    for seconds in (90, "1m30s"):
        bench = Bench()
        bench.breaker.trip("maintenance", seconds=seconds)
        assert bench.refusal().retry_after == 90.0


@pytest.mark.parametrize("wrong", [nan, inf, -1, "-1s", "soon", "", True, []])
def test_an_order_to_open_for_what_is_no_time_is_refused_and_changes_nothing(wrong: Any) -> None:
    bench = Bench()
    before = bench.breaker.snapshot()
    with pytest.raises(ConfigError) as caught:
        bench.breaker.trip("maintenance", seconds=wrong)
    assert str(caught.value) == (
        f"Breaker.trip seconds: got {wrong!r}, expected a duration such as 500ms or 1m30s; for ever is force_open()"
    )
    assert (bench.breaker.snapshot(), bench.succeed()) == (before, 1)


def test_disabled_it_lets_everything_pass_and_counts_nothing() -> None:
    bench = Bench("off", consecutive=1, slow_call=1.0)
    bench.breaker.disable()
    assert bench.fail(50, seconds=2) == 50
    assert bench.succeed(50, seconds=2) == 50
    seen = bench.breaker.snapshot()
    assert (seen["state"], seen["calls"], seen["late"]) == ("disabled", 0, 0)
    bench.breaker.reset()
    bench.fail()
    assert bench.breaker.state == "open"


def test_tripped_it_opens_as_if_a_rule_had() -> None:
    bench = Bench()
    bench.breaker.trip("health check failed", seconds=30)
    error = bench.refusal()
    assert (error.reason, error.retry_after) == ("health check failed", 30.0)
    bench.clock.advance(30)
    bench.succeed(2)
    assert bench.breaker.state == "closed"


def test_tripped_again_it_stays_open_longer_but_does_not_grow() -> None:
    bench = Bench()
    for _ in range(5):
        bench.breaker.trip()
        bench.clock.advance(4)
    assert bench.refusal().retry_after == 1.0
    assert bench.breaker.snapshot()["open_for"] == 5.0


def test_a_reset_forgets_everything_and_ends_the_growth() -> None:
    bench = Bench()
    bench.half_open()
    bench.fail(2)
    assert bench.breaker.snapshot()["open_for"] == 7.5
    bench.breaker.reset()
    assert bench.breaker.snapshot()["calls"] == 0
    bench.open()
    assert bench.breaker.snapshot()["open_for"] == 5.0


@pytest.mark.parametrize("order", ["force_open", "disable", "trip", "reset"])
def test_an_order_for_one_key_needs_a_breaker_for_each(order: str) -> None:
    bench = Bench()
    with pytest.raises(TypeError, match="no breaker for each key"):
        getattr(bench.breaker, order)(key="host")
    assert bench.breaker.state == "closed"


def test_listeners_hear_of_every_change_in_order() -> None:
    bench = Bench(name="inventory")
    bench.half_open()
    bench.fail(2)
    bench.clock.advance(7.5)
    bench.succeed(2)
    bench.breaker.force_open()
    bench.breaker.disable()
    bench.breaker.reset()
    bench.breaker.reset()
    assert [(change.old, change.new, change.reason) for change in bench.changes] == [
        ("closed", "open", "20 of 20 calls failed in 10 s"),
        ("open", "half_open", "5 s have passed"),
        ("half_open", "open", "2 of 3 probes failed"),
        ("open", "half_open", "7.5 s have passed"),
        ("half_open", "closed", "2 of 2 probes went well"),
        ("closed", "forced_open", "forced open"),
        ("forced_open", "disabled", "disabled"),
        ("disabled", "closed", "reset"),
    ]
    first = bench.changes[0]
    assert (first.policy, first.at, first.key) == ("inventory", 1_700_001_000.0, None)
    assert (first.snapshot["calls"], first.snapshot["failed"]) == (20, 20)


def test_a_listener_may_give_orders_itself() -> None:
    """No lock is held while it runs, and what it causes is told after what it was told."""
    bench = Bench()
    told: list[Event] = []

    def close_again(event: Event) -> None:
        if isinstance(event, BreakerChanged) and event.new == "open" and not bench.breaker.lock.locked():
            bench.breaker.reset()

    bench.breaker.listeners.subscribe(close_again)
    bench.breaker.listeners.subscribe(told.append)
    bench.fail(20)
    assert bench.breaker.state == "closed"
    assert [event.new for event in told if isinstance(event, BreakerChanged)] == ["open", "closed"]


def test_a_listener_that_fails_harms_nobody() -> None:
    bench = Bench()

    def fail(event: Event) -> None:
        raise RuntimeError(event)

    bench.breaker.listeners.subscribe(fail)
    bench.open()
    assert bench.refusal().reason == "20 of 20 calls failed in 10 s"
    assert [change.new for change in bench.changes] == ["open"]


def test_a_listener_that_is_interrupted_lets_the_interruption_out_and_the_next_change_is_told() -> None:
    bench = Bench()
    interrupt = True

    def stop(event: Event) -> None:
        if interrupt:
            raise KeyboardInterrupt

    bench.breaker.listeners.subscribe(stop)
    with pytest.raises(KeyboardInterrupt):
        bench.breaker.force_open()
    interrupt = False
    bench.breaker.reset()
    assert [change.new for change in bench.changes] == ["forced_open", "closed"]


@pytest.mark.usefixtures("switching_often")
def test_changes_by_many_threads_are_told_in_the_order_in_which_they_were_made() -> None:
    bench = Bench()

    def give_orders() -> None:
        for _ in range(WAITING_LIMIT // 16):
            bench.breaker.trip()
            bench.breaker.reset()

    threads = [threading.Thread(target=give_orders) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    states = [(change.old, change.new) for change in bench.changes]
    assert all(before[1] == after[0] for before, after in pairwise(states))
    assert states[-1][1] == "closed"


def test_of_more_changes_than_a_slow_listener_can_take_the_oldest_are_forgotten() -> None:
    bench = Bench()
    told: list[str] = []

    def slow(event: Event) -> None:
        if isinstance(event, BreakerChanged):
            told.append(event.reason)
            if event.reason == "first":
                for number in range(WAITING_LIMIT):  # what other threads might do meanwhile
                    bench.breaker.trip(f"trip {number}")
                    bench.breaker.reset(f"reset {number}")

    bench.breaker.listeners.subscribe(slow)
    bench.breaker.trip("first")
    bench.breaker.disable("last")
    assert told[0] == "first"
    assert told[1] == f"trip {WAITING_LIMIT // 2}"
    assert told[-1] == "last"


def test_refusals_are_told_to_listeners_too() -> None:
    bench = Bench()
    told: list[Event] = []
    bench.breaker.listeners.subscribe(told.append)
    bench.open()
    bench.refusal()
    (refused,) = [event for event in told if isinstance(event, CallRefused)]
    assert (refused.policy, refused.kind, refused.operation, refused.observed) == ("breaker", "breaker", "stock", False)


def test_observing_it_refuses_nothing_and_goes_through_all_states_in_name() -> None:
    bench = Bench(observe=True)
    bench.open()
    assert bench.fail(7) == 7
    seen = bench.breaker.snapshot()
    assert (seen["observed"], seen["refused"], seen["calls"]) == (7, 0, 20)
    bench.clock.advance(5)
    assert bench.fail(2) == 2  # as probes
    assert bench.breaker.snapshot()["open_for"] == 7.5
    assert bench.succeed(50) == 50  # would have been refused, so they close nothing
    assert bench.breaker.state == "open"
    bench.clock.advance(7.5)
    bench.succeed(2)
    assert bench.breaker.state == "closed"
    assert (bench.breaker.snapshot()["observed"], bench.breaker.snapshot()["late"]) == (57, 0)


def test_observing_it_goes_by_the_outcome_of_the_calls_it_would_have_admitted() -> None:
    bench = Bench(observe=True)
    bench.half_open()

    async def main() -> None:
        probes = [asyncio.create_task(bench.pipeline.acall(asyncio.sleep, 1)) for _ in range(3)]
        await asyncio.sleep(0)
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                await bench.pipeline.acall(broken)
        assert bench.breaker.snapshot()["observed"] == 5
        await asyncio.gather(*probes)

    async def broken() -> float:
        return 1 / 0

    bench.clock.run(main())
    assert bench.breaker.state == "closed"


def test_new_values_keep_the_state_and_what_the_window_holds() -> None:
    bench = Bench()
    bench.fail(10)
    bench.breaker.update(min_calls=11)
    assert bench.breaker.state == "closed"
    bench.fail()
    assert bench.breaker.state == "open"
    bench.breaker.update(open=1.0)
    assert bench.refusal().retry_after == 5.0


def test_the_next_call_is_judged_by_new_values_whatever_it_is() -> None:
    bench = Bench()
    bench.succeed(16)
    bench.fail(4)
    bench.breaker.update(failure_rate=0.1)
    bench.succeed()
    assert bench.breaker.state == "open"
    assert bench.refusal().reason == "4 of 21 calls failed in 10 s"


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({}, {"window": 60.0}),
        ({}, {"buckets": 4}),
        ({"last": 50}, {"last": 30}),
        ({"last": 50}, {"last": 500}),
        ({}, {"slow_call": 1.0}),
        ({"slow_call": 1.0}, {"slow_call": None}),
        ({}, {"observe": True}),
        ({}, {"name": "other"}),
    ],
)
def test_calls_under_way_count_when_settings_change(options: dict[str, Any], changes: dict[str, Any]) -> None:
    bench = Bench(**options)
    bench.fail(3)
    with bench.pipeline.guard() as guard:
        bench.breaker.update(**changes)
        guard.failed()
    bench.succeed()
    seen = bench.breaker.snapshot()
    assert (seen["calls"], seen["failed"], seen["late"]) == (5, 4, 0)


def test_a_window_of_another_size_holds_as_much_as_it_says() -> None:
    bench = Bench()
    bench.fail(3)
    bench.breaker.update(window=60.0, buckets=6)
    bench.clock.advance(40)
    assert bench.breaker.snapshot()["calls"] == 3
    counted = Bench(last=50)
    counted.fail(10)
    counted.breaker.update(last=4, min_calls=4, failure_rate=1.0)
    counted.succeed()
    assert counted.breaker.snapshot()["failed"] == 3


@pytest.mark.parametrize(("options", "changes"), [({}, {"last": 50}), ({"last": 50}, {"last": None})])
def test_a_window_of_another_kind_begins_empty(options: dict[str, Any], changes: dict[str, Any]) -> None:
    bench = Bench(**options)
    bench.fail(3)
    with bench.pipeline.guard() as guard:
        bench.breaker.update(**changes)
        guard.failed()
    bench.succeed()
    seen = bench.breaker.snapshot()
    assert (seen["calls"], seen["failed"], seen["late"]) == (1, 0, 1)


def test_a_new_limit_for_slow_calls_holds_for_functions_that_were_decorated_before() -> None:
    bench = Bench("off", consecutive=99)

    @bench.pipeline
    def slow() -> None:
        bench.clock.advance(2)

    slow()
    bench.breaker.update(slow_call=1.0, window=100.0)
    slow()
    assert bench.breaker.snapshot()["slow"] == 1
    bench.breaker.update(slow_call=None)
    slow()
    assert bench.breaker.snapshot()["slow"] == 1


def test_fewer_probes_hold_at_once() -> None:
    bench = Bench(probes=5)
    bench.half_open()
    guards = [bench.pipeline.guard() for _ in range(2)]
    for guard in guards:
        guard.__enter__()
    bench.breaker.update(probes=2)
    assert bench.succeed() == 0
    bench.breaker.update(probes=3)
    assert bench.ignore() == 1
    for guard in guards:
        guard.__exit__(None, None, None)
    assert bench.breaker.state == "closed"


def test_an_open_breaker_keeps_refusing_when_settings_change() -> None:
    bench = Bench()
    bench.open()
    bench.breaker.update(last=50, slow_call=1.0, name="other")
    with pytest.raises(CircuitOpen, match="other: 20 of 20 calls failed in 10 s; retry after 5 s"):
        bench.pipeline.call(lambda: None)
