"""A limit for each key, tiers, and what happens when there are many keys."""

import gc
import random
import tracemalloc
from collections import Counter
from typing import Any

import psutil
import pytest

from holdfast.core.call import bare_call
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import RateLimited
from holdfast.core.event import Event
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.ratelimit import KeysCrowded, RateLimit
from holdfast.resilience.rates import ALGORITHMS, Terms, TokenBucket
from holdfast.resilience.rates.table import NEIGHBOURS, SWEEP_KEYS, SWEEP_SECONDS, Table
from resilience.rates.test_promises import arrivals, most_beyond

EVERY = pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
SEED = 17


def test_each_key_has_a_limit_of_its_own() -> None:
    clock = VirtualClock()
    limit = RateLimit("2/h", per="key")
    pipeline = Pipeline("x", limit, clock=clock)
    for key in ("anna", "bert", None):
        for _ in range(2):
            assert pipeline.bind(key=key).call(lambda: 7) == 7
        with pytest.raises(RateLimited):
            pipeline.bind(key=key).call(lambda: 7)
    assert limit.usage("anna")["remaining"] == limit.usage()["remaining"] == 0
    assert limit.usage("carl")["remaining"] == 2
    assert limit.snapshot()["keys"] == 2


def test_each_operation_can_have_one() -> None:
    clock = VirtualClock()
    limit = RateLimit("1/h", per="operation")
    for name in ("a", "b"):
        assert Pipeline(name, limit, clock=clock).call(lambda: 7) == 7
        with pytest.raises(RateLimited):
            Pipeline(name, limit, clock=clock).call(lambda: 7)


def test_a_key_is_any_function_of_the_call_asked_once_for_each() -> None:
    asked: list[Any] = []

    def user(call: Any) -> Any:
        asked.append(call.args[0])
        return call.args[0]

    clock = VirtualClock()
    pipeline = Pipeline("x", RateLimit("1/h", key=user), clock=clock)
    assert [pipeline.call(lambda name: name, name) for name in "ab"] == ["a", "b"]
    with pytest.raises(RateLimited):
        pipeline.call(lambda name: name, "a")
    assert asked == ["a", "b", "a"]


def test_what_the_function_raises_gets_out_and_takes_nothing() -> None:
    limit = RateLimit("1/h", key=lambda call: call.args[0])
    pipeline = Pipeline("x", limit, clock=VirtualClock())
    with pytest.raises(IndexError):
        pipeline.call(lambda: 7)
    with pytest.raises(TypeError, match="unhashable"):
        pipeline.call(lambda name: name, [])
    assert limit.snapshot()["keys"] == 0


@EVERY
def test_keys_do_not_touch_each_other(algorithm: Any) -> None:
    """An hour of ten users, each of them within his own bound."""
    clock = VirtualClock()
    limit = RateLimit("60/m", per="key", algorithm=algorithm, clock=clock, warm_up=2)
    chance = random.Random(SEED)
    uses: dict[int, list[tuple[float, float]]] = {user: [] for user in range(10)}
    for now in arrivals(chance, 20.0, 0.001):
        clock.move_to(now)
        user = min(int(chance.expovariate(0.5)), 9)
        if limit.try_acquire(key=user):
            uses[user].append((now, 1.0))
    bound = 1.0 if algorithm in ("leaky_bucket", "warm_up") else 60.0
    for user, own in uses.items():
        assert most_beyond(own, 1.0) <= bound + 1e-4, (user, SEED)
    assert len(uses[0]) > 2500


TIERS = {"free": {"rate": "5/s", "burst": 10}, "paid": {"rate": "50/s", "burst": 100}}


def tiered(**more: Any) -> tuple[RateLimit, Pipeline]:
    limit = RateLimit("1/s", tiers=TIERS, tier=lambda call: call.colour, **more)
    return limit, Pipeline("x", limit, clock=VirtualClock())


def passed(pipeline: Pipeline, tries: int, **fields: Any) -> int:
    count = 0
    for _ in range(tries):
        try:
            count += pipeline.bind(**fields).call(lambda: 1)
        except RateLimited:
            continue
    return count


def test_each_tier_has_its_rate_and_its_burst() -> None:
    limit, pipeline = tiered(per="key")
    for tier, burst in (("free", 10), ("paid", 100), ("unknown", 1), (None, 1), ("", 1)):
        assert passed(pipeline, 200, key=f"user of {tier}", colour=tier) == burst
        assert passed(pipeline, 200, colour=tier) == (burst if tier in TIERS else burst * (tier == "unknown"))
    with pytest.raises(RateLimited, match=r"more than 5/s, 10 at once for tier free"):
        pipeline.bind(key="user of free", colour="free").call(lambda: 1)
    assert limit.usage("user of paid", tier="paid")["limit"] == 100
    assert not limit.try_acquire(key="user of free", tier="free")
    assert limit.try_acquire(key="somebody else", tier="paid")


def test_tiers_go_without_keys_too() -> None:
    limit, pipeline = tiered()
    assert [passed(pipeline, 200, colour=tier) for tier in ("free", "paid", None)] == [10, 100, 1]
    assert limit.snapshot()["keys"] == 0


def test_a_tier_may_be_the_operation() -> None:
    limit = RateLimit("1/h", tiers={"search": "2/h", "export": "3/h"}, tier="operation")
    clock = VirtualClock()
    found = [passed(Pipeline(name, limit, clock=clock), 10) for name in ("search", "export", "other", "another")]
    assert found == [2, 3, 1, 0]


def test_who_pays_has_what_was_left_and_gets_the_new_rate() -> None:
    _, pipeline = tiered(per="key")
    assert passed(pipeline, 8, key="anna", colour="free") == 8
    assert passed(pipeline, 50, key="anna", colour="paid") == 2
    clock = pipeline.clock
    assert isinstance(clock, VirtualClock)
    clock.advance(1)
    assert passed(pipeline, 100, key="anna", colour="paid") == 50
    clock.advance(3600)  # idle: everything
    assert passed(pipeline, 200, key="anna", colour="free") == 10


@EVERY
def test_a_change_reaches_keys_when_they_are_used(algorithm: Any) -> None:
    clock = VirtualClock()
    limit = RateLimit("10/h", per="key", algorithm=algorithm, clock=clock)
    while limit.try_acquire(key="anna"):
        pass
    limit.update(rate="36000/h")
    assert limit.usage("anna")["limit"] == 36000
    clock.advance(3 * 3600)
    assert limit.try_acquire(key="anna")
    limit.update(algorithm="gcra", rate="1/h")
    assert limit.try_acquire(key="bert")
    assert not limit.try_acquire(key="bert")
    assert limit.usage("bert")["limit"] == 1


def test_a_tier_that_is_taken_away_leaves_its_users_to_the_rest() -> None:
    limit, pipeline = tiered(per="key")
    assert passed(pipeline, 20, key="anna", colour="free") == 10
    limit.update(tiers={"paid": "50/s"})
    assert passed(pipeline, 20, key="anna", colour="free") == 0
    assert passed(pipeline, 20, colour="free") == 1
    assert limit.usage("anna", tier="free")["limit"] == 1


def test_idle_keys_go_and_busy_ones_stay() -> None:
    clock = VirtualClock()
    limit = RateLimit("1/s", burst=5, clock=clock)
    for number in range(1000):
        assert limit.try_acquire(key=number)
    assert limit.try_acquire(4, key="busy")
    clock.advance(1.5)
    # New keys make idle ones go ...
    for number in range(1000, 1400):
        assert limit.try_acquire(key=number)
    assert limit.snapshot()["keys"] <= 1001 + 400 - 400 * NEIGHBOURS + 1
    assert not limit.try_acquire(4, key="busy")
    # ... and so does time, when only known ones come.
    for _ in range(5):
        clock.advance(SWEEP_SECONDS)
        limit.try_acquire(key="busy")
    assert limit.snapshot()["keys"] <= 2
    assert limit.snapshot()["evicted"] >= 1399


def test_to_be_forgotten_gains_nobody_anything() -> None:
    """Whatever happens to others, a key never gets more than the rate and its burst."""
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=3, max_keys=20, clock=clock)
    chance = random.Random(SEED)
    uses: list[tuple[float, float]] = []
    for number in range(30_000):
        clock.advance(chance.expovariate(300))
        limit.try_acquire(key=number)
        if number % 3 == 0 and limit.try_acquire(key="watched"):
            uses.append((clock.now(), 1.0))
    assert limit.snapshot()["evicted"] > 10_000
    assert most_beyond(uses, 10.0) <= 3.0 + 1e-4, SEED


def test_a_full_table_admits_nobody_without_counting() -> None:
    clock = VirtualClock()
    limit = RateLimit("10/h", burst=10, max_keys=50, clock=clock)
    heard: list[Event] = []
    limit.listeners.subscribe(heard.append)
    counts = Counter(number for _ in range(20) for number in range(200) if limit.try_acquire(key=number))
    # Fifty have ten each. All others share ten.
    assert sorted(counts[number] for number in range(50)) == [10] * 50
    assert sum(counts.values()) == 510
    assert limit.snapshot()["keys"] == 50
    assert limit.snapshot()["crowded"] > 2000
    crowded = [event for event in heard if isinstance(event, KeysCrowded)]
    assert crowded[0] == KeysCrowded(clock.wall(), "rate_limit", 50)
    # As soon as one is idle again, there is room.
    clock.advance(3600)
    assert limit.try_acquire(10, key="new")
    assert limit.snapshot()["keys"] <= 50


def test_a_smaller_table_lets_busy_keys_be() -> None:
    clock = VirtualClock()
    limit = RateLimit("1/h", clock=clock)
    for number in range(100):
        assert limit.try_acquire(key=number)
    limit.update(max_keys=10)
    assert not any(limit.try_acquire(key=number) for number in range(100))
    clock.advance(3601)
    for number in range(1000, 1100):
        limit.try_acquire(key=number)
    assert limit.snapshot()["keys"] <= 50


def test_keys_that_are_seen_once_do_not_grow_the_process() -> None:
    """300,000 here; ten million: python -m benchmarks.ratelimit_keys."""
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=5, max_keys=10_000, clock=clock)
    process = psutil.Process()
    largest = 0

    def see(first: int, last: int) -> None:
        nonlocal largest
        for number in range(first, last):
            clock.advance(0.00002)
            assert limit.try_acquire(key=f"user-{number}")
            if number % 1000 == 0:
                largest = max(largest, limit.snapshot()["keys"])

    see(0, 60_000)
    gc.collect()
    before = process.memory_info().rss
    see(60_000, 300_000)
    gc.collect()
    grown = process.memory_info().rss - before
    # Fifty thousand new ones a second are busy for a tenth of one each.
    assert largest <= 2.1 * 5_000
    assert limit.snapshot()["crowded"] <= limit.snapshot()["evicted"] / 100
    assert grown < 8 * 2**20


def test_a_key_takes_no_more_memory_than_is_said() -> None:
    tracemalloc.start()
    try:
        limit = RateLimit("1/h", per="key", max_keys=20_000, clock=VirtualClock())
        keys = list(range(10**6, 10**6 + 20_000))
        before, _ = tracemalloc.get_traced_memory()
        for key in keys:
            limit.try_acquire(key=key)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / 20_000 <= 300


def test_whoever_has_found_a_meter_that_is_then_forgotten_is_counted_by_its_successor() -> None:
    clock = VirtualClock()
    limit = RateLimit("1/h", burst=1, clock=clock)
    assert limit.try_acquire(key="anna")
    meter = limit._book.table.find("anna")
    assert meter is not None
    clock.advance(3600)
    limit._book.table.sweep(clock.now())
    assert limit._book.table.find("anna") is None
    assert not meter.take(clock.now(), 1)
    assert limit.try_acquire(key="anna")
    assert not limit.try_acquire(key="anna")


def test_a_reservation_outlives_its_meter() -> None:
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=10, clock=clock)
    forgotten, charged = limit.reserve(2, key="anna"), limit.reserve(2, key="bert")
    clock.advance(10)
    limit._book.table.sweep(clock.now())
    assert limit.snapshot()["keys"] == 0
    assert limit.refund(forgotten) == 0
    assert limit.settle(charged, 9) == -7
    assert limit.usage("bert")["remaining"] == 3


def test_the_table_looks_at_so_many_and_no_more() -> None:
    table = Table(10_000)
    terms = Terms(TokenBucket, 1.0, 1.0)
    for key in range(3000):
        meter = table.get_or_add(key, terms, 0.0)
        assert meter is not None
        meter.take(0.0, 1)
    table.sweep(100.0)
    assert (len(table), table.evicted, table.due) == (3000 - SWEEP_KEYS, SWEEP_KEYS, 100 + SWEEP_SECONDS)


def test_a_guard_goes_by_keys_too() -> None:
    clock = VirtualClock()
    pipeline = Pipeline("x", RateLimit("1/h", per="key"), clock=clock)
    for key in "ab":
        with pipeline.guard(key=key):
            pass
        with pytest.raises(RateLimited), pipeline.guard(key=key):
            raise AssertionError("not to be run")


def test_keys_wait_for_their_own_turn_only() -> None:
    clock = VirtualClock()
    limit = RateLimit("1/s", burst=1, per="key", max_wait=5)
    pipeline = Pipeline("x", limit, clock=clock)
    assert [pipeline.bind(key=key).call(clock.now) for key in "abab"] == pytest.approx([1000, 1000, 1001, 1001])


def test_an_unkeyed_entry_is_for_guards_of_any_kind() -> None:
    clock = VirtualClock()
    limit = RateLimit("1/h", per="key")
    limit.enter(bare_call("x", clock=clock, key="a"))
    with pytest.raises(RateLimited):
        limit.enter(bare_call("x", clock=clock, key="a"))
    limit.enter(bare_call("x", clock=clock, key="b"))
